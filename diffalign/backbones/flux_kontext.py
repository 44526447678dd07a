"""FLUX.1 Kontext: FLUX.1 that edits an image, whose patches stand behind those of the result in one sequence; rectified flow.

Black Forest Labs 2025, arXiv:2506.15742: timesteps are logit-normal with deviation 1 and a mean that follows the resolution. Which mean we
have not found; here it is the one by which the scheduler shifts a picture of that many patches in sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.conditions import all_given, pictures, pixels
from diffalign.backbones.density import logit_normal
from diffalign.backbones.flux import Flux, places
from diffalign.backbones.patches import PATCH, packed, unpacked
from diffalign.backbones.pipeline import load_pipeline
from diffalign.backbones.process import Flow, shift_by_size
from diffalign.backbones.seeded import generators
from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image


class FluxKontext(Flux):
    """A loaded pipeline: see `Conditioned` for the contract. What is edited has the size of the result here."""

    PIPELINE = FluxKontextPipeline

    drops_condition = False

    def __init__(self, pipeline: FluxKontextPipeline, source: str, guidance: float = 1.0):
        super().__init__(pipeline, source, guidance)
        self.process = Flow(shift_by_size(pipeline.scheduler, PATCH**2), logit_normal)

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...]) -> dict[str, Tensor]:
        """{"condition_latents": (N, C, H, W)}, the mean of the posterior, scaled. ValueError for None."""
        height, width = size
        given = all_given(conditions, f"{self.source} always has what it edits (backbone flux has none)")
        return {"condition_latents": self.encode(pixels(given, (height, width)), seeds=None)}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """A patch of the condition has the place of the result's, and 1 before it, where that has 0."""
        prompt, (rows, columns) = embeds["prompt_embeds"], (side // PATCH for side in noised.shape[-2:])
        own = places(rows, columns).to(noised.device, prompt.dtype)
        beside = own + torch.tensor([1, 0, 0]).to(own)
        guidance = torch.full((len(noised),), self.guidance, device=noised.device)
        predicted = denoiser(
            hidden_states=torch.cat([packed(noised), packed(embeds["condition_latents"].to(noised))], 1),
            timestep=timestep / self.process.timestep_count,
            guidance=guidance if self.pipeline.transformer.config.guidance_embeds else None,
            encoder_hidden_states=prompt, pooled_projections=embeds["pooled_embeds"],
            txt_ids=torch.zeros(prompt.shape[1], 3, dtype=prompt.dtype, device=noised.device),
            img_ids=torch.cat([own, beside]), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(predicted[:, : rows * columns], noised)

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Image]:  # fmt: skip
        """At the size asked for: the pipeline would bring what is edited to one of its own sizes, and the result to a million pixels."""
        self.keep_scheduler(scheduler)
        height, width = size or self.size
        images = self.pipeline(
            image=pictures(conditions, len(prompts), (height, width)), prompt=list(prompts), height=height, width=width,
            max_area=height * width, _auto_resize=False, num_inference_steps=steps, generator=generators(prompts, seeds), output_type="np",
            **self.guided(guidance, [negative_prompt] * len(prompts)),
        ).images  # fmt: skip
        return [Image.from_pixels(pixels) for pixels in np.rint(images * 255).astype(np.uint8)]


def load(source: str, loading: Loading, *, guidance: float = 1.0) -> FluxKontext:
    """See `load_backbone`.

    guidance  of training, see `Flux`; sampling has its own
    """
    return FluxKontext(load_pipeline(FluxKontext, source, loading), source, guidance)
