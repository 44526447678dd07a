"""A miniature Tango: see `Miniature`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from diffalign.backbones.mel import Mel
from diffalign.backbones.miniature.t5 import build_tokenizer, encoder_config, name_tokenizer, read_in_order
from diffalign.backbones.tango import Tango, TangoPipeline

SAMPLE_RATE_HZ = 16_000


class Architecture(BaseModel):
    """Sizes of a miniature pipeline; the defaults are the bundled tones model: 3.072 s at 16 kHz, 192×64 mel, latents 8×24×8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(default=49_152, ge=1, description="of a sound")
    hop: int = Field(default=256, ge=1, description="samples from one frame to the next")
    bins: int = Field(default=64, ge=8)
    latent_channels: int = 8
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 64)
    denoiser_channels: tuple[int, ...] = (64, 96, 96)
    denoiser_heads: int = 4
    layers_per_block: int = 1
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    token_limit: int = 24

    @property
    def mel(self) -> dict[str, int]:
        return {"hop": self.hop, "bins": self.bins}


def build_autoencoder(architecture: Architecture) -> AutoencoderKL:
    """An AutoencoderKL with random weights, of one channel."""
    levels = len(architecture.autoencoder_channels)
    return AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=architecture.autoencoder_channels,
        latent_channels=architecture.latent_channels, layers_per_block=architecture.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=8, sample_size=architecture.bins, mid_block_add_attention=False,
    )  # fmt: skip


def build_pipeline(architecture: Architecture, captions: Sequence[str], autoencoder: AutoencoderKL, folder: Path) -> TangoPipeline:
    """The whole pipeline around a trained autoencoder, denoiser and text encoder random; v-prediction, DDIM, Griffin–Lim."""
    tokenizer = build_tokenizer(captions, architecture.token_limit)
    config = encoder_config(architecture.text_width, architecture.text_layers, architecture.text_heads, len(tokenizer))
    levels = len(architecture.denoiser_channels)
    unet = UNet2DConditionModel(
        sample_size=architecture.bins // 2 ** (len(architecture.autoencoder_channels) - 1),
        in_channels=architecture.latent_channels, out_channels=architecture.latent_channels,
        block_out_channels=architecture.denoiser_channels, layers_per_block=architecture.layers_per_block,
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=architecture.text_width, attention_head_dim=architecture.denoiser_heads, norm_num_groups=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip
    text_encoder = T5EncoderModel(T5Config(**config))
    read_in_order(text_encoder)
    return TangoPipeline(
        vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        mel=architecture.mel, seconds=architecture.samples / SAMPLE_RATE_HZ,
    )  # fmt: skip


def wrap(architecture: Architecture, pipeline: TangoPipeline, source: str) -> Tango:
    return Tango(pipeline, source)


def features(architecture: Architecture, media: Tensor) -> Tensor:
    """Log-mel spectrograms (N, 1, frames, bins)."""
    return Mel(**architecture.mel).of(media)


def normalise(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """By one factor for all channels."""
    scale = 1 / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    return latents * scale


def tokens(pipeline: TangoPipeline, captions: Sequence[str]) -> Tensor:
    """(N, L) of token ids, padded with 0."""
    return pipeline.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids


def embed(text_encoder: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    mask = tokens != 0
    embeds = text_encoder(tokens, attention_mask=mask)[0]
    return {"prompt_embeds": embeds * mask[..., None], "prompt_mask": mask.to(embeds)}


def finish(folder: Path, tokenizer: Path) -> None:
    """The tokenizer by the name that every transformers knows."""
    name_tokenizer(folder)
