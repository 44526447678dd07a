"""PixArt-α and PixArt-Σ: a transformer over latents with cross-attention to T5's text; ε prediction.

Chen et al. 2023, arXiv:2310.00426, and 2024, arXiv:2403.04692.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Diffusion

TOKEN_LIMITS = {PixArtAlphaPipeline: 120, PixArtSigmaPipeline: 300}


class Pixart(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. What the model has learned of its variance is left out."""

    PIPELINE = DiffusionPipeline  # which of the two, its folder says
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "num_layers", "sample_size", "caption_channels")

    def __init__(self, pipeline: PixArtAlphaPipeline | PixArtSigmaPipeline, source: str):
        if type(pipeline) not in TOKEN_LIMITS:
            raise ValueError(f"{source} is a {type(pipeline).__name__}; give a PixArt-α or PixArt-Σ")
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit: int = min(TOKEN_LIMITS[type(pipeline)], pipeline.tokenizer.model_max_length)

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * self.pipeline.transformer.config.patch_size

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}: 1 for a token, 0 after the last."""
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.token_limit
        )
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        predicted = denoiser(
            noised, encoder_hidden_states=embeds["prompt_embeds"], encoder_attention_mask=embeds["prompt_mask"], timestep=timestep,
            added_cond_kwargs=self._sizes(noised), return_dict=False,
        )[0]  # fmt: skip
        return predicted[:, : noised.shape[1]]

    def _sizes(self, noised: Tensor) -> dict[str, Tensor | None]:
        """Size and shape of the picture, which only the largest PixArt-α has as conditioning."""
        if not self.pipeline.transformer.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.pipeline.vae_scale_factor for side in noised.shape[-2:])
        resolution, ratio = noised.new_tensor([height, width]), noised.new_tensor([height / width])
        return {"resolution": resolution.expand(len(noised), -1), "aspect_ratio": ratio.expand(len(noised), -1)}

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """At the size that is asked for, and of the prompt as it is."""
        asked = {"max_sequence_length": self.token_limit, "use_resolution_binning": False, "clean_caption": False}
        return {**super().guided(guidance, negative_prompts), **asked}


def load(source: str, loading: Loading) -> Pixart:
    """See `load_backbone`."""
    return Pixart(load_pipeline(Pixart, source, loading), source)
