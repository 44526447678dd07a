"""The verifier of the shapes world as a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from diffalign.data.modalities import Media
from reward_models.contract import check_call

from .captions import parse
from .geometry import SIZE
from .verify import DIMENSIONS, verify


@dataclass(frozen=True)
class Shapes:
    """Scores pictures against captions of the shapes world, exactly and without weights. The dimensions: see `verify`."""

    name: ClassVar[str] = "shapes"
    revision: ClassVar[str] = "1"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    dimensions: ClassVar[tuple[str, ...]] = DIMENSIONS
    needs_prompt: ClassVar[bool] = True
    groupwise: ClassVar[bool] = False
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per item, in order.

        prompts: captions. media: images; one of another size than 64x64 is resized by averaging boxes. ValueError for a
        caption that does not parse, an item that is no image, or lists of different lengths.
        """
        check_call(self, prompts, media)
        scenes = [parse(prompt) for prompt in prompts]
        results = [verify(scene, _resized(one.pixels())) for scene, one in zip(scenes, media, strict=True)]
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}


def _resized(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[:2] == (SIZE, SIZE):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX))
