"""Scores that are one number per picture: luma, and what the rewards that need no weights share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.contract import check_call

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

BT601 = np.array([0.299, 0.587, 0.114])


def luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 sRGB pixels (H, W, 3), (H, W) float64 from 0 to 1: 0.299 R' + 0.587 G' + 0.114 B' (ITU-R BT.601), on encoded values."""
    return pixels.astype(np.float64) @ BT601 / 255.0


class PixelReward(ABC):
    """A statistic of one picture's pixels as a reward: no prompt, no weights. A subclass gives `name` and `measure`."""

    name: str
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    @property
    def revision(self) -> str:
        return "1"

    @abstractmethod
    def measure(self, pixels: np.ndarray) -> float:
        """The score of pixels uint8 (H, W, 3)."""

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}. Prompts are ignored."""
        check_call(self, prompts, media)
        return {"score": [float(self.measure(image.pixels())) for image in cast("Sequence[Image]", media)]}
