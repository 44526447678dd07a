"""The caption grammar of the motion world: who moves where, how fast, and in which order, as text and as scenes.

A `Scene` is what a caption means. Scenes are canonical: two captions mean the same exactly if they parse to equal scenes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from reward_models.worlds.splits import SPLITS, draw, quotas, split_by_hash

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
MOTIONS = ("left", "right", "up", "down", "stay")
SPEEDS = ("slowly", "fast")

# Which share of the prompts each task gets.
TASK_SHARES = {
    "single": 0.15,  # one object, one motion
    "speed": 0.20,  # one object, one motion, slowly or fast
    "sequence": 0.25,  # one object, one motion and then another
    "pair": 0.25,  # two objects at the same time, at least one of which moves
    "meeting": 0.15,  # two objects: one moves, then the other
}
TASKS = tuple(TASK_SHARES)

# Every wording of a motion, (alone, after an opening), the plainest first.
_VERBS = {
    "left": (("moves left", "moving left"), ("goes left", "going left"), ("moves to the left", "moving to the left")),
    "right": (("moves right", "moving right"), ("goes right", "going right"), ("moves to the right", "moving to the right")),
    "up": (("moves up", "moving up"), ("goes up", "going up"), ("rises", "rising")),
    "down": (("moves down", "moving down"), ("drops", "dropping"), ("falls", "falling")),
    "stay": (("stays", "staying"), ("stands still", "standing still"), ("does not move", "not moving")),
}
_STYLES = ((0, 0), (1, 1), (2, 2), (0, 2), (2, 0))  # which wordings of two motions go together: all nine would be too many captions
_OPENINGS = ("a video of", "a clip of", "there is")
_SEQUELS = ("then", "and then")
_MEANWHILES = ("while", "as")
_ADVERBS = {"slowly": "slowly", "fast": "fast", "quickly": "fast"}
_ADVERBS_BEFORE = ("slowly", "quickly")


@dataclass(frozen=True)
class Item:
    """One object and what it does: one motion for the whole clip, or one for its first and one for its second half.

    speed: one of `SPEEDS`; None means that the caption does not say.
    """

    shape: str
    colour: str
    motions: tuple[str, ...]
    speed: str | None = None

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; choose one of: {', '.join(SHAPES)}")
        if self.colour not in COLOURS:
            raise ValueError(f"unknown colour {self.colour!r}; choose one of: {', '.join(COLOURS)}")
        for motion in self.motions:
            if motion not in MOTIONS:
                raise ValueError(f"unknown motion {motion!r}; choose one of: {', '.join(MOTIONS)}")
        if len(self.motions) not in (1, 2) or len(set(self.motions)) < len(self.motions):
            raise ValueError(f"motions {self.motions!r} are not in the grammar; give one, or two different ones")
        if self.speed is not None and (self.speed not in SPEEDS or len(self.motions) > 1 or "stay" in self.motions):
            allowed = f"{', '.join(SPEEDS)}, to one motion, or None"
            raise ValueError(f"speed {self.speed!r} of {self.motions!r} is not in the grammar; give one of: {allowed}")


@dataclass(frozen=True)
class Scene:
    """The meaning of a caption; build it with `compose`, which puts it in canonical form.

    task: one of `TASKS`. items: one or two, each with as many motions as the scene has phases; two have different shapes and colours.
    """

    task: str
    items: tuple[Item, ...]

    @property
    def phases(self) -> int:
        """How many motions follow one another, each for an equal part of the clip: 1 or 2."""
        return len(self.items[0].motions)


@dataclass(frozen=True)
class Prompt:
    """A caption, the task it belongs to, and its scene's plainest caption, which prompts that mean the same share."""

    text: str
    task: str
    scene: str


def compose(items: tuple[Item, ...]) -> Scene:
    """The canonical `Scene` of one or two items; ValueError if no task of the grammar covers them.

    Of two items with one motion each the order means nothing, so they are sorted. Two items with two motions each are a
    meeting: one moves and then stays, the other stays and then moves; the one that moves first comes first.
    """
    if len(items) == 1:
        (item,) = items
        return Scene("sequence" if len(item.motions) == 2 else "single" if item.speed is None else "speed", items)
    if len(items) != 2:
        raise ValueError(f"{len(items)} items are not in the grammar; give one or two")
    first, second = items
    if first.shape == second.shape or first.colour == second.colour:
        both = f"{_noun_phrase(first)} and {_noun_phrase(second)}"
        raise ValueError(f"{both} are not in the grammar; give two different shapes and two different colours")
    if first.speed or second.speed:
        raise ValueError(f"speed {first.speed or second.speed!r} of one of two items is not in the grammar; leave it out")
    if len(first.motions) == len(second.motions) == 1 and {first.motions, second.motions} != {("stay",)}:
        return Scene("pair", tuple(sorted(items, key=lambda item: SHAPES.index(item.shape))))
    ordered = tuple(sorted(items, key=lambda item: item.motions[0] == "stay"))
    if [[motion == "stay" for motion in item.motions] for item in ordered] == [[False, True], [True, False]]:
        return Scene("meeting", ordered)
    raise ValueError(
        f"motions {first.motions!r} and {second.motions!r} of two items are not in the grammar; "
        "give one each, of which one moves, or a motion and 'stay' to one, 'stay' and a motion to the other"
    )


