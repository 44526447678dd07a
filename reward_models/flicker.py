"""Flicker: how unsteadily a video changes. Higher is worse to look at: a guard, not an aim."""

from __future__ import annotations

import numpy as np

from reward_models.frames import FrameReward, mean_change


def flicker(frames: np.ndarray) -> float:
    """mean |f(t − 1) − 2·f(t) + f(t + 1)| over pixels and inner frames, 0 (a still, a steady fade) to 2 (black and white by turns).

    f is luma, 0 to 1, under a blur of three pixels (`blurred_luma`). An upright edge of contrast c that moves one pixel a frame across a
    picture of W columns reads c / W, at most 2·c·v / W at v pixels a frame. It is per frame: compare videos of one frame rate and size.
    frames: uint8 (T, H, W, 3), at least three.
    """
    return mean_change(frames, (1.0, -2.0, 1.0))


class Flicker(FrameReward):
    """Mean absolute second difference of luma in time, higher is more flicker; no prompt, no weights."""

    name = "flicker"

    def measure(self, frames: np.ndarray, fps: float) -> float:
        return flicker(frames)
