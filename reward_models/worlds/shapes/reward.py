"""The verifier of the shapes world as a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import PIL.Image

from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image
from reward_models.contract import check_call

from .captions import parse
from .geometry import SIZE
from .render import render
from .verify import DIMENSIONS, verify


@dataclass(frozen=True)
class Shapes:
    """Scores pictures against captions of the shapes world, exactly and without weights. The dimensions: see `verify`."""

    name = "shapes"
    revision = "2"
    modalities = frozenset({"image"})
    dimensions = DIMENSIONS
    groupwise = False

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per item, in order.

        prompts: captions. media: images; one of another size than 64x64 is resized by averaging boxes. ValueError for a
        caption that does not parse, an item that is no image, or lists of different lengths.
        """
        check_call(self, prompts, media)
        scenes = [parse(prompt) for prompt in prompts]
        images = cast("Sequence[Image]", media)
        results = [verify(scene, _resized(image.pixels())) for scene, image in zip(scenes, images, strict=True)]
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}


def medium(caption: str, seed: int, size: tuple[int, ...] | None = None, rate: float | None = None) -> Image:
    """The picture of a caption, of 64x64 whatever the size; deterministic. ValueError for a caption that does not parse."""
    return Image.from_pixels(render(caption, seed))


def _resized(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[:2] == (SIZE, SIZE):
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).resize((SIZE, SIZE), PIL.Image.Resampling.BOX))
