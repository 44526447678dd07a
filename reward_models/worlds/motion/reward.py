"""The verifier of the motion world as a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import PIL.Image

from diffalign.data.modalities import Media
from reward_models.contract import check_call

from .captions import Scene, parse
from .timing import FPS, SEGMENT, SIZE
from .verify import DIMENSIONS, verify, verify_segments

if TYPE_CHECKING:
    from diffalign.data.modalities.video import Video

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Motion:
    """Scores clips against captions of the motion world, exactly and without weights. The dimensions: see `verify`."""

    name = "motion"
    revision = "1"
    modalities = frozenset({"video"})
    dimensions = DIMENSIONS
    groupwise = False

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per item, in order.

        prompts: captions. media: videos. Another size than 32x32 is resized by averaging boxes, another frame rate than 8 a second
        is resampled to the frame nearest in time, and frames over 4n + 1 are cut off. ValueError for a caption that does not parse,
        an item that is no video or has fewer than five frames at 8 a second, or lists of different lengths.
        """
        results = self._each(verify, prompts, media)
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}

    def segments(self, prompts: Sequence[str], media: Sequence[Media]) -> list[list[float]]:
        """For each item one float in [0, 1] per half second, see `verify_segments`; the arguments and errors are those of a call."""
        return [values.tolist() for values in self._each(verify_segments, prompts, media)]

    def _each(self, judge: Callable[[Scene, np.ndarray], ResultT], prompts: Sequence[str], media: Sequence[Media]) -> list[ResultT]:
        check_call(self, prompts, media)
        scenes = [parse(prompt) for prompt in prompts]
        videos = cast("Sequence[Video]", media)
        return [judge(scene, on_grid(video.frames(), video.fps)) for scene, video in zip(scenes, videos, strict=True)]


def on_grid(frames: np.ndarray, fps: float) -> np.ndarray:
    """A video uint8 (T, H, W, 3) as uint8 (4n + 1, 32, 32, 3) of 8 frames a second.

    ValueError for a frame rate that is not positive, or fewer than five frames at 8 a second.
    """
    if not fps > 0:
        raise ValueError(f"the video has {fps!r} frames a second; give a positive rate, such as {FPS}")
    seconds = (len(frames) - 1) / fps
    # A hair more, or a rate such as 8 * 29.97 / 30 would lose its last frame to rounding.
    count = int(seconds * FPS + 1e-6) + 1 if len(frames) else 0
    count -= (count - 1) % SEGMENT
    if count < SEGMENT + 1:
        raise ValueError(f"the video has {len(frames)} frames at {fps:g} a second; give at least {SEGMENT + 1} at {FPS}")
    nearest = np.minimum((np.arange(count) * fps / FPS + 0.5).astype(int), len(frames) - 1)
    picked = frames[nearest]
    if picked.shape[1:3] == (SIZE, SIZE):
        return picked
    resized = [PIL.Image.fromarray(frame).resize((SIZE, SIZE), PIL.Image.Resampling.BOX) for frame in picked]
    return np.stack([np.asarray(frame) for frame in resized])
