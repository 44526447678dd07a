"""Scores that are one number per video: how luma changes from frame to frame, and how the rewards that need no weights read a video."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.pixels import luma
from reward_models.statistic import Statistic

if TYPE_CHECKING:
    from diffalign.data.modalities.video import Video


def blurred_luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 pixels (H, W, 3), float64 (H, W) from 0 to 1, under the binomial blur (1, 2, 1) / 4 along rows and columns.

    What lies beyond the border is as the border is. The blur makes ramps of hard edges, so that one that moves steadily changes steadily.
    """
    padded = np.pad(luma(pixels), 1, mode="edge")
    rows = (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0
    return (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 4.0


def mean_change(frames: np.ndarray, weights: Sequence[float]) -> float:
    """The mean over pixels and times of |Σ_k weights[k]·f(t + k)| of the blurred luma f of frames uint8 (T, H, W, 3).

    (-1, 1) is a first difference in time, (1, -2, 1) a second one. One frame is unpacked at a time. ValueError where there are fewer frames
    than weights.
    """
    if len(frames) < len(weights):
        raise ValueError(f"a video of {len(frames)} frames says nothing of change over {len(weights)}; give at least {len(weights)} frames")
    window: deque[np.ndarray] = deque(maxlen=len(weights))
    changes: list[float] = []
    for pixels in frames:
        window.append(blurred_luma(pixels))
        if len(window) == len(weights):
            changes.append(float(np.abs(sum(weight * frame for weight, frame in zip(weights, window, strict=True))).mean()))
    return sum(changes) / len(changes)


class FrameReward(Statistic):
    """A statistic of one video's frames. A subclass gives `name` and `measure`."""

    modalities = frozenset({"video"})

    @abstractmethod
    def measure(self, frames: np.ndarray, fps: float) -> float:
        """The score of frames uint8 (T, H, W, 3), of which `fps` are shown in a second."""

    def score(self, medium: Media) -> float:
        video = cast("Video", medium)
        return self.measure(video.frames(), video.fps)
