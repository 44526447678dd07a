"""Qwen-Image-Edit: Qwen-Image that edits an image, whose patches stand behind those of the result, and which is read with the prompt too.

Wu et al. 2025, arXiv:2508.02324.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import QwenImageEditPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from torch import Tensor
from torch.nn.functional import pad

from diffalign.backbones import Loading
from diffalign.backbones.chat import check_torchvision
from diffalign.backbones.conditions import all_given, pictures
from diffalign.backbones.pipeline import load_pipeline
from diffalign.backbones.qwen_image import QwenImage
from diffalign.backbones.seeded import generators
from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image

AREA = 1024 * 1024  # pixels that the pipeline brings what is edited to, whatever the size of the result


class QwenImageEdit(QwenImage):
    """A loaded pipeline: see `Conditioned` for the contract. What is edited has the result's shape, and the pipeline's area."""

    PIPELINE: ClassVar[Any] = QwenImageEditPipeline
    BEFORE: ClassVar[str] = ""  # what the pipeline puts before a prompt into its template, which has the picture's place

    drops_condition = False

    def token_count(self, prompt: str) -> int:
        """Of what the denoiser sees of the text: the prompt and what stands around it and the picture."""
        return super().token_count(self.BEFORE + prompt) - 1

    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """Nothing: prompts are read in `embed_condition`."""
        return {}

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...], prompts: Sequence[str] = ()) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L), "condition_latents": (N, C, H, W)}, of the mean of the posterior, scaled.

        L is `token_limit` beside the picture's tokens: zeros after a prompt's last one, and what is over it is cut. ValueError for None.
        """
        given = all_given(conditions, f"{self.source} always has what it edits (backbone qwen_image has none)")
        images = pictures(given, len(prompts), (size[0], size[1]))
        embeds, mask = self.read(list(prompts), images)
        missing = int(mask[0].sum()) - self.token_count(prompts[0]) + self.token_limit - embeds.shape[1]
        brought = self.pipeline.image_processor.preprocess(self.brought(images, AREA))
        return {
            "prompt_embeds": pad(embeds, (0, 0, 0, missing)),
            "prompt_mask": pad(mask, (0, missing)),
            "condition_latents": self.encode(brought, seeds=None),
        }

    def read(self, prompts: list[str], images: list[PIL.Image.Image]) -> tuple[Tensor, Tensor]:
        """(N, L, D) and its mask (N, L), to the longest prompt's last token."""
        embeds, mask = self.pipeline.encode_prompt(prompts, self.brought(images, AREA), self.device)
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device) if mask is None else mask

    def brought(self, images: list[PIL.Image.Image], area: int) -> list[PIL.Image.Image]:
        """To about so many pixels, in sides that the pipeline takes."""
        columns, rows, _ = pipeline_qwenimage_edit.calculate_dimensions(area, images[0].width / images[0].height)
        return [self.pipeline.image_processor.resize(image, rows, columns) for image in images]

    def seen(self, noised: Tensor, embeds: dict[str, Tensor]) -> list[Tensor]:
        return [noised, embeds["condition_latents"].to(noised)]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Image]:  # fmt: skip
        """A call for each prompt: of several images the pipeline brings none to its area before it reads them."""
        self.keep_scheduler(scheduler)
        height, width = size or self.size
        made: list[Image] = []
        images, draws = pictures(conditions, len(prompts), (height, width)), generators(prompts, seeds)
        for prompt, image, draw in zip(prompts, images, draws, strict=True):
            found = self.pipeline(
                image=image, prompt=[prompt], height=height, width=width, num_inference_steps=steps, generator=draw, output_type="np",
                **self.guided(guidance, [negative_prompt]),
            ).images  # fmt: skip
            made += [Image.from_pixels(pixels) for pixels in np.rint(found * 255).astype(np.uint8)]
        return made


def load(source: str, loading: Loading) -> QwenImageEdit:
    """See `load_backbone`. ValueError where torchvision is not installed."""
    check_torchvision(source)
    return QwenImageEdit(load_pipeline(QwenImageEdit, source, loading), source)
