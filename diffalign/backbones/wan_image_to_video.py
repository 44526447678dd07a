"""Wan 2.1 and 2.2 from a first frame: its latents and a mask as more channels of the input, and CLIP's picture of it in 2.1.

Wan Team 2025, arXiv:2503.20314, section 5.1. Version 2.2 has two experts, as that from text: see `Wan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.conditions import all_given, pictures, pixels
from diffalign.backbones.pipeline import load_pipeline
from diffalign.backbones.seeded import generators
from diffalign.backbones.wan import TOKEN_LIMIT, LowNoiseWan, Wan, is_low
from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video


class WanImageToVideo(Wan):
    """A loaded pipeline: see `Conditioned` for the contract. Its own training drops prompts alone."""

    PIPELINE = WanImageToVideoPipeline
    ALIKE = (*Wan.ALIKE, "image_dim")
    ENCODERS = ("vae", "text_encoder", "image_encoder")

    drops_condition = False

    def __init__(self, pipeline: Any, source: str):
        super().__init__(pipeline, source)
        vae, transformer = pipeline.vae.config, pipeline.transformer.config
        wanted = 2 * vae.z_dim + vae.scale_factor_temporal
        if transformer.in_channels != wanted:
            raise ValueError(
                f"{source} has a denoiser of {transformer.in_channels} input channels; this family has {wanted}: latents, a mask and "
                f"the first frame's latents; give an image-to-video model of Wan 2.1 or 2.2 (not TI2V), or choose backbone wan"
            )
        if transformer.image_dim is not None and self.token_limit != TOKEN_LIMIT:
            raise ValueError(
                f"{source} has a tokenizer of {self.token_limit} tokens; the denoiser tells prompt and picture apart by {TOKEN_LIMIT}"
            )

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...]) -> dict[str, Tensor]:
        """{"condition_latents": (N, C, T, H, W)} of the frame and grey after it, and {"condition_picture": (N, L, D)} where it has CLIP.

        The autoencoder is causal, so their beginning is that of a shorter video. ValueError for None.
        """
        frames, height, width = size
        given = all_given(conditions, f"{self.source} always has its first frame")
        vae = self.pipeline.vae
        video = torch.zeros(len(given), 3, frames, height, width, device=vae.device, dtype=vae.dtype)
        video[:, :, 0] = pixels(given, (height, width)).to(video)
        embeds = {"condition_latents": self.scaled(vae.encode(video).latent_dist.mode())}
        if self.pipeline.transformer.config.image_dim is not None:
            embeds["condition_picture"] = self.pipeline.encode_image(pictures(given, len(given), (height, width)), self.device)
        return embeds

    def predicted(self, expert: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """Beside the latents: 1 where they are given, which is the first place in time, then those of the condition."""
        mask = noised.new_zeros(len(noised), self.step[0], *noised.shape[2:])
        mask[:, :, 0] = 1
        condition = embeds["condition_latents"][:, :, : noised.shape[2]].to(noised)
        return expert(
            torch.cat([noised, mask, condition], 1), timestep, encoder_hidden_states=embeds["prompt_embeds"],
            encoder_hidden_states_image=embeds.get("condition_picture"), return_dict=False,
        )[0]  # fmt: skip

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Video]:  # fmt: skip
        """The pipeline takes one picture for all prompts of a call: one call for each."""
        self.keep_scheduler(scheduler)
        frames, height, width = size or self.size
        images, draws = pictures(conditions, len(prompts), (height, width)), generators(prompts, seeds)
        alike: dict[int, list[int]] = {}
        for place, condition in enumerate(conditions):
            alike.setdefault(id(condition), []).append(place)
        made: dict[int, Video] = {}
        for places in alike.values():
            found: Any = self.pipeline(
                image=images[places[0]], prompt=[prompts[place] for place in places], num_frames=frames, height=height, width=width,
                num_inference_steps=steps, generator=[draws[place] for place in places], output_type="np",
                **self.guided(guidance, [negative_prompt] * len(places)),
            )  # fmt: skip
            for place, video in zip(places, found.frames, strict=True):
                made[place] = Video.from_frames(np.rint(video * 255).astype(np.uint8), self.rate)
        return [made[place] for place in range(len(prompts))]


class LowNoiseWanImageToVideo(LowNoiseWan, WanImageToVideo):
    """One of two experts, of which the one for low noise is trained."""


def load(source: str, loading: Loading, *, expert: str = "high") -> WanImageToVideo:
    """See `load_backbone`.

    expert  of Wan 2.2: which of the two is trained, `high` noise or `low`; ValueError for another
    """
    family = LowNoiseWanImageToVideo if is_low(expert) else WanImageToVideo
    return family(load_pipeline(family, source, loading), source)