def _noun_phrase(item: Item) -> str:
    return f"a {item.colour} {item.shape}"


def _texts(scene: Scene) -> Iterator[str]:
    """The wordings of a scene, the plainest first."""
    openings = ("", *_OPENINGS) if len(scene.items) == 1 else ("", _OPENINGS[0])
    for opening in openings:
        form = int(opening != "")
        for body in _bodies(scene, form):
            yield f"{opening} {body}" if opening else body


def _bodies(scene: Scene, form: int) -> Iterator[str]:
    """What can follow an opening (form 1) or stand alone (form 0)."""
    first, second = scene.items[0], scene.items[-1]
    noun, other = _noun_phrase(first), _noun_phrase(second)
    if scene.task in ("single", "speed"):
        for verbs in _VERBS[first.motions[0]]:
            for phrase in _with_speed(verbs[form], first.speed):
                yield f"{noun} {phrase}"
    elif scene.task == "sequence":
        phrases = [(_VERBS[first.motions[0]][i][form], _VERBS[first.motions[1]][j][form]) for i, j in _STYLES]
        if "stay" not in first.motions:
            phrases.append((phrases[0][0], first.motions[1]))
        for start, (before, after), join in product(("", "first "), phrases, _SEQUELS):
            yield f"{noun} {start}{before} {join} {after}"
    elif scene.task == "meeting":
        for (i, j), join in product(_STYLES, _SEQUELS):
            yield f"{noun} {_VERBS[first.motions[0]][i][form]} {join} {other} {_VERBS[second.motions[1]][j][form]}"
    else:
        for join, (one, two), (i, j) in product(_MEANWHILES, ((first, second), (second, first)), _STYLES):
            verb, verb_there = _VERBS[one.motions[0]][i][form], _VERBS[two.motions[0]][j][0]
            yield f"{_noun_phrase(one)} {verb} {join} {_noun_phrase(two)} {verb_there}"


def _with_speed(verb: str, speed: str | None) -> list[str]:
    if speed is None:
        return [verb]
    adverbs = [adverb for adverb, meaning in _ADVERBS.items() if meaning == speed]
    return [*(f"{verb} {adverb}" for adverb in adverbs), *(f"{adverb} {verb}" for adverb in adverbs if adverb in _ADVERBS_BEFORE)]


