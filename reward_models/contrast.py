"""Contrast: how far light and dark lie apart."""

from __future__ import annotations

import numpy as np

from reward_models.pixels import PixelReward, luma


def contrast(pixels: np.ndarray) -> float:
    """RMS contrast: standard deviation over pixels of luma in 0 to 1 (Peli 1990), from 0 (flat) to 0.5 (half black, half white).

    pixels uint8 (H, W, 3). On encoded (gamma) values, as a picture is seen, not on linear light.
    """
    return float(luma(pixels).std())


class Contrast(PixelReward):
    """RMS contrast of luma, 0 to 0.5; no prompt, no weights."""

    name = "contrast"

    def measure(self, pixels: np.ndarray) -> float:
        return contrast(pixels)
