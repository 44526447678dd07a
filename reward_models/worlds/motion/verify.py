"""The exact verifier of the motion world: which parts of a caption a clip satisfies, as numbers in [0, 1]."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .appearance import Looks, background_steadiness, looks, surroundings
from .captions import COLOURS, SHAPES, Item, Scene, parse
from .movement import Stretch, changes, direction, in_segments, leaps, speed, straightness, stretches
from .read import Reading, Track, read
from .timing import over_frames, segments

MIN_CONFIDENCE = 0.3  # `overall` needs this in every shape and colour asked for, in every segment
MIN_MOTION = 0.5  # and this in the direction of every segment, and in the speed
MIN_STEADINESS = 0.4  # and this in smoothness, identity and flicker, in the worst frame
FIDELITY_THRESHOLD = 0.4  # and more than this in the fidelity of every segment
CONTINUOUS = ("objects", "colour", "shape", "direction", "speed", "smoothness", "identity", "flicker", "fidelity")
DIMENSIONS = (*CONTINUOUS, "overall", "score")

_STRAY_SLACK, _STRAY_OBJECT = 5.0, 50.0  # pixels of ink that count as nothing, and then as one more object each
_MIN_CLAIM = 0.02  # by how much another frame of change must fit better than one nearer to the middle
_AT_FAULT = 0.6  # a segment below this has the leap to the next one on its own account


@dataclass(frozen=True, eq=False)
class _Actor:
    """An item of the scene and the object that plays it: its looks, and its way (T, 2) with NaN where it is not seen."""

    item: Item
    looks: Looks
    way: np.ndarray
    whole: list[Stretch]


@dataclass(frozen=True, eq=False)
class _Examination:
    """All that is judged of a clip of T frames. Items that nothing plays are in no list of actors, but in `wanted`, their number.

    share (T,): what one object asked for is worth in each frame: 1 / max(asked for, found). around, background (T,): see `appearance`.
    """

    wanted: int
    actors: list[_Actor]
    reading: Reading
    share: np.ndarray
    around: np.ndarray
    background: np.ndarray


@dataclass(frozen=True)
class _Segment:
    """How well a segment fulfils its part of the scene, and what of it, by the names of CONTINUOUS."""

    value: float
    parts: dict[str, float]


def verify(scene: Scene | str, video: np.ndarray) -> dict[str, float]:
    """What a clip says to a scene or a caption: one number in [0, 1] per name of `DIMENSIONS`, higher is better.

    N is the number of objects asked for, D the number found in a frame, where ink that belongs to no object counts as more of
    them, one per 50 px. Objects are followed over time and matched to those asked for so that shapes and colours fit best.
    Everything is divided by max(N, D): nothing is gained by painting everything at once.

    objects     certainty that each object is there with its shape and colour, in the mean over frames
    colour      certainty of the colours asked for, likewise
    shape       certainty of the shapes asked for, likewise
    direction   how far each object goes where it should, in the mean over segments
    speed       how far it is as fast as the caption says; where it says nothing, 1 if what should move moves, and the rest stays
    smoothness  straight and at constant speed within a phase, without leaps
    identity    colour, shape and size stay the same; a single frame of another shape, of any two, shows at every size that is
                rendered, but not always where pixels were averaged over boxes of 2x2: 5 % of such clips pass
    flicker     1 for objects and a background that are steady in brightness
    fidelity    how cleanly the objects asked for are drawn, on a light flat background with nothing else in the picture
    overall     1 if in every frame there are N objects, in every segment of the shapes and colours asked for, going where they should
                at the speed asked for, and the last four are high enough in their worst frame, or segment; else 0
    score       the mean of the nine before `overall`, for ranking

    smoothness, identity and flicker are halfway between their mean and their worst frame. The phases of a caption share the clip
    evenly; the change may miss the middle frame (`changes`) by up to two. video: uint8 (T, 32, 32, 3), five frames or more,
    eight a second; where T is not 4n + 1, the last four frames are the last segment. ValueError for a caption that does not parse, or
    another video.
    """
    seen = _examine(scene, video)
    moves = [_directions(actor, len(video)) for actor in seen.actors]
    speeds = [sum(speed(a.way, [one], a.item.speed) for one in a.whole) / len(a.whole) for a in seen.actors]
    smooth = [_smoothness(actor, len(video)) for actor in seen.actors]
    steady = [actor.looks.steadiness * seen.background for actor in seen.actors]
    crowd = float(seen.share.mean())
    fidelity = _fidelity(seen)
    parts = {
        "objects": _mean_share(seen, [actor.looks.colour * actor.looks.shape for actor in seen.actors]),
        "colour": _mean_share(seen, [actor.looks.colour for actor in seen.actors]),
        "shape": _mean_share(seen, [actor.looks.shape for actor in seen.actors]),
        "direction": crowd * sum(sum(values) / len(values) for values in moves),
        "speed": crowd * sum(speeds),
        "smoothness": crowd * sum((float(values.mean()) + float(values.min())) / 2 for values in smooth),
        "identity": crowd * sum((float(a.looks.identity.mean()) + float(a.looks.identity.min())) / 2 for a in seen.actors),
        "flicker": crowd * sum((float(values.mean()) + float(values.min())) / 2 for values in steady),
        "fidelity": float(fidelity.mean()),
    }
    is_all_true = (
        len(seen.actors) == seen.wanted
        and bool((seen.reading.found == seen.wanted).all())
        and all(_is(actor.looks) for actor in seen.actors)
        and min(min(values) for values in moves) >= MIN_MOTION
        and min(speeds) >= MIN_MOTION
        and min(float(values.min()) for values in (*smooth, *steady, *(actor.looks.identity for actor in seen.actors))) >= MIN_STEADINESS
        and min(_by_segment(fidelity)) > FIDELITY_THRESHOLD
    )
    parts = {name: min(1.0, float(value)) for name, value in parts.items()}  # sums of floats may exceed 1 by a hair
    return {**parts, "overall": float(is_all_true), "score": sum(parts.values()) / len(parts)}


def verify_segments(scene: Scene | str, video: np.ndarray) -> np.ndarray:
    """How well each half-second segment by itself fulfils its part of a scene or a caption: (segments,) in [0, 1].

    Of the object that does worst, halfway between the mean and the worst of: colour and shape, direction, speed, steps that are alike,
    identity, flicker and fidelity, all within the segment's four frames; times (N / max(N, D))² for objects too many. The step into
    a segment belongs to it too, unless the one before is at fault (below 0.6): then that one bears a leap between the two. The
    arguments and errors are those of `verify`.
    """
    return np.array([one.value for one in _segments(_examine(scene, video))])


def verify_segment_parts(scene: Scene | str, video: np.ndarray) -> list[dict[str, float]]:
    """What of a scene or a caption each half-second segment fulfils: a number in [0, 1] for each name of `CONTINUOUS`, in order of time.

    Each is of the object that does worst in it, within the segment's four frames and the step into it, as `verify_segments` has them;
    `objects` is also times N / max(N, D) for objects too many. Where the clip has fewer objects than the scene, all are 0. The
    arguments and errors are those of `verify`.
    """
    return [one.parts for one in _segments(_examine(scene, video))]


def _segments(seen: _Examination) -> list[_Segment]:
    crowd = _by_segment(seen.share * seen.wanted)
    found: list[_Segment] = []
    for segment, room in enumerate(crowd):
        is_entered_well = segment == 0 or found[-1].value >= _AT_FAULT
        each = [_of_segment(seen, actor, segment, is_entered_well) for actor in seen.actors]
        if len(each) < seen.wanted:
            found.append(_Segment(0.0, dict.fromkeys(CONTINUOUS, 0.0)))
            continue
        worst = {name: min(parts[name] for parts in each) for name in CONTINUOUS}
        found.append(_Segment(min(map(_fulfilled, each)) * room**2, {**worst, "objects": worst["objects"] * room}))
    return found


def _fulfilled(parts: dict[str, float]) -> float:
    """How well one object does in a segment: halfway between the mean and the worst of its parts, colour and shape together."""
    found = [parts[name] for name in ("objects", "fidelity", "identity", "flicker", "direction", "speed", "smoothness")]
    return (sum(found) / len(found) + min(found)) / 2


def _of_segment(seen: _Examination, actor: _Actor, segment: int, is_entered_well: bool) -> dict[str, float]:
    """What one object fulfils in a segment, with the step into it or without."""
    parts = in_segments(actor.whole, len(seen.share), is_entered_well)[segment]
    start, stop = segments(len(seen.share))[segment]
    inside = slice(start + 1, stop + 1)
    one = actor.looks
    return {
        "objects": float((one.colour * one.shape)[inside].mean()),
        "colour": float(one.colour[inside].mean()),
        "shape": float(one.shape[inside].mean()),
        "direction": direction(actor.way, parts),
        "speed": speed(actor.way, parts, actor.item.speed),
        "smoothness": leaps(actor.way, parts),
        "identity": float(one.identity[inside].min()),
        "flicker": float((one.steadiness * seen.background)[inside].min()),
        "fidelity": float((one.drawing * seen.around)[inside].mean()),
    }


def _examine(scene: Scene | str, video: np.ndarray) -> _Examination:
    scene = parse(scene) if isinstance(scene, str) else scene
    reading = read(video)
    pairs = _match(scene.items, reading.tracks)
    ways = [np.where(track.seen[:, None], track.centre, np.nan) for _, track in pairs]
    change = _change([item for item, _ in pairs], ways, len(video))
    actors = [
        _Actor(item, looks(item, track), way, stretches(item, len(video), change)) for (item, track), way in zip(pairs, ways, strict=True)
    ]
    clutter = np.maximum(0.0, reading.stray - _STRAY_SLACK) / _STRAY_OBJECT
    share = 1 / np.maximum(len(scene.items), reading.found + clutter)
    around = surroundings(reading, [track for _, track in pairs])
    return _Examination(len(scene.items), actors, reading, share, around, background_steadiness(reading))


def _match(items: tuple[Item, ...], tracks: tuple[Track, ...]) -> list[tuple[Item, Track]]:
    """The items with the track assigned to each, such that the sum of likenesses is greatest; those left without one are left out."""
    likeness = np.zeros((len(items), len(tracks)))
    for row, item in enumerate(items):
        for column, track in enumerate(tracks):
            colour = track.colours[:, COLOURS.index(item.colour)]
            likeness[row, column] = (colour + track.agreements[:, SHAPES.index(item.shape)]).mean()
    return [(items[row], tracks[column]) for row, column in zip(*linear_sum_assignment(likeness, maximize=True), strict=True)]


def _change(items: list[Item], ways: list[np.ndarray], frames: int) -> int:
    """The frame at which the second phase begins: the one that fits the directions best, in doubt the nearest to the middle."""
    candidates = changes(frames)
    if not items or len(items[0].motions) == 1:
        return candidates[0]
    best, found = -1.0, candidates[0]
    for change in candidates:
        fit = sum(
            direction(way, parts)
            for item, way in zip(items, ways, strict=True)
            for parts in in_segments(stretches(item, frames, change), frames)
        )
        if fit > best + _MIN_CLAIM:
            best, found = fit, change
    return found


def _directions(actor: _Actor, frames: int) -> list[float]:
    return [direction(actor.way, parts) for parts in in_segments(actor.whole, frames)]


def _smoothness(actor: _Actor, frames: int) -> np.ndarray:
    """For each frame the worse of being on the line of its phase and of leaping within its segment."""
    steps = np.array([leaps(actor.way, parts) for parts in in_segments(actor.whole, frames)])
    return np.minimum(straightness(actor.way, actor.whole), np.concatenate([steps[:1], over_frames(steps, frames)]))


def _fidelity(seen: _Examination) -> np.ndarray:
    """For every frame the mean quality of the objects asked for, times that of everything around them."""
    return sum((actor.looks.drawing for actor in seen.actors), np.zeros(len(seen.share))) * seen.share * seen.around


def _mean_share(seen: _Examination, values: list[np.ndarray]) -> float:
    return float((sum(values, np.zeros(len(seen.share))) * seen.share).mean())


def _by_segment(values: np.ndarray) -> list[float]:
    return [float(values[start + 1 : stop + 1].mean()) for start, stop in segments(len(values))]


def _is(one: Looks) -> bool:
    """Whether the object is what was asked for in every segment; frame 0 alone is judged by its identity."""
    certain = np.minimum(one.colour, one.shape)[1:]
    return bool(one.is_right[1:].all()) and float(certain.min()) >= MIN_CONFIDENCE
