"""Saturation: how far a picture is from grey."""

from __future__ import annotations

import numpy as np

from reward_models.pixels import PixelReward


def saturation(pixels: np.ndarray) -> float:
    """Mean over pixels of HSV saturation (max − min) / max of R, G, B, from 0 (grey, or black) to 1 (pure). pixels uint8 (H, W, 3)."""
    channels = pixels.astype(np.float64)
    highest, lowest = channels.max(axis=2), channels.min(axis=2)
    return float(np.mean((highest - lowest) / np.maximum(highest, 1.0)))


class Saturation(PixelReward):
    """Mean HSV saturation, 0 to 1; no prompt, no weights."""

    name = "saturation"

    def measure(self, pixels: np.ndarray) -> float:
        return saturation(pixels)
