"""Stable Diffusion 1.x and 2.x, and the bundled miniature: latent UNet with CLIP text conditioning, ε or v prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from diffalign.backbones import quiet_loading
from diffalign.backbones.process import Diffusion
from diffalign.backbones.random_weights import random_pipeline
from diffalign.backbones.schedulers import scheduler_named
from diffalign.backbones.seeded import generators, latents_of
from diffalign.backbones.weights import (
    adapters_of,
    denoiser_identity,
    encoder_identity,
    fuse_adapter,
    has_lora,
    lora_layers,
    read_denoiser,
    read_pipeline,
    to_uint8,
)
from diffalign.data.modalities.image import Image


class StableDiffusion:
    """A loaded pipeline: see `Backbone` for the contract."""

    modality = "image"

    def __init__(self, pipeline: StableDiffusionPipeline, source: str):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.source = pipeline, source
        self.denoiser: nn.Module = pipeline.unet
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit: int = pipeline.tokenizer.model_max_length

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    rate = None

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        return tuple(side // factor * factor for side in size)

    def time_edges(self, length: int) -> list[float]:
        raise ValueError(f"{self.source} makes images, which have no spans of time; choose an objective for whole samples: diffusion_dpo")

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def token_count(self, prompt: str) -> int:
        return len(self.pipeline.tokenizer(prompt).input_ids)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        return latents_of(vae.encode(media.to(vae.device, vae.dtype)).latent_dist, seeds) * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample.clamp(-1, 1)

    def media(self, decoded: Tensor) -> list[Image]:
        return [Image.from_pixels(pixels) for pixels in to_uint8(decoded).transpose(0, 2, 3, 1)]

    def last_layer(self, denoiser: nn.Module) -> nn.Module:
        return denoiser.get_submodule("conv_out")

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Image]:  # fmt: skip
        height, width = size or self.size
        with scheduler_named(self.pipeline, scheduler):
            images = self.pipeline(
                prompts, negative_prompt=[negative_prompt] * len(prompts), height=height, width=width, num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators(prompts, seeds), output_type="np",
            ).images  # fmt: skip
        return [Image.from_pixels(pixels) for pixels in np.rint(images * 255).astype(np.uint8)]

    def save(self, folder: Path) -> None:
        self.pipeline.save_pretrained(folder)

    def save_trained(self, folder: Path) -> None:
        if has_lora(self.denoiser):
            StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=lora_layers(self.denoiser), safe_serialization=True)
        else:
            self.pipeline.unet.save_pretrained(folder / "unet")

    def identity(self) -> str:
        return denoiser_identity(self.denoiser)

    def encoder_identity(self) -> str:
        return encoder_identity({"vae": self.pipeline.vae, "text_encoder": self.pipeline.text_encoder}, self.pipeline.vae.dtype)


def load(source: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", revision: str | None = None,
         adapter: str | Path | Sequence[str | Path] | None = None, denoiser: str | Path | None = None) -> StableDiffusion:  # fmt: skip
    """See `load_backbone`. The safety checker is not loaded: training and scoring need every sample as it is."""
    quiet_loading()
    if source.startswith("random:"):
        pipeline = random_pipeline(source.removeprefix("random:"), dtype)
    else:
        pipeline = read_pipeline(StableDiffusionPipeline, source, dtype, revision, safety_checker=None, requires_safety_checker=False)
    if denoiser is not None:
        alike = ("in_channels", "out_channels", "cross_attention_dim")
        pipeline.unet = read_denoiser(pipeline.unet, Path(denoiser), "unet", dtype, alike)
    for place in adapters_of(adapter):
        fuse_adapter(pipeline, "unet", place, source)
    return StableDiffusion(pipeline.to(device), source)
