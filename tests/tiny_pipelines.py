"""Tiny image pipelines with random weights, made of the families' own classes and saved in the layout of a hub.

16×24 pixels or more; latents of 4 channels, of an eighth to a half of the sides. Nothing of a scale or shift is 1 or 0, so that leaving one
out shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_stable_diffusion import TEXTS
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from diffalign.backbones import quiet_loading
from diffalign.backbones.miniature.clip import build_tokenizer as build_clip_tokenizer
from diffalign.backbones.miniature.t5 import build_tokenizer as build_t5_tokenizer
from diffalign.backbones.miniature.t5 import encoder_config

WIDTH = 32
CLIP_TOKENS, T5_TOKENS = 12, 16


def save(pipeline: Any, folder: Path) -> Path:
    quiet_loading()
    pipeline.save_pretrained(folder)
    return folder


def autoencoder(**options: Any) -> AutoencoderKL:
    """Two pixels to a latent."""
    return AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.7, **options,
    )  # fmt: skip


def clip(folder: Path, kind: type, width: int = WIDTH) -> dict[str, Any]:
    """A tokenizer and a text encoder of this class."""
    tokenizer = build_clip_tokenizer(list(TEXTS) * 3, folder / "words", CLIP_TOKENS)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=width, max_position_embeddings=CLIP_TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": kind(config)}


def t5() -> dict[str, Any]:
    tokenizer = build_t5_tokenizer(TEXTS, T5_TOKENS)
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(T5Config(**encoder_config(WIDTH, 1, 2, len(tokenizer))))}


def numbered(number: int, parts: dict[str, Any]) -> dict[str, Any]:
    """tokenizer → tokenizer_2."""
    return {f"{name}_{number}": part for name, part in parts.items()}


def save_sdxl(folder: Path, *, prediction: str = "epsilon", **vae: Any) -> Path:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=WIDTH + 16, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading",
        prediction_type=prediction,
    )  # fmt: skip
    second = numbered(2, clip(folder, CLIPTextModelWithProjection, 16))
    return save(
        StableDiffusionXLPipeline(
            vae=autoencoder(**vae), unet=unet, scheduler=scheduler, **clip(folder, CLIPTextModel), **second, add_watermarker=False
        ),
        folder,
    )


def save_sd3(folder: Path, *, has_t5: bool = True, is_35: bool = False) -> Path:
    """Version 3.5 has normed queries and keys, and a second attention in its first layers."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH + 16, caption_projection_dim=16, pooled_projection_dim=WIDTH + 16, pos_embed_max_size=16,
        **({"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if is_35 else {}),
    )  # fmt: skip
    third = numbered(3, t5()) if has_t5 else {"tokenizer_3": None, "text_encoder_3": None}
    if has_t5:  # as wide as both CLIPs together at least
        third["text_encoder_3"] = T5EncoderModel(T5Config(**encoder_config(WIDTH + 16, 1, 2, len(third["tokenizer_3"]))))
    pipeline = StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **clip(folder, CLIPTextModelWithProjection),
        **numbered(2, clip(folder, CLIPTextModelWithProjection, 16)), **third,
    )  # fmt: skip
    return save(pipeline, folder)


def save_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """With guidance embedded it is like FLUX.1 [dev], without like [schnell]."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipeline = FluxPipeline(
        vae=autoencoder(shift_factor=0.11, use_quant_conv=False, use_post_quant_conv=False), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        **clip(folder, CLIPTextModel), **numbered(2, t5()),
    )  # fmt: skip
    return save(pipeline, folder)
