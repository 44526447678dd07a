"""Scores that are one number per picture: luma, and how the rewards that need no weights read a picture."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.statistic import Statistic

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

BT601 = np.array([0.299, 0.587, 0.114])


def luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 sRGB pixels (H, W, 3), (H, W) float64 from 0 to 1: 0.299 R' + 0.587 G' + 0.114 B' (ITU-R BT.601), on encoded values."""
    return pixels.astype(np.float64) @ BT601 / 255.0


class PixelReward(Statistic):
    """A statistic of one picture's pixels. A subclass gives `name` and `measure`."""

    modalities = frozenset({"image"})

    @abstractmethod
    def measure(self, pixels: np.ndarray) -> float:
        """The score of pixels uint8 (H, W, 3)."""

    def score(self, medium: Media) -> float:
        return self.measure(cast("Image", medium).pixels())
