"""Scores that are one number per picture: luma, and the call shared by the rewards that need no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.contract import Reward, check_call

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

Measure = Callable[[np.ndarray], float]

BT601 = np.array([0.299, 0.587, 0.114])


def luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 sRGB pixels (H, W, 3), (H, W) float64 from 0 to 1: 0.299 R' + 0.587 G' + 0.114 B' (ITU-R BT.601), on encoded values."""
    return pixels.astype(np.float64) @ BT601 / 255.0


def score_pixels(reward: Reward, measure: Measure, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
    """{"score": one float per picture}: `measure` of the uint8 pixels (H, W, 3) of each. Prompts are ignored."""
    check_call(reward, prompts, media)
    return {"score": [float(measure(image.pixels())) for image in cast("Sequence[Image]", media)]}
