"""The verifier of the motion world as a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import PIL.Image

from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video, nearest_frames
from reward_models.contract import check_call

from .captions import Scene, parse
from .read import motion_magnitude
from .render import render
from .timing import FPS, FRAMES, SEGMENT, SIZE, segments
from .verify import DIMENSIONS, verify, verify_segments

SEGMENTS = ("segment_1", "segment_2", "segment_3", "segment_4")  # quarters of a clip, half seconds of one of 17 frames

MAGNITUDE = "magnitude"


@dataclass(frozen=True)
class Motion:
    """Scores clips against captions of the motion world, exactly and without weights.

    The dimensions: those of `verify`, then how well each quarter of the clip by itself fulfils the caption (`verify_segments`), and
    `magnitude`, how fast its objects are in pixels per frame (`motion_magnitude`), whatever the caption says: a look, and no merit.
    """

    name = "motion"
    revision = "3"
    modalities = frozenset({"video"})
    dimensions = (*DIMENSIONS, *SEGMENTS, MAGNITUDE)
    groupwise = False

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float per item, in order; all but `magnitude` in [0, 1].

        prompts: captions. media: videos. Another size than 32x32 is resized by averaging boxes, another frame rate than 8 a second
        is resampled to the frame nearest in time. Of a length that is not 4n + 1 the last four frames are the last half second. ValueError
        for a caption that does not parse, an item that is no video or has fewer than five frames at 8 a second, or lists of different
        lengths.
        """
        check_call(self, prompts, media)
        results = [_judge(parse(prompt), item) for prompt, item in zip(prompts, cast("Sequence[Video]", media), strict=True)]
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}


def medium(caption: str, seed: int, size: tuple[int, ...] | None = None, rate: float | None = None) -> Video:
    """The clip of a caption; deterministic in its arguments. ValueError for a caption that does not parse.

    size, rate  as many whole segments as (T, H, W) at `rate` frames a second (None: 8) reach into; without a size, two seconds
    """
    last = FRAMES - 1 if size is None else round((size[0] - 1) * FPS / (rate or FPS))
    return Video.from_frames(render(caption, seed, max(1, -(-last // SEGMENT)) * SEGMENT + 1), FPS)


def _judge(scene: Scene, video: Video) -> dict[str, float]:
    clip = on_grid(video.frames(), video.fps)
    return {**verify(scene, clip), **_quarters(verify_segments(scene, clip).tolist(), len(clip)), MAGNITUDE: motion_magnitude(clip)}


def _quarters(values: list[float], frames: int) -> dict[str, float]:
    """For each quarter of a clip the mean of the half seconds whose middles lie in it, or that in which it begins, where none does.

    The mean, for one label is for all of a quarter's half seconds. Of 17 frames each has one, and the first frame, in none, is a still.
    """
    quarters: dict[str, float] = {}
    middles = [stop - 1 for _, stop in segments(frames)]  # where the third of the four frames begins
    for place, name in enumerate(SEGMENTS):
        inside = [value for value, middle in zip(values, middles, strict=True) if len(SEGMENTS) * middle // frames == place]
        quarters[name] = sum(inside) / len(inside) if inside else values[place * len(values) // len(SEGMENTS)]
    return quarters


def on_grid(frames: np.ndarray, fps: float) -> np.ndarray:
    """A video uint8 (T, H, W, 3) as uint8 (T, 32, 32, 3) of 8 frames a second.

    ValueError for a frame rate that is not positive, or fewer than five frames at 8 a second.
    """
    if not fps > 0:
        raise ValueError(f"the video has {fps!r} frames a second; give a positive rate, such as {FPS}")
    seconds = (len(frames) - 1) / fps
    # A hair more, or a rate such as 8 * 29.97 / 30 would lose its last frame to rounding.
    count = int(seconds * FPS + 1e-6) + 1 if len(frames) else 0
    if count < SEGMENT + 1:
        raise ValueError(f"the video has {len(frames)} frames at {fps:g} a second; give at least {SEGMENT + 1} at {FPS}")
    nearest = np.minimum(nearest_frames(count, fps, FPS), len(frames) - 1)
    picked = frames[nearest]
    if picked.shape[1:3] == (SIZE, SIZE):
        return picked
    resized = [PIL.Image.fromarray(frame).resize((SIZE, SIZE), PIL.Image.Resampling.BOX) for frame in picked]
    return np.stack([np.asarray(frame) for frame in resized])
