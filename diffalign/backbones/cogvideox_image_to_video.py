"""CogVideoX and CogVideoX 1.5 from a first frame: its latents, and zeros after it, as more channels of the input.

Yang et al. 2024, arXiv:2408.06072.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor

from diffalign.backbones import Loading
from diffalign.backbones.cogvideox import Cogvideox
from diffalign.backbones.conditions import all_given, pictures, pixels
from diffalign.backbones.pipeline import load_pipeline
from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video

SMOOTHNESS = 2.0  # what the pipeline tells version 1.5 beside the timestep


class CogvideoxImageToVideo(Cogvideox):
    """A loaded pipeline: see `Conditioned` for the contract."""

    PIPELINE = CogVideoXImageToVideoPipeline
    ALIKE = (*Cogvideox.ALIKE, "ofs_embed_dim")

    drops_condition = False

    def __init__(self, pipeline: Any, source: str):
        super().__init__(pipeline, source)
        wanted = 2 * pipeline.vae.config.latent_channels
        if pipeline.transformer.config.in_channels != wanted:
            raise ValueError(
                f"{source} has a denoiser of {pipeline.transformer.config.in_channels} input channels; this family has {wanted}: latents "
                f"and those of the first frame; give an image-to-video model, or choose backbone cogvideox"
            )

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...]) -> dict[str, Tensor]:
        """{"condition_latents": (N, C, 1, H, W)}, the mean of the posterior. ValueError for None."""
        _, height, width = size
        frame = pixels(all_given(conditions, f"{self.source} always has its first frame"), (height, width)).unsqueeze(2)
        vae = self.pipeline.vae
        latents = vae.encode(frame.to(vae.device, vae.dtype)).latent_dist.mode()
        # Version 1.5 was trained without the scale of its latents here, and says so.
        scale = self.pipeline.vae_scaling_factor_image
        return {"condition_latents": latents / scale if vae.config.invert_scale_latents else latents * scale}

    def inputs(self, noised: Tensor, embeds: dict[str, Tensor]) -> dict[str, Any]:
        beside = torch.zeros_like(noised)
        beside[:, :, :1] = embeds["condition_latents"].to(noised)
        taken = super().inputs(torch.cat([noised, beside], 1), embeds)
        has_smoothness = self.pipeline.transformer.config.ofs_embed_dim is not None
        return {**taken, "ofs": noised.new_full((1,), SMOOTHNESS) if has_smoothness else None}

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Video]:  # fmt: skip
        frames, height, width = size or self.size
        images = pictures(conditions, len(prompts), (height, width))
        return self.made(prompts, seeds, steps, guidance, negative_prompt, (frames, height, width), scheduler, image=images)


def load(source: str, loading: Loading) -> CogvideoxImageToVideo:
    """See `load_backbone`."""
    return CogvideoxImageToVideo(load_pipeline(CogvideoxImageToVideo, source, loading), source)
