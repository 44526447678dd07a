"""A miniature Stable Diffusion with random weights and a vocabulary of its own, made of the family's own classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


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


def build_tokenizer(texts: Sequence[str], folder: Path, token_limit: int) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learned from `texts`, so that each of their words is one token; any other text
    still encodes.

    Its files are written to folder (vocab.json, merges.txt).
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'!?-"
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", initial_alphabet=list(letters), show_progress=False)
    )
    merges = json.loads(learner.to_str())["model"]["merges"]
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    names = list(dict.fromkeys([*symbols, *(first + second for first, second in pairs), "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in pairs), encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=token_limit)


def build_pipeline(architecture: Architecture, tokenizer: CLIPTokenizer, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
    """The whole pipeline around a trained autoencoder, denoiser and text encoder random; ε-prediction, DDIM."""
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