def wordings(scene: Scene) -> tuple[str, ...]:
    """Captions that `parse` reads as `scene`: all that the grammar writes, distinct, the plainest first."""
    return tuple(_texts(scene))


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption of at most 20 words that means `scene`: the plainest wording, or one that `rng` picks uniformly."""
    if rng is None:
        return next(_texts(scene))
    texts = wordings(scene)
    return texts[int(rng.integers(len(texts)))]


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """The sorted vocabulary: every word of every caption."""
    phrases = [phrase for verbs in _VERBS.values() for forms in verbs for phrase in forms]
    phrases += [*SHAPES, *COLOURS, *_OPENINGS, *_SEQUELS, *_MEANWHILES, *_ADVERBS, "a", "first"]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def parse(caption: str) -> Scene:
    """The scene a caption means; the inverse of `caption` for every wording.

    Case, commas, surplus spaces and a final full stop do not matter. ValueError names an unknown word and the known ones, or the
    place where a caption of known words leaves the grammar.
    """
    tokens = caption.lower().replace(",", " ").strip().rstrip(".").split()
    for token in tokens:
        if token not in words():
            raise ValueError(f"unknown word {token!r} in caption {caption!r}; known words: {', '.join(words())}")
    opening = next((one.split() for one in _OPENINGS if tokens[: len(one.split())] == one.split()), [])
    form = int(bool(opening))
    shape, colour, rest = _read_noun(tokens[len(opening) :], caption)
    is_sequence = rest[:1] == ["first"]
    motion, speed, rest = _read_motion(rest[is_sequence:], form, caption)
    if not rest and not is_sequence:
        return compose((Item(shape, colour, (motion,), speed),))
    join = next((one for one in (*_SEQUELS, *_MEANWHILES) if rest[: len(one.split())] == one.split()), None)
    if join is None or (is_sequence and join in _MEANWHILES):
        allowed = _SEQUELS if is_sequence else (*_SEQUELS, *_MEANWHILES)
        raise _misplaced(rest, "where it should " + ("" if is_sequence else "end or ") + "go on", allowed, caption)
    rest = rest[len(join.split()) :]
    other = None
    if rest[:1] == ["a"] and not is_sequence:
        *other, rest = _read_noun(rest, caption)
        second, second_speed, rest = _read_motion(rest, form if join in _SEQUELS else 0, caption)
    elif join in _MEANWHILES:
        raise _misplaced(rest, f"after {join!r}", ("a",), caption)
    elif rest[:1] and rest[0] in MOTIONS:
        second, second_speed, rest = rest[0], None, rest[1:]
    else:
        second, second_speed, rest = _read_motion(rest, form, caption)
    if rest:
        raise ValueError(f"caption {caption!r} goes on with {' '.join(rest)!r} after two motions; end it there")
    if other is None:
        return compose((Item(shape, colour, (motion, second), speed or second_speed),))
    other_shape, other_colour = other
    if join in _MEANWHILES:
        return compose((Item(shape, colour, (motion,), speed), Item(other_shape, other_colour, (second,), second_speed)))
    return compose((Item(shape, colour, (motion, "stay"), speed), Item(other_shape, other_colour, ("stay", second), second_speed)))


def _misplaced(tokens: list[str], where: str, allowed: Sequence[str], caption: str) -> ValueError:
    found = repr(tokens[0]) if tokens else "the end"
    return ValueError(f"caption {caption!r} has {found} {where}; write one of: {', '.join(allowed)}")


def _read_noun(tokens: list[str], caption: str) -> tuple[str, str, list[str]]:
    """The shape and the colour that `tokens` begin with, and the tokens after them."""
    for index, (what, allowed) in enumerate((("an article", ("a",)), ("a colour", COLOURS), ("a shape", SHAPES))):
        if len(tokens) <= index or tokens[index] not in allowed:
            raise _misplaced(tokens[index:], f"where {what} belongs", allowed, caption)
    return tokens[2], tokens[1], tokens[3:]


def _read_motion(tokens: list[str], form: int, caption: str) -> tuple[str, str | None, list[str]]:
    """The motion and the speed that `tokens` begin with, and the tokens after them; form 1 is that after an opening."""
    has_adverb = bool(tokens) and tokens[0] in _ADVERBS_BEFORE
    rest = tokens[has_adverb:]
    phrases = {verbs[form]: motion for motion, wordings in _VERBS.items() for verbs in wordings}
    found = next((phrase for phrase in phrases if rest[: len(phrase.split())] == phrase.split()), None)
    if found is None:
        raise _misplaced(rest, "where a motion belongs", tuple(phrases), caption)
    rest = rest[len(found.split()) :]
    if has_adverb:
        return phrases[found], _ADVERBS[tokens[0]], rest
    if rest and rest[0] in _ADVERBS:
        return phrases[found], _ADVERBS[rest[0]], rest[1:]
    return phrases[found], None, rest


def _all_scenes() -> Iterator[Scene]:
    """Every scene of the grammar, task by task."""
    things = list(product(SHAPES, COLOURS))
    moving = [motion for motion in MOTIONS if motion != "stay"]
    couples = [(one, two) for one, two in permutations(things, 2) if one[0] != two[0] and one[1] != two[1]]
    yield from (compose((Item(*one, (motion,)),)) for one, motion in product(things, MOTIONS))
    yield from (compose((Item(*one, (motion,), speed),)) for one, motion, speed in product(things, moving, SPEEDS))
    yield from (compose((Item(*one, motions),)) for one, motions in product(things, permutations(MOTIONS, 2)))
    for (one, two), first, second in product(couples, MOTIONS, MOTIONS):
        if SHAPES.index(one[0]) < SHAPES.index(two[0]) and (first, second) != ("stay", "stay"):
            yield compose((Item(*one, (first,)), Item(*two, (second,))))
    for (one, two), first, second in product(couples, moving, moving):
        yield compose((Item(*one, (first, "stay")), Item(*two, ("stay", second))))


@lru_cache(maxsize=1)
def _scenes_by_split() -> dict[str, tuple[Scene, ...]]:
    return split_by_hash(_all_scenes(), lambda scene: scene.task, caption)


def scenes(split: str) -> tuple[Scene, ...]:
    """Every scene of `split`, one of `SPLITS`, task by task.

    The splits share no scene, which is task, objects, motions and speed together, and so no caption: a held-out scene is a new
    combination of words that are all in `train`. Which scene goes where depends on a hash of its meaning alone: 76 % train,
    8 % validation, 16 % heldout of each task.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
    return _scenes_by_split()[split]


def prompts(split: str, count: int, seed: int, shares: dict[str, float] | None = None) -> list[Prompt]:
    """`count` prompts of `split`, the tasks in the proportions of `shares` (default `TASK_SHARES`), in shuffled order.

    Deterministic in its arguments. Within a task every scene comes once before any comes twice, and no text repeats
    until all texts of the task are used up; then they start again.
    """
    all_scenes = scenes(split)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found = []
    for task, quota in quotas(TASK_SHARES if shares is None else shares, count, TASKS).items():
        pool = [scene for scene in all_scenes if scene.task == task]
        found += [Prompt(text, task, caption(parse(text))) for text in draw(pool, wordings, quota, rng)]
    return [found[index] for index in rng.permutation(count)]
