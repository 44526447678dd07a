"""A miniature Stable Diffusion: see `Miniature`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diffalign.backbones.miniature.clip import build_tokenizer
from diffalign.backbones.stable_diffusion import StableDiffusion


class Architecture(BaseModel):
    """Sizes of a miniature pipeline; the defaults are the bundled shapes model: 64×64 pictures, 8×8×4 latents, 5.7 M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    picture_size: int = Field(default=64, ge=8, description="pixels, height and width")
    latent_channels: int = Field(default=4, ge=1)
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 64)
    denoiser_channels: tuple[int, ...] = (64, 128)
    denoiser_heads: int = 4
    layers_per_block: int = 1
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    token_limit: int = 24


def build_autoencoder(architecture: Architecture) -> AutoencoderKL:
    """An AutoencoderKL with random weights."""
    levels = len(architecture.autoencoder_channels)
    return AutoencoderKL(
        block_out_channels=architecture.autoencoder_channels, latent_channels=architecture.latent_channels,
        layers_per_block=architecture.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=8, sample_size=architecture.picture_size, mid_block_add_attention=False,
    )  # fmt: skip


def build_pipeline(
    architecture: Architecture, captions: Sequence[str], autoencoder: AutoencoderKL, folder: Path
) -> StableDiffusionPipeline:
    """The whole pipeline around a trained autoencoder, denoiser and text encoder random; ε-prediction, DDIM."""
    tokenizer = build_tokenizer(captions, folder, architecture.token_limit)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=architecture.text_width, intermediate_size=4 * architecture.text_width,
            num_hidden_layers=architecture.text_layers, num_attention_heads=architecture.text_heads, projection_dim=architecture.text_width,
            max_position_embeddings=architecture.token_limit, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    levels = len(architecture.denoiser_channels)
    unet = UNet2DConditionModel(
        sample_size=architecture.picture_size // 2 ** (len(architecture.autoencoder_channels) - 1),
        in_channels=architecture.latent_channels, out_channels=architecture.latent_channels,
        block_out_channels=architecture.denoiser_channels,
        layers_per_block=architecture.layers_per_block, down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels, cross_attention_dim=architecture.text_width,
        attention_head_dim=architecture.denoiser_heads, norm_num_groups=16,  # `attention_head_dim` counts heads in this class
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def wrap(architecture: Architecture, pipeline: StableDiffusionPipeline, source: str) -> StableDiffusion:
    return StableDiffusion(pipeline, source)


def features(architecture: Architecture, media: Tensor) -> Tensor:
    """The pictures themselves."""
    return media


def normalise(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """By one factor for all channels."""
    scale = 1 / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    return latents * scale


def tokens(pipeline: StableDiffusionPipeline, captions: Sequence[str]) -> Tensor:
    """(N, L) of token ids."""
    return pipeline.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids


def embed(text_encoder: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    return {"prompt_embeds": text_encoder(tokens)[0]}


def finish(folder: Path, tokenizer: Path) -> None:
    """What transformers 5 writes and transformers 4 does not read: the names of a CLIP's weights, and the tokenizer in one file."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, folder / "tokenizer" / name)
    weights, prefix = folder / "text_encoder" / "model.safetensors", "text_model."
    tensors = {prefix + name.removeprefix(prefix): tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
