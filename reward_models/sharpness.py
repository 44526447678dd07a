"""Sharpness: how much a picture changes from pixel to pixel, the variance of its Laplacian."""

from __future__ import annotations

import numpy as np

from reward_models.pixels import PixelReward, luma


def sharpness(pixels: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of luma, in squared grey levels of 0 to 255 (Pech-Pacheco et al. 2000): 0 on a flat picture.

    pixels uint8 (H, W, 3), H and W at least 3. Over interior pixels only: a border rule would add edges that the picture does not have.
    Noise counts as sharpness, and the value depends on the resolution: compare pictures of one size.
    """
    if min(pixels.shape[:2]) < 3:
        raise ValueError(f"sharpness got a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels; it needs at least 3 x 3")
    grey = 255.0 * luma(pixels)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4.0 * grey[1:-1, 1:-1]
    return float(laplacian.var())


class Sharpness(PixelReward):
    """Variance of the Laplacian, squared grey levels (0 to 255); no prompt, no weights."""

    name = "sharpness"

    def measure(self, pixels: np.ndarray) -> float:
        return sharpness(pixels)
