"""Slight mistakes: the scenes that differ from a scene by one thing, as preference sets need them for losers."""

from dataclasses import replace

from .captions import COLOURS, MAX_COUNT, SHAPES, Item, Scene, compose, parse

STRATEGIES = ("colour", "shape", "count", "side", "drop")


def perturb(scene: Scene | str) -> dict[str, tuple[Scene, ...]]:
    """Strategy -> every scene that differs from this one, or from this caption, by one mistake of that kind.

    The strategies are those by which Tango 2 (Majumder et al. 2024, arXiv:2404.09956) perturbs prompts: concepts replaced, their order
    changed, dropped, inserted. No picture of a perturbed scene is right for `scene`. Strategies that do not apply are left out.

    colour  one colour that the caption says replaced by another
    shape   one shape replaced
    count   another number of objects
    side    the two objects of a relation swapped
    drop    one of two objects left out
    ValueError for a caption that does not parse.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    candidates = {
        "colour": _replaced(scene, [[replace(item, colour=colour) for colour in COLOURS if item.colour] for item in scene.items]),
        "shape": _replaced(scene, [[replace(item, shape=shape) for shape in SHAPES] for item in scene.items]),
        "count": _replaced(scene, [[replace(item, count=count + 1) for count in range(MAX_COUNT)] for item in scene.items]),
        "side": [compose(scene.items[::-1], scene.relation)] if scene.relation else [],
        "drop": [compose((item,)) for item in scene.items if len(scene.items) == 2],
    }
    found = {name: tuple(dict.fromkeys(one for one in candidates[name] if one is not None and one != scene)) for name in STRATEGIES}
    return {name: each for name, each in found.items() if each}


def _replaced(scene: Scene, choices: list[list[Item]]) -> list[Scene | None]:
    """The scene with one item, at each place, by each of its choices; None where the grammar has no such scene."""
    found: list[Scene | None] = []
    for at, others in enumerate(choices):
        for other in others:
            try:
                found.append(compose((*scene.items[:at], other, *scene.items[at + 1 :]), scene.relation))
            except ValueError:
                found.append(None)
    return found
