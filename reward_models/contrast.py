"""Contrast: how far light and dark lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffalign.data.modalities import Media
from reward_models.pixels import luma, score_pixels


def contrast(pixels: np.ndarray) -> float:
    """RMS contrast: standard deviation over pixels of luma in 0 to 1 (Peli 1990), from 0 (flat) to 0.5 (half black, half white).

    pixels uint8 (H, W, 3). On encoded (gamma) values, as a picture is seen, not on linear light.
    """
    return float(luma(pixels).std())


@dataclass(frozen=True)
class Contrast:
    """RMS contrast of luma, 0 to 0.5; no prompt, no weights."""

    name = "contrast"
    revision = "1"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    needs_prompt = False
    groupwise = False
    scale = (0.0, 0.5)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        return score_pixels(self, contrast, prompts, media)
