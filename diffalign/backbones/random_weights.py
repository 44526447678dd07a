"""Models of a real family's sizes with random weights: what time and memory depend on, without a download.

Sizes are those of the published configs. The tokenizers have a vocabulary of their own; a prompt still takes all its places.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from diffalign.backbones.miniature.clip import build_tokenizer as build_clip_tokenizer
from diffalign.backbones.miniature.t5 import build_tokenizer as build_t5_tokenizer
from diffalign.did_you_mean import did_you_mean

TEXT = "a picture of an astronaut riding a horse"
NOISE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
XXL: dict[str, Any] = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}


def random_pipeline(name: str, kind: type, dtype: torch.dtype, **options: Any) -> Any:
    """One of RANDOM, with the same weights at every call; ValueError for another name, and for one of another kind of pipeline.

    options  of `from_pretrained`: a part that is None there is left out here
    """
    if name not in RANDOM:
        raise ValueError(f"no random model {name!r}{did_you_mean(name, RANDOM)}; there are: {', '.join(RANDOM)}")
    made_as, build = RANDOM[name]
    if made_as is not kind:
        own = [each for each, (other, _) in RANDOM.items() if other is kind]
        raise ValueError(
            f"random model {name!r} is a {made_as.__name__}, and this backbone takes a {kind.__name__}; "
            f"choose the backbone of that family, or one of: {', '.join(own) or 'none'}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = build()
    pipeline.register_modules(**{part: None for part, value in options.items() if value is None and part in pipeline.components})
    return pipeline if dtype == torch.float32 else pipeline.to(dtype)


def _clip_tokenizer() -> CLIPTokenizer:
    with tempfile.TemporaryDirectory(prefix="diffalign-tokenizer-") as folder:
        return build_clip_tokenizer([TEXT], Path(folder), token_limit=77)


def _clip_l(tokenizer: CLIPTokenizer, kind: type = CLIPTextModel) -> Any:
    """The text encoder of CLIP ViT-L/14: 123 M parameters."""
    return kind(_clip_config(tokenizer, 768, 12, 12))


def _clip_g(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """That of OpenCLIP ViT-bigG/14: 695 M parameters."""
    return CLIPTextModelWithProjection(_clip_config(tokenizer, 1280, 32, 20, hidden_act="gelu"))


def _clip_config(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, **options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=width, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip


def _autoencoder(side: int, **options: Any) -> AutoencoderKL:
    """Of pictures, eight pixels to a latent: 84 M parameters."""
    levels = (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=levels, layers_per_block=2, sample_size=side, down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels), **options,
    )  # fmt: skip


def _autoencoder_16(scale: float, shift: float) -> AutoencoderKL:
    """That of 16 channels, of Stable Diffusion 3 and FLUX.1."""
    return _autoencoder(1024, latent_channels=16, scaling_factor=scale, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False)


def _sd15() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5: 860 M parameters in the denoiser; 512×512 pictures."""
    tokenizer = _clip_tokenizer()
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768), vae=_autoencoder(512), text_encoder=_clip_l(tokenizer),
        tokenizer=tokenizer, scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL's base: 2.57 G parameters in the denoiser; 1024×1024 pictures."""
    tokenizer = _clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        unet=unet, vae=_autoencoder(1024, scaling_factor=0.13025), text_encoder=_clip_l(tokenizer), text_encoder_2=_clip_g(tokenizer),
        tokenizer=tokenizer, tokenizer_2=_clip_tokenizer(), scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    )  # fmt: skip


def _sd35_medium() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5 medium, with T5-XXL: 2.2 G parameters in the denoiser; 1024×1024 pictures."""
    tokenizer = _clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, vae=_autoencoder_16(1.5305, 0.0609), text_encoder=_clip_l(tokenizer, CLIPTextModelWithProjection),
        text_encoder_2=_clip_g(tokenizer), text_encoder_3=T5EncoderModel(T5Config(**XXL)), tokenizer=tokenizer,
        tokenizer_2=_clip_tokenizer(), tokenizer_3=build_t5_tokenizer([TEXT], 512), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _flux_dev() -> FluxPipeline:
    """FLUX.1 [dev], with T5-XXL: 11.9 G parameters in the denoiser; 1024×1024 pictures."""
    tokenizer = _clip_tokenizer()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(guidance_embeds=True), vae=_autoencoder_16(0.3611, 0.1159), text_encoder=_clip_l(tokenizer),
        text_encoder_2=T5EncoderModel(T5Config(**XXL)), tokenizer=tokenizer, tokenizer_2=build_t5_tokenizer([TEXT], 512),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _wan21_1b() -> WanPipeline:
    """Wan 2.1 of 1.3 B, with UMT5-XXL: 1.42 G parameters in the denoiser; 81 frames of 480×832."""
    return WanPipeline(
        transformer=WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960), vae=AutoencoderKLWan(),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=256384, **XXL)), tokenizer=build_t5_tokenizer([TEXT], 512),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )  # fmt: skip


RANDOM: dict[str, tuple[type, Callable[[], Any]]] = {
    "sd15": (StableDiffusionPipeline, _sd15),
    "sdxl": (StableDiffusionXLPipeline, _sdxl),
    "sd35_medium": (StableDiffusion3Pipeline, _sd35_medium),
    "flux_dev": (FluxPipeline, _flux_dev),
    "wan21_1b": (WanPipeline, _wan21_1b),
}
