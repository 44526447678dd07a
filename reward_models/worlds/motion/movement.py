"""How well the way of one object fits the motions asked for: direction, speed and steadiness, as numbers in [0, 1].

Ways are centres (T, 2) in pixels with NaN where the object is not seen; velocities are in pixels per frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .captions import Item
from .ramp import ramp
from .render import DIRECTIONS
from .timing import SEGMENT, pace, segments

CHANGE_TOLERANCE = 2  # frames by which the change of motion may miss the middle of the clip

# Where each is full, and where it is nothing; pixels per frame unless said otherwise.
_MOVES = (0.2, 0.08)  # along the direction asked for
_STAYS = (0.08, 0.2)
_ASTRAY = (0.4, 1.0)  # across it, as a share of along
_SLOW, _FAST = (0.42, 0.68), (0.8, 0.5)
_LEAP = (0.7, 2.1)  # by how much one step differs from the typical one of its segment, in pixels
_OFF_LINE = (0.6, 1.8)  # distance from the straight line at constant speed of the phase, in pixels


@dataclass(frozen=True)
class Stretch:
    """The frames first to last of a clip, in which an object does one thing."""

    first: int
    last: int
    motion: str


def stretches(item: Item, frames: int, change: int) -> list[Stretch]:
    """What an item asks for from when to when, where a second motion begins at the frame `change`."""
    if len(item.motions) == 1:
        return [Stretch(0, frames - 1, item.motions[0])]
    return [Stretch(0, change, item.motions[0]), Stretch(change, frames - 1, item.motions[1])]


def changes(frames: int) -> list[int]:
    """The frames at which the motion may change: the middle first, then those before and after it within the tolerance.

    The middle is that of the whole segments that the clip reaches into, of which 16 frames are one frame short of four.
    """
    middle = -(-(frames - 1) // SEGMENT) * SEGMENT // 2
    candidates = range(max(1, middle - CHANGE_TOLERANCE), min(frames - 2, middle + CHANGE_TOLERANCE) + 1)
    return sorted(candidates, key=lambda frame: abs(frame - middle))


def in_segments(whole: Sequence[Stretch], frames: int, with_entry: bool = True) -> list[list[Stretch]]:
    """For each segment, its parts of the stretches; the step from the frame before it is its own, unless `with_entry` is False."""
    parts = []
    for start, stop in segments(frames):
        cut = [Stretch(max(start + (not with_entry), one.first), min(stop, one.last), one.motion) for one in whole]
        parts.append([one for one in cut if one.first < one.last])
    return parts


def velocity(way: np.ndarray, stretch: Stretch) -> np.ndarray | None:
    """The slope (2,) of the straight line through a stretch by least squares; None where fewer than two of its frames show the object."""
    times, places = _seen(way, stretch)
    if len(times) < 2:
        return None
    times = times - times.mean()
    return times @ places / (times @ times)


def direction(way: np.ndarray, parts: Sequence[Stretch]) -> float:
    """How far the worst of the parts of a segment goes where it should: half a segment of the wrong motion is not half right."""
    return min(_along(velocity(way, part), part.motion, len(way)) for part in parts)


def speed(way: np.ndarray, parts: Sequence[Stretch], asked: str | None) -> float:
    """How far the worst part is as fast as asked, in whatever direction; where nothing is asked, whether it moves if it should at all."""
    return min(_pace_fits(velocity(way, part), part.motion, asked, len(way)) for part in parts)


def leaps(way: np.ndarray, parts: Sequence[Stretch]) -> float:
    """1 where every step of a segment is like the typical (median) one of its part, 0 where one is a teleport."""
    worst = 0.0
    for part in parts:
        _, places = _seen(way, part)
        if len(places) < 2:
            return 0.0
        steps = np.diff(places, axis=0)
        worst = max(worst, float(np.hypot(*(steps - np.median(steps, axis=0)).T).max()))
    return ramp(worst, _LEAP)


def straightness(way: np.ndarray, whole: Sequence[Stretch]) -> np.ndarray:
    """For each frame (T,) how near the object is to the straight line at constant speed of its stretch; 0 where it is not seen."""
    near = np.where(np.isnan(way[:, 0]), 0.0, 1.0)
    for stretch in whole:
        slope = velocity(way, stretch)
        if slope is None:
            continue
        times, places = _seen(way, stretch)
        off = places - places.mean(axis=0) - (times - times.mean())[:, None] * slope
        index = times.astype(int)
        near[index] = np.minimum(near[index], [ramp(float(distance), _OFF_LINE) for distance in np.hypot(off[:, 0], off[:, 1])])
    return near


def _seen(way: np.ndarray, stretch: Stretch) -> tuple[np.ndarray, np.ndarray]:
    """The frames (N,) of a stretch that show the object, as floats, and where it is there (N, 2)."""
    places = way[stretch.first : stretch.last + 1]
    is_seen = ~np.isnan(places[:, 0])
    return np.flatnonzero(is_seen) + float(stretch.first), places[is_seen]


def _along(slope: np.ndarray | None, motion: str, frames: int) -> float:
    if slope is None:
        return 0.0
    right, down = slope / pace(frames)
    if motion == "stay":
        return ramp(math.hypot(right, down), _STAYS)
    x, y = DIRECTIONS[motion]
    along, across = right * x + down * y, abs(right * y) + abs(down * x)
    return ramp(along, _MOVES) * ramp(across / max(along, 1e-9), _ASTRAY)


def _pace_fits(slope: np.ndarray | None, motion: str, asked: str | None, frames: int) -> float:
    if slope is None:
        return 0.0
    found = float(np.hypot(*slope)) / pace(frames)
    if motion == "stay":
        return ramp(found, _STAYS)
    fits = 1.0 if asked is None else ramp(found, _SLOW if asked == "slowly" else _FAST)
    return fits * ramp(found, _MOVES)
