"""The exact verifier of the shapes world: which parts of a caption a picture satisfies, as numbers in [0, 1]."""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

from .captions import Item, Scene, parse
from .read import Detection, Reading, read

FIDELITY_THRESHOLD = 0.4  # `overall` needs more than this
MIN_CONFIDENCE = 0.3  # `overall` needs this in every shape and colour asked for: a grey star is not green
CONTINUOUS = ("objects", "count", "colour", "shape", "position", "fidelity")
DIMENSIONS = (*CONTINUOUS, "overall", "score")

_SEPARATION = 8.0  # pixels along the axis of a relation, between centres, from which it can hold
_POSITION_SPAN = 8.0  # pixels of displacement from "as wrong as half right" to "certainly right"

# Where each part of fidelity is full, and where it is nothing; in the units of Detection and Reading.
_AGREEMENT = (0.88, 0.65)
_EDGE = (4.5, 10.0)
_UNEVENNESS = (30.0, 80.0)
_FOREIGN = (2.0, 8.0)  # summed over the objects; a dot of radius 2 has 12
_ROUGHNESS = (8.0, 24.0)
_LIGHTNESS = (190.0, 140.0)
_TINT = (30.0, 70.0)
_STRAY = 30.0  # pixels of ink over which fidelity falls to 1/e
_STRAY_SLACK, _STRAY_OBJECT = 5.0, 100.0  # pixels of ink that count as nothing, and then as one more object each


def verify(scene: Scene | str, pixels: np.ndarray) -> dict[str, float]:
    """What a picture says to a scene or a caption: one number in [0, 1] per name of `DIMENSIONS`, higher is better.

    N is the number of objects asked for, D the number found, where ink that belongs to no object counts as more of them,
    one per 100 px. Objects are matched to those asked for so that shapes and colours fit best. Sums over matched objects
    are divided by max(N, D): nothing is gained by painting everything at once.

    objects   certainty that each object is there with its shape and colour
    count     (min(N, D) / max(N, D))², where a thing like no shape counts in D only as far as it fits one
    colour    certainty of the colours asked for; 1 if the caption names none
    shape     certainty of the shapes asked for
    position  1/2 where the relation begins to hold, smooth from 0 to 1 in the displacement along its axis, times the
              certainty of the two objects; 1 if the caption names no relation
    fidelity  how cleanly the objects asked for are drawn, in one colour each, on a light flat background with nothing else in
              the picture
    overall   1 if N = D, every shape and colour asked for is the likeliest and at least MIN_CONFIDENCE certain, the relation
              holds and fidelity > FIDELITY_THRESHOLD, else 0
    score     the mean of the six before `overall`, for ranking

    What `overall` does not see, though `score` falls: an object too many that is less than 7 px wide, and an object of the same
    colour that covers another so far that the outline of one is left (two discs less than 1.2 radii apart are a disc).

    "A left of B" holds if A's centroid is more than 8 px to the left of B's, and farther to the left than above or below.
    pixels: uint8 (64, 64, 3). ValueError for a caption that does not parse, or other pixels.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    reading = read(pixels)
    wanted = scene.objects()
    matches = _match(wanted, reading.detections)
    clutter = max(0.0, reading.stray - _STRAY_SLACK) / _STRAY_OBJECT
    most = max(len(wanted), len(reading.detections) + clutter)
    counted = sum(one.fit for one in reading.detections) + clutter
    parts = {
        "objects": sum(_certainty(item, one) for item, one in matches if one) / most,
        "count": (min(len(wanted), counted) / max(len(wanted), counted)) ** 2,
        "colour": sum(one.colours[item.colour] for item, one in matches if one and item.colour) / most,
        "shape": sum(one.shapes[item.shape] for item, one in matches if one) / most,
        "position": 1.0,
        "fidelity": _fidelity([one for _, one in matches if one], reading),
    }
    if all(item.colour is None for item in wanted):
        parts["colour"] = 1.0
    relation_holds = True
    if scene.relation is not None:
        (first, one), (second, other) = matches
        parts["position"] = 0.0
        relation_holds = False
        if one and other:
            margin = _relation_margin(scene.relation, one, other)
            parts["position"] = _smooth(margin / _POSITION_SPAN) * _certainty(first, one) * _certainty(second, other)
            relation_holds = margin > 0
    is_all_true = (
        len(wanted) == len(reading.detections)
        and all(one and _is(item, one) for item, one in matches)
        and relation_holds
        and parts["fidelity"] > FIDELITY_THRESHOLD
    )
    score = sum(parts.values()) / len(parts)
    return {**parts, "overall": float(is_all_true), "score": score}


def _match(wanted: tuple[Item, ...], found: tuple[Detection, ...]) -> list[tuple[Item, Detection | None]]:
    """Every object asked for, with the detection assigned to it or None, such that the sum of likenesses is greatest."""
    likeness = np.zeros((len(wanted), len(found)))
    for row, item in enumerate(wanted):
        for column, one in enumerate(found):
            # The sum, beside the product, decides between objects of which none has both the shape and the colour.
            likeness[row, column] = one.shapes[item.shape] + _colour_certainty(item, one) + _certainty(item, one)
    chosen = dict(zip(*linear_sum_assignment(likeness, maximize=True), strict=True))
    return [(item, found[chosen[row]] if row in chosen else None) for row, item in enumerate(wanted)]


def _colour_certainty(item: Item, one: Detection) -> float:
    return 1.0 if item.colour is None else one.colours[item.colour]


def _certainty(item: Item, one: Detection) -> float:
    return one.shapes[item.shape] * _colour_certainty(item, one)


def _is(item: Item, one: Detection) -> bool:
    has_shape = one.shape == item.shape and one.shape_confidence >= MIN_CONFIDENCE
    return has_shape and (item.colour is None or (one.colour == item.colour and one.colour_confidence >= MIN_CONFIDENCE))


def _relation_margin(relation: str, one: Detection, other: Detection) -> float:
    """By how many pixels the relation of `one` to `other` holds; negative if it does not."""
    right, down = other.x - one.x, other.y - one.y
    along, across = (right, down) if relation == "left of" else (down, right)
    return min(along - _SEPARATION, along - abs(across))


def _smooth(value: float) -> float:
    """A smooth step: 0 below -1, 1/2 at 0, 1 above 1."""
    part = min(1.0, max(0.0, (value + 1) / 2))
    return part * part * (3 - 2 * part)


def _ramp(value: float, full_and_nothing: tuple[float, float]) -> float:
    full, nothing = full_and_nothing
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))


def _fidelity(matched: list[Detection], reading: Reading) -> float:
    """How well the picture is drawn: the objects' mean quality, times that of everything around them."""
    if not matched:
        return 0.0
    drawn = [_ramp(one.agreement, _AGREEMENT) * _ramp(one.edge, _EDGE) * _ramp(one.unevenness, _UNEVENNESS) for one in matched]
    # Objects that nobody asked for are as much in the way as smears.
    stray = reading.stray + sum(one.ink for one in reading.detections) - sum(one.ink for one in matched)
    background = reading.background
    around = (
        math.exp(-max(0.0, stray) / _STRAY)
        * _ramp(sum(one.foreign for one in reading.detections), _FOREIGN)
        * _ramp(reading.roughness, _ROUGHNESS)
        * _ramp(min(background), _LIGHTNESS)
        * _ramp(max(background) - min(background), _TINT)
    )
    return sum(drawn) / len(drawn) * around
