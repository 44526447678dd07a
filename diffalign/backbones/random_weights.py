"""Models of a real family's sizes with random weights: what time and memory depend on, without a download."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from diffalign.backbones.miniature.clip import build_tokenizer
from diffalign.did_you_mean import did_you_mean


def random_pipeline(name: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """One of RANDOM, with the same weights at every call; ValueError for another name."""
    if name not in RANDOM:
        raise ValueError(f"no random model {name!r}{did_you_mean(name, RANDOM)}; there are: {', '.join(RANDOM)}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = RANDOM[name]()
    return pipeline if dtype == torch.float32 else pipeline.to(dtype)


def _stable_diffusion_15() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's sizes: 860 M parameters in the denoiser, 84 M in the autoencoder, 123 M in the text encoder; 512×512 pictures.

    The tokenizer has a vocabulary of its own; a prompt still takes all 77 places.
    """
    levels = (128, 256, 512, 512)
    with tempfile.TemporaryDirectory(prefix="diffalign-tokenizer-") as folder:
        tokenizer = build_tokenizer(["a picture of an astronaut riding a horse"], Path(folder), token_limit=77)
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        vae=AutoencoderKL(
            block_out_channels=levels, layers_per_block=2, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * len(levels), up_block_types=("UpDecoderBlock2D",) * len(levels),
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
                                set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


RANDOM = {"sd15": _stable_diffusion_15}
