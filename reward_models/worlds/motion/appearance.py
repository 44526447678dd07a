"""How one object of a clip looks over time, frame by frame, as numbers in [0, 1]: what it is, whether it stays so, how it is drawn."""

from dataclasses import dataclass

import numpy as np

from .captions import COLOURS, SHAPES, Item
from .ramp import ramps
from .read import Reading, Track
from .timing import over_frames, segments

_SHAPE_TEMPERATURE = 0.005  # in likeness
_MIN_MARGIN = 0.03  # in likeness: by how much an object's own shape leads another at least, else noise would count as a change
_FIT = (0.93, 0.80)  # likeness to the best template: above the first it is one of the shapes, below the second it is like none

# Where each is full, and where it is nothing.
_COLOUR_DRIFT = (25.0, 80.0)  # RGB distance from the object's own median colour
# 0.72 or more in a frame drawn as another shape, of every ordered pair, at radii of 4.0 and 5.5, equal radius or area (blurred: 0.62).
# The likest other shape stays below -0.76 in 627 objects of clean clips, below -0.08 after blur, boxes, sixteen levels or H.264, and
# below 0.02 in 207 after the bundled autoencoder. Of 584 samples of the bundled model that were true, 7 are no longer: stars that melt.
_SHAPE_DRIFT = (0.3, 0.7)  # see `_shape_drift`
_SIZE_DRIFT = (0.12, 0.40)  # share of the object's own median size
_CONTRAST_DRIFT = (0.12, 0.40)  # share of the object's own median contrast
_BACKGROUND_DRIFT = (4.0, 14.0)  # of 255, from the clip's own median background
_EDGE = (3.2, 6.0)
_UNEVENNESS = (30.0, 80.0)
_FOREIGN = (2.0, 8.0)  # summed over the objects of a frame
_ROUGHNESS = (14.0, 30.0)
_LIGHTNESS = (190.0, 140.0)
_TINT = (30.0, 70.0)
_STRAY = 15.0  # pixels of ink over which fidelity falls to 1/e


@dataclass(frozen=True, eq=False)
class Looks:
    """Of one object, for every frame (T,), in [0, 1]; 0 where it is not seen.

    colour, shape  certainty of what the caption asks for; that of the shape is judged over a segment
    identity       colour, shape and size are as in the rest of the clip, in every frame by itself
    steadiness     it stands out from the background as much as in the rest of the clip
    drawing        how cleanly it is drawn
    is_right       bool: the shape and the colour asked for are the likeliest in its segment
    """

    colour: np.ndarray
    shape: np.ndarray
    identity: np.ndarray
    steadiness: np.ndarray
    drawing: np.ndarray
    is_right: np.ndarray


def looks(item: Item, track: Track) -> Looks:
    """How the object `track` looks to one who asked for `item`."""
    seen = track.seen
    shapes = _shape_certainties(track)
    colours = _pooled(track.colours, seen)
    wanted_colour, wanted_shape = COLOURS.index(item.colour), SHAPES.index(item.shape)
    own_colour, own_size, own_contrast = (np.median(one[seen], axis=0) for one in (track.colour, track.size, track.contrast))
    drift = np.sqrt(((track.colour - own_colour) ** 2).sum(axis=1))
    alike = shapes[:, shapes.sum(axis=0).argmax()] / np.maximum(shapes.sum(axis=1), 1e-9)
    sizes = ramps(abs(track.size / own_size - 1), _SIZE_DRIFT)
    forms = ramps(_shape_drift(track), _SHAPE_DRIFT)
    fit = ramps(track.agreements.max(axis=1), _FIT)
    return Looks(
        colour=track.colours[:, wanted_colour] * seen,
        shape=shapes[:, wanted_shape] * seen,
        identity=ramps(drift, _COLOUR_DRIFT) * sizes * forms * alike * seen,
        steadiness=ramps(abs(track.contrast / own_contrast - 1), _CONTRAST_DRIFT) * seen,
        drawing=fit * ramps(track.edge, _EDGE) * ramps(track.unevenness, _UNEVENNESS) * seen,
        is_right=(shapes.argmax(axis=1) == wanted_shape) & (colours.argmax(axis=1) == wanted_colour) & seen,
    )


def surroundings(reading: Reading, tracks: list[Track]) -> np.ndarray:
    """For every frame (T,) how plain it is around the objects asked for, `tracks`, in [0, 1]: no smears, noise, dark or tint."""
    background = reading.background
    foreign = sum((track.foreign for track in tracks), np.zeros(len(background)))
    return (
        np.exp(-reading.stray / _STRAY)
        * ramps(foreign, _FOREIGN)
        * ramps(reading.roughness, _ROUGHNESS)
        * ramps(background.min(axis=1), _LIGHTNESS)
        * ramps(background.max(axis=1) - background.min(axis=1), _TINT)
    )


def background_steadiness(reading: Reading) -> np.ndarray:
    """For every frame (T,) how near its background is to that of the rest of the clip, in [0, 1]."""
    drift = abs(reading.background - np.median(reading.background, axis=0)).max(axis=1)
    return ramps(drift, _BACKGROUND_DRIFT)


def _shape_certainties(track: Track) -> np.ndarray:
    """The certainty (T, 4) of each shape, from its likeness in the mean over the segment: one frame of 32x32 says little."""
    agreements = _pooled(track.agreements, track.seen)
    best = agreements.max(axis=1, keepdims=True)
    weights = np.exp((agreements - best) / _SHAPE_TEMPERATURE)
    return weights / weights.sum(axis=1, keepdims=True) * ramps(best, _FIT)


def _shape_drift(track: Track) -> np.ndarray:
    """For every frame (T,) how far it is from the object's own shape to another: 0 where both fit alike, 1 where the other leads by as
    much as its own does in the median frame; 0 in frames that fit its own best.
    """
    own = np.median(track.agreements[track.seen], axis=0)
    best = own.argmax()
    lead = track.agreements - track.agreements[:, [best]]
    return (lead / np.maximum(own[best] - own, _MIN_MARGIN)).max(axis=1)


def _pooled(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Values (T, N) averaged over the frames of each segment that show the object; frame 0 stands by itself."""
    bounds = segments(len(values))
    parts = np.stack([values[start + 1 : stop + 1].sum(axis=0) for start, stop in bounds])
    counts = np.array([max(1, seen[start + 1 : stop + 1].sum()) for start, stop in bounds])
    return np.concatenate([values[:1], over_frames(parts / counts[:, None], len(values))])
