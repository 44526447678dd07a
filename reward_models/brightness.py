"""Brightness: how light a picture is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffalign.data.modalities import Media
from reward_models.pixels import luma, score_pixels


def brightness(pixels: np.ndarray) -> float:
    """Mean over pixels of luma, from 0 (black) to 1 (white). pixels uint8 (H, W, 3), encoded (gamma) values."""
    return float(luma(pixels).mean())


@dataclass(frozen=True)
class Brightness:
    """Mean luma, 0 to 1; no prompt, no weights."""

    name = "brightness"
    revision = "1"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    needs_prompt = False
    groupwise = False
    scale = (0.0, 1.0)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        return score_pixels(self, brightness, prompts, media)
