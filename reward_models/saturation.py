"""Saturation: how far a picture is from grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffalign.data.modalities import Media
from reward_models.pixels import score_pixels


def saturation(pixels: np.ndarray) -> float:
    """Mean over pixels of HSV saturation (max − min) / max of R, G, B, from 0 (grey, or black) to 1 (pure). pixels uint8 (H, W, 3)."""
    channels = pixels.astype(np.float64)
    highest, lowest = channels.max(axis=2), channels.min(axis=2)
    return float(np.mean((highest - lowest) / np.maximum(highest, 1.0)))


@dataclass(frozen=True)
class Saturation:
    """Mean HSV saturation, 0 to 1; no prompt, no weights."""

    name = "saturation"
    revision = "1"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    needs_prompt = False
    groupwise = False
    scale = (0.0, 1.0)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        return score_pixels(self, saturation, prompts, media)
