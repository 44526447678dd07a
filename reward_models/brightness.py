"""Brightness: how light a picture is."""

from __future__ import annotations

import numpy as np

from reward_models.pixels import PixelReward, luma


def brightness(pixels: np.ndarray) -> float:
    """Mean over pixels of luma, from 0 (black) to 1 (white). pixels uint8 (H, W, 3), encoded (gamma) values."""
    return float(luma(pixels).mean())


class Brightness(PixelReward):
    """Mean luma, 0 to 1; no prompt, no weights."""

    name = "brightness"

    def measure(self, pixels: np.ndarray) -> float:
        return brightness(pixels)
