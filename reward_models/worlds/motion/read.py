"""Reads a clip of the motion world back: which objects it shows, where each is in every frame, and how cleanly they are drawn."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .captions import COLOURS, SHAPES
from .detect import Objects, detect
from .timing import SEGMENT, segments

# What makes an object in one frame and one in a later frame less likely the same, in pixels of distance.
_PER_COLOUR = 0.06  # a unit of RGB distance
_PER_SHAPE = 15.0  # a unit of likeness


@dataclass(frozen=True, eq=False)
class Track:
    """One object over the T frames of a clip. Where it is not seen its arrays are 0; the fields are those of `Objects`."""

    seen: np.ndarray  # (T,), bool
    centre: np.ndarray  # (T, 2)
    size: np.ndarray
    colour: np.ndarray  # (T, 3)
    contrast: np.ndarray
    colours: np.ndarray  # (T, 6), in the order of COLOURS
    agreements: np.ndarray  # (T, 4), in the order of SHAPES
    edge: np.ndarray
    unevenness: np.ndarray
    foreign: np.ndarray

    @property
    def likeliest_colour(self) -> str:
        """The name of the colour that it has most of the time."""
        return COLOURS[int(self.colours.sum(axis=0).argmax())]

    @property
    def likeliest_shape(self) -> str:
        """The name of the shape that it is most like over the clip."""
        return SHAPES[int(self.agreements.sum(axis=0).argmax())]


@dataclass(frozen=True, eq=False)
class Reading:
    """A whole clip of T frames.

    tracks: its objects, those that come first in front. found (T,): the number of objects in each frame. background, roughness and
    stray: those of `detect.Frames`.
    """

    tracks: tuple[Track, ...]
    found: np.ndarray
    background: np.ndarray
    roughness: np.ndarray
    stray: np.ndarray


def read(video: np.ndarray) -> Reading:
    """The objects of a clip, followed from frame to frame, and its background. video: uint8 (T ≥ 5, 32, 32, 3), or ValueError."""
    frames = detect(video)
    objects, count = frames.objects, len(video)
    tracks = tuple(_gather(objects, rows) for rows in _linked(objects, count))
    return Reading(tracks, np.bincount(objects.frame, minlength=count), frames.background, frames.roughness, frames.stray)


def motion_magnitude(video: np.ndarray) -> float:
    """The mean speed of a clip's objects in pixels per frame, 0.0 for a frozen clip or one without objects.

    The distance from the start to the end of every half-second segment, over its four frames, is averaged over segments and objects; a
    trembling object therefore counts as one that stays. An object lost at one end of a segment is left out of it.
    """
    speeds = []
    starts, stops = np.array(segments(len(video)), dtype=int).reshape(-1, 2).T
    for track in read(video).tracks:
        is_whole = track.seen[starts] & track.seen[stops]
        way = (track.centre[stops] - track.centre[starts])[is_whole]
        speeds += list(np.hypot(way[:, 0], way[:, 1]) / SEGMENT)
    return float(np.mean(speeds)) if speeds else 0.0


def _linked(objects: Objects, frames: int) -> list[list[int]]:
    """For each track, for each frame, the row of its object in `objects`, or -1.

    An object continues the track it is likest to, in place, colour and shape, however far it is: a leap is a fault of one object. Only
    those that are too many for the tracks begin new ones.
    """
    tracks: list[list[int]] = []
    last = np.zeros(0, dtype=int)
    for frame in range(frames):
        rows = np.flatnonzero(objects.frame == frame)
        chosen = np.full(len(tracks), -1)
        if len(rows) and len(tracks):
            which, taken = linear_sum_assignment(_unlikeness(objects, last, rows))
            chosen[which] = rows[taken]
        fresh = [row for row in rows if row not in chosen]
        for track, row in zip(tracks, chosen, strict=True):
            track.append(int(row))
        tracks += [[-1] * frame + [int(row)] for row in fresh]
        last = np.concatenate([np.where(chosen < 0, last, chosen), np.array(fresh, dtype=int)])
    return tracks


def _unlikeness(objects: Objects, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    def apart(values: np.ndarray) -> np.ndarray:
        return np.sqrt(((values[before][:, None] - values[now]) ** 2).sum(axis=2))

    return apart(objects.centre) + _PER_COLOUR * apart(objects.colour) + _PER_SHAPE * apart(objects.agreements)


def _gather(objects: Objects, rows: list[int]) -> Track:
    index = np.array(rows)
    seen = index >= 0

    def over_time(values: np.ndarray) -> np.ndarray:
        return values[index] * (seen if values.ndim == 1 else seen[:, None])

    return Track(
        seen=seen,
        centre=over_time(objects.centre),
        size=over_time(objects.size),
        colour=over_time(objects.colour),
        contrast=over_time(objects.contrast),
        colours=over_time(objects.colours),
        agreements=over_time(objects.agreements),
        edge=over_time(objects.edge),
        unevenness=over_time(objects.unevenness),
        foreign=over_time(objects.foreign),
    )
