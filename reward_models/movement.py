"""Movement: how much changes in a video from frame to frame."""

from __future__ import annotations

import numpy as np

from reward_models.frames import FrameReward, mean_change


def movement(frames: np.ndarray, fps: float) -> float:
    """fps · mean |f(t + 1) − f(t)| over pixels and pairs of successive frames, in luma (0 to 1) per second; 0 for a still.

    f is luma under a blur of three pixels (`blurred_luma`). An edge of contrast c, upright, that moves v pixels a second across a picture
    of W columns reads c·v / W, whatever the frame rate. Changes of brightness, cuts and noise count as movement. It depends on the
    resolution: compare videos of one size. frames: uint8 (T, H, W, 3), at least two.
    """
    return fps * mean_change(frames, (-1.0, 1.0))


class Movement(FrameReward):
    """Mean absolute change of luma per second; no prompt, no weights."""

    name = "movement"

    def measure(self, frames: np.ndarray, fps: float) -> float:
        return movement(frames, fps)
