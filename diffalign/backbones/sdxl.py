"""Stable Diffusion XL's base model: latent UNet, two CLIP text encoders, the picture's size as conditioning; ε or v prediction.

Podell et al. 2023, arXiv:2307.01952.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Diffusion
from diffalign.backbones.schedulers import set_levels


class Sdxl(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract."""

    PIPELINE = StableDiffusionXLPipeline
    DENOISER = "unet"
    ALIKE = ("in_channels", "out_channels", "cross_attention_dim", "projection_class_embeddings_input_dim")
    ENCODERS = ("vae", "text_encoder", "text_encoder_2")

    def __init__(self, pipeline: StableDiffusionXLPipeline, source: str):
        if pipeline.text_encoder is None or pipeline.config.get("requires_aesthetics_score"):
            raise ValueError(
                f"{source} is a refiner: it has one text encoder and an aesthetic score as conditioning, and goes on from the base's "
                f"samples at low noise; give the base model"
            )
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise ValueError(f"{source} has its guidance as conditioning (a distilled model), which is not supported; give the base model")
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit: int = pipeline.tokenizer.model_max_length

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "pooled_embeds": (N, D')}; zeros for the empty prompt where guidance takes zeros for it."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        if self._empty_is_zeros:
            kept = torch.tensor([prompt != "" for prompt in prompts], device=embeds.device)
            embeds, pooled = embeds * kept[:, None, None], pooled * kept[:, None]
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    @property
    def _empty_is_zeros(self) -> bool:
        """As the model was trained where a prompt was dropped."""
        return bool(self.pipeline.config.force_zeros_for_empty_prompt)

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        """By channel, where the autoencoder says so, which few do."""
        config = self.pipeline.vae.config
        if config.get("latents_mean") is None:
            return 0.0, config.scaling_factor
        return torch.tensor(config.latents_mean), config.scaling_factor / torch.tensor(config.latents_std)

    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        with in_range(self.pipeline.vae):
            return super().encode(media, seeds=seeds)

    def decode(self, latents: Tensor) -> Tensor:
        with in_range(self.pipeline.vae):
            return super().decode(latents)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """The picture counts as one of its own size, not cropped."""
        height, width = (side * self.pipeline.vae_scale_factor for side in noised.shape[-2:])
        prompt, pooled = embeds["prompt_embeds"], embeds["pooled_embeds"]
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=prompt.dtype, device=noised.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(noised), -1)}
        return denoiser(noised, timestep, encoder_hidden_states=prompt, added_cond_kwargs=added, return_dict=False)[0]

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        without = None if self._empty_is_zeros and not any(negative_prompts) else negative_prompts
        return {"guidance_scale": guidance, "negative_prompt": without}


@contextmanager
def in_range(vae: Any) -> Iterator[None]:
    """An autoencoder that overflows in float16, as its config says, is in float32 inside."""
    overflows = vae.dtype == torch.float16 and vae.config.force_upcast
    if overflows:
        vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(dtype=torch.float16)


def load(source: str, loading: Loading, *, prediction_type: str = "", rescale_betas_zero_snr: bool = False) -> Sdxl:
    """See `load_backbone`. No watermark is put on samples: training and scoring need every one as it is.

    prediction_type, rescale_betas_zero_snr  how the model was trained, where its config says otherwise: see `set_levels`
    """
    pipeline = load_pipeline(Sdxl, source, loading, add_watermarker=False)
    is_set = set_levels(pipeline, prediction_type, rescale_betas_zero_snr)
    loaded = Sdxl(pipeline, source)
    loaded.has_set_scheduler = is_set
    return loaded
