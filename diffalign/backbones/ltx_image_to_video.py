"""LTX-Video from a first frame: its latents stand in the first place in time, at timestep 0, and are not denoised.

HaCohen et al. 2024, arXiv:2501.00103.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LTXImageToVideoPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.conditions import all_given, pictures, pixels
from diffalign.backbones.density import logit_normal
from diffalign.backbones.ltx import FPS, Ltx
from diffalign.backbones.pipeline import by_channel, load_pipeline
from diffalign.backbones.process import FlowFromFirst, shift_by_size, without_first
from diffalign.backbones.seeded import generators
from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video


class LtxImageToVideo(Ltx):
    """A loaded pipeline: see `Conditioned` for the contract. The models are those of `Ltx`, which were trained on both."""

    PIPELINE = LTXImageToVideoPipeline

    drops_condition = False

    def __init__(self, pipeline: Any, source: str, fps: float = FPS):
        super().__init__(pipeline, source, fps)
        self.process = FlowFromFirst(shift_by_size(pipeline.scheduler), logit_normal)

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...]) -> dict[str, Tensor]:
        """{"condition_latents": (N, C, 1, H, W)}, the mean of the posterior. ValueError for None."""
        _, height, width = size
        given = all_given(conditions, f"{self.source} always has its first frame (backbone ltx has none)")
        vae = self.pipeline.vae
        latents = vae.encode(pixels(given, (height, width)).unsqueeze(2).to(vae.device, vae.dtype)).latent_dist.mode()
        # The pipeline leaves scaling_factor out here; in the releases it is 1.
        mean, deviation = (by_channel(each, latents) for each in (vae.latents_mean, vae.latents_std))
        return {"condition_latents": (latents - mean) / deviation}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """0 in the first place in time, whatever stands there in x_t."""
        frames, rows, columns = noised.shape[2:]
        whole = torch.cat([embeds["condition_latents"].to(noised), noised[:, :, 1:]], 2)
        told = timestep[:, None].repeat(1, frames * rows * columns)
        told[:, : rows * columns] = 0
        return without_first(super().predict(denoiser, whole, told, embeds))

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Video]:  # fmt: skip
        whole = size or self.size
        images = pictures(conditions, len(prompts), (whole[1], whole[2]))
        if not self.pipeline.vae.config.timestep_conditioning:
            return self.made(prompts, seeds, steps, guidance, negative_prompt, whole, scheduler, image=images)
        # Before it decodes at a timestep the pipeline draws noise, of weight 0, for which it takes one generator and no list.
        draws, made = generators(prompts, seeds), []
        for prompt, seed, image, draw in zip(prompts, seeds, images, draws, strict=True):
            made += self.made([prompt], [seed], steps, guidance, negative_prompt, whole, scheduler, image=[image], generator=draw)
        return made


def load(source: str, loading: Loading, *, fps: float = FPS) -> LtxImageToVideo:
    """See `load_backbone`.

    fps  frames per second, see `Ltx`
    """
    return LtxImageToVideo(load_pipeline(LtxImageToVideo, source, loading), source, fps)
