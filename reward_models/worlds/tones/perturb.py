"""Slight mistakes: the scenes that differ from a scene by one thing, as preference sets need them for losers."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from .captions import DIRECTIONS, KINDS, PITCHES, VARIANTS, Event, Scene, compose, parse

STRATEGIES = ("kind", "pitch", "dropped", "swapped", "inserted", "timing")
Groups = tuple[tuple[Event, ...], ...]


def perturb(scene: Scene | str) -> dict[str, tuple[Scene, ...]]:
    """Strategy -> every scene that differs from this one, or from this caption, by one mistake of that kind, in a fixed order.

    The strategies are those by which Tango 2 (Majumder et al. 2024, arXiv:2404.09956) perturbs prompts: concepts replaced, dropped,
    inserted, their order changed. Strategies that do not apply are left out.

    kind      one event is of another kind, its pitch as it was where the kind has it, else left open
    pitch     one pitch that is asked for is another; a chirp goes the other way
    dropped   one event is missing
    swapped   two neighbours in time change places
    inserted  one event more, of any kind, its pitch left open, before, after or at once with another
    timing    two events at once come one after the other, or two neighbours at once

    All are scenes of the grammar, and no clip is true to the scene and to its mistake alike: "a beep" is no mistake for "a low beep".
    ValueError for a caption that does not parse.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    changes = {
        "kind": _other_events(scene.groups, _other_kinds),
        "pitch": _other_events(scene.groups, _other_pitches),
        "dropped": _other_events(scene.groups, lambda event: ((),)),
        "swapped": _swapped(scene.groups),
        "inserted": _inserted(scene.groups),
        "timing": _retimed(scene.groups),
    }
    found = {name: _valid(scene, changes[name]) for name in STRATEGIES}
    return {name: each for name, each in found.items() if each}


def _valid(scene: Scene, candidates: Iterable[Groups]) -> tuple[Scene, ...]:
    """The scenes among `candidates` that no clip of `scene` can also be, each once."""
    found: dict[Scene, None] = {}
    for groups in candidates:
        try:
            changed = compose(groups)
        except ValueError:  # outside the grammar
            continue
        if not _may_be_alike(scene, changed):
            found[changed] = None
    return tuple(found)


def _may_be_alike(one: Scene, other: Scene) -> bool:
    """Whether a clip can be true to both. Two events at once are of different kinds, in a fixed order, so they compare one by one."""
    if [len(group) for group in one.groups] != [len(group) for group in other.groups]:
        return False
    pairs = zip(one.events(), other.events(), strict=True)
    return all(left.kind == right.kind and (left.pitch == right.pitch or None in (left.pitch, right.pitch)) for left, right in pairs)


def _other_kinds(event: Event) -> Iterator[tuple[Event, ...]]:
    for kind in KINDS:
        if kind != event.kind:
            yield (Event(kind, event.pitch if event.pitch in VARIANTS[kind] else None),)


def _other_pitches(event: Event) -> Iterator[tuple[Event, ...]]:
    if event.pitch is not None:
        for pitch in PITCHES if event.pitch in PITCHES else DIRECTIONS:
            if pitch != event.pitch:
                yield (Event(event.kind, pitch),)


def _other_events(groups: Groups, others: Callable[[Event], Iterable[tuple[Event, ...]]]) -> Iterator[Groups]:
    """The groups with one event replaced by each of what `others` gives for it: one event, or none at all."""
    for place, group in enumerate(groups):
        for index, event in enumerate(group):
            for replacement in others(event):
                changed = (*group[:index], *replacement, *group[index + 1 :])
                yield (*groups[:place], *((changed,) if changed else ()), *groups[place + 1 :])


def _swapped(groups: Groups) -> Iterator[Groups]:
    for place, (before, after) in enumerate(pairwise(groups)):
        yield (*groups[:place], after, before, *groups[place + 2 :])


def _inserted(groups: Groups) -> Iterator[Groups]:
    for event in map(Event, KINDS):
        for place in range(len(groups) + 1):
            yield (*groups[:place], (event,), *groups[place:])
        for place, group in enumerate(groups):
            yield (*groups[:place], (*group, event), *groups[place + 1 :])


def _retimed(groups: Groups) -> Iterator[Groups]:
    for place, group in enumerate(groups):
        if len(group) == 2:
            for first, second in (group, group[::-1]):
                yield (*groups[:place], (first,), (second,), *groups[place + 1 :])
    for place, (before, after) in enumerate(pairwise(groups)):
        yield (*groups[:place], (*before, *after), *groups[place + 2 :])
