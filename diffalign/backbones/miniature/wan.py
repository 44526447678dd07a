"""A miniature Wan: see `Miniature`. Its autoencoder is that of Wan 2.1 in small, causal; the denoiser reads latents in patches of 2×2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from diffalign.backbones.miniature.t5 import build_tokenizer, encoder_config, name_tokenizer, read_in_order
from diffalign.backbones.wan import Wan


class Architecture(BaseModel):
    """Sizes of a miniature pipeline; the defaults are the bundled motion model: 17 frames of 32×32, latents 8×5×8×8."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int, int] = Field(default=(17, 32, 32), description="frames, height, width")
    fps: float = 8.0
    latent_channels: int = 8
    autoencoder_channels: int = 16
    autoencoder_levels: tuple[int, int, int] = Field(default=(1, 2, 4), description="channels of each level, times the first's")
    denoiser_heads: int = 4
    denoiser_head_width: int = Field(default=36, multiple_of=6)
    denoiser_layers: int = 6
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    token_limit: int = 24
    shift: float = Field(default=3.0, description="of the noise schedule towards noise, Esser et al. 2024, arXiv:2403.03206")


def build_autoencoder(architecture: Architecture) -> AutoencoderKLWan:
    """An AutoencoderKLWan with random weights: 4 pixels and 4 frames to a latent, the first frame alone."""
    channels = architecture.latent_channels
    autoencoder = AutoencoderKLWan(
        base_dim=architecture.autoencoder_channels, z_dim=channels, dim_mult=list(architecture.autoencoder_levels), num_res_blocks=1,
        attn_scales=[], temperal_downsample=[True, True], latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
        scale_factor_spatial=4, scale_factor_temporal=4,
    )  # fmt: skip
    _stand_still(autoencoder)
    return autoencoder


@torch.no_grad()
def _stand_still(autoencoder: nn.Module) -> None:
    """Lets a clip that stands still begin as its first frame does, so that from what stills taught motion alone is left to learn.

    Convolutions look at the present moment only, as strongly as they would at three; those that halve time take the mean of the last two
    moments, and those that double it the last one twice.
    """
    for name, module in autoencoder.named_modules():
        if not isinstance(module, nn.Conv3d) or module.kernel_size[0] != 3:
            continue
        weight, (made, read, *_) = module.weight, module.weight.shape
        if not name.endswith("time_conv"):
            weight[:, :, :2] = 0
            weight *= 3**0.5
            continue
        weight.zero_()
        if module.bias is not None:
            module.bias.zero_()
        same = torch.arange(read)
        if made == read:
            weight[same, same, 1:] = 0.5
        else:
            weight[same, same, 2] = weight[read + same, same, 2] = 1.0


def build_pipeline(architecture: Architecture, captions: Sequence[str], autoencoder: AutoencoderKLWan, folder: Path) -> WanPipeline:
    """The whole pipeline around a trained autoencoder, transformer and text encoder random; rectified flow, Euler."""
    tokenizer = build_tokenizer(captions, architecture.token_limit)
    width = architecture.text_width
    config = encoder_config(width, architecture.text_layers, architecture.text_heads, len(tokenizer))
    hidden = architecture.denoiser_heads * architecture.denoiser_head_width
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=architecture.denoiser_heads, attention_head_dim=architecture.denoiser_head_width,
        in_channels=architecture.latent_channels, out_channels=architecture.latent_channels, text_dim=width, freq_dim=128,
        ffn_dim=4 * hidden, num_layers=architecture.denoiser_layers, rope_max_seq_len=64,
    )  # fmt: skip
    text_encoder = UMT5EncoderModel(UMT5Config(**config))
    read_in_order(text_encoder)
    return WanPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=autoencoder, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=architecture.shift),
    )  # fmt: skip


def wrap(architecture: Architecture, pipeline: WanPipeline, source: str) -> Wan:
    return Wan(pipeline, source, architecture.size, architecture.fps, "uniform")


def features(architecture: Architecture, media: Tensor) -> Tensor:
    """The videos themselves."""
    return media


def normalise(autoencoder: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Each channel by its own mean and deviation."""
    flat = latents.transpose(0, 1).flatten(1)
    mean, std = flat.mean(1), flat.std(1)
    autoencoder.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)


def tokens(pipeline: WanPipeline, captions: Sequence[str]) -> Tensor:
    """(N, L) of token ids, padded with 0."""
    return pipeline.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids


def embed(text_encoder: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Zeros after the last token, as Wan's pipeline has it."""
    mask = tokens != 0
    return {"prompt_embeds": text_encoder(tokens, mask)[0] * mask[..., None]}


def finish(folder: Path, tokenizer: Path) -> None:
    """The tokenizer by the name that every transformers knows."""
    name_tokenizer(folder)
