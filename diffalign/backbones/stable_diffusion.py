"""Stable Diffusion 1.x and 2.x, and the bundled miniature: latent UNet with CLIP text conditioning, ε or v prediction."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Diffusion
from diffalign.backbones.schedulers import set_levels


class StableDiffusion(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract."""

    PIPELINE = StableDiffusionPipeline
    DENOISER = "unet"
    ALIKE = ("in_channels", "out_channels", "cross_attention_dim")

    def __init__(self, pipeline: StableDiffusionPipeline, source: str):
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit: int = pipeline.tokenizer.model_max_length

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]


def load(source: str, loading: Loading, *, prediction_type: str = "", rescale_betas_zero_snr: bool = False) -> StableDiffusion:
    """See `load_backbone`. The safety checker is not loaded: training and scoring need every sample as it is.

    prediction_type, rescale_betas_zero_snr  how the model was trained, where its config says otherwise: see `set_levels`
    """
    pipeline = load_pipeline(StableDiffusion, source, loading, safety_checker=None, requires_safety_checker=False)
    is_set = set_levels(pipeline, prediction_type, rescale_betas_zero_snr)
    loaded = StableDiffusion(pipeline, source)
    loaded.has_set_scheduler = is_set
    return loaded
