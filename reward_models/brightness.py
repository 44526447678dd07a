"""Brightness: how light a picture is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffalign.data.modalities import Media
from reward_models.pixels import luma, score_pixels


def brightness(pixels: np.ndarray) -> float:
    """Mean over pixels of luma, from 0 (black) to 1 (white). pixels uint8 (H, W, 3), encoded (gamma) values."""
    return float(luma(pixels).mean())


@dataclass(frozen=True)
class Brightness:
    """Mean luma, 0 to 1; no prompt, no weights."""

    name: ClassVar[str] = "brightness"
    revision: ClassVar[str] = "1"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    dimensions: ClassVar[tuple[str, ...]] = ("score",)
    needs_prompt: ClassVar[bool] = False
    groupwise: ClassVar[bool] = False
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        return score_pixels(self, brightness, prompts, media)
