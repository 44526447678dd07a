"""Slight mistakes: the scenes that differ from a scene by one thing, as preference sets need them for losers."""

from dataclasses import replace
from itertools import product

from .captions import COLOURS, MOTIONS, SHAPES, SPEEDS, Item, Scene, compose, parse

STRATEGIES = ("colour", "shape", "motion", "speed", "order", "swap", "drop", "insert")


def perturb(scene: Scene | str) -> dict[str, tuple[Scene, ...]]:
    """Strategy -> every scene that differs from this one, or from this caption, by one mistake of that kind.

    The strategies are those by which Tango 2 (Majumder et al. 2024, arXiv:2404.09956) perturbs prompts: concepts replaced, their order
    changed, dropped, inserted. No clip of a perturbed scene is right for `scene`. Strategies that do not apply are left out.

    colour, shape, motion, speed  one of them replaced
    order      the two phases of a sequence, or who moves first of two, swapped
    swap       the colours, or the motions, of two objects swapped
    drop       one object, or one phase of a sequence, left out
    insert     another object, or another motion afterwards, added to a scene of one object and one motion
    ValueError for a caption that does not parse.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    candidates = {
        "colour": _replaced(scene, [[replace(item, colour=colour) for colour in COLOURS] for item in scene.items]),
        "shape": _replaced(scene, [[replace(item, shape=shape) for shape in SHAPES] for item in scene.items]),
        "motion": _replaced(scene, [_other_motions(item) for item in scene.items]),
        "speed": _replaced(scene, [[replace(item, speed=speed) for speed in SPEEDS if item.speed] for item in scene.items]),
        "order": _reordered(scene),
        "swap": _swapped(scene),
        "drop": _dropped(scene),
        "insert": _inserted(scene),
    }
    found = {name: tuple(dict.fromkeys(one for one in candidates[name] if one is not None and one != scene)) for name in STRATEGIES}
    return {name: each for name, each in found.items() if each}


def _composed(*items: Item) -> Scene | None:
    """The scene of these items, or None where the grammar has none."""
    try:
        return compose(items)
    except ValueError:
        return None


def _replaced(scene: Scene, choices: list[list[Item]]) -> list[Scene | None]:
    """The scene with one item, at each place, by each of its choices."""
    return [_composed(*scene.items[:at], other, *scene.items[at + 1 :]) for at, others in enumerate(choices) for other in others]


def _other_motions(item: Item) -> list[Item]:
    found = []
    for at, motion in product(range(len(item.motions)), MOTIONS):
        motions = (*item.motions[:at], motion, *item.motions[at + 1 :])
        if len(set(motions)) == len(motions) and not (item.speed and motion == "stay"):
            found.append(replace(item, motions=motions))
    return found


def _reordered(scene: Scene) -> list[Scene | None]:
    if scene.phases == 1:
        return []
    return [_composed(*(replace(item, motions=item.motions[::-1]) for item in scene.items))]


def _swapped(scene: Scene) -> list[Scene | None]:
    if len(scene.items) == 1:
        return []
    first, second = scene.items
    by_colour = _composed(replace(first, colour=second.colour), replace(second, colour=first.colour))
    return [by_colour, _composed(replace(first, motions=second.motions), replace(second, motions=first.motions))]


def _dropped(scene: Scene) -> list[Scene | None]:
    if len(scene.items) == 2:
        return [_composed(item) for item in scene.items]
    (item,) = scene.items
    return [_composed(replace(item, motions=(motion,))) for motion in item.motions]


def _inserted(scene: Scene) -> list[Scene | None]:
    if scene.task != "single":
        return []
    (item,) = scene.items
    sequels = [_composed(replace(item, motions=(item.motions[0], motion))) for motion in MOTIONS if motion not in item.motions]
    return [*sequels, *(_composed(item, Item(*other)) for other in product(SHAPES, COLOURS, ((motion,) for motion in MOTIONS)))]
