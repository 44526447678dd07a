"""The caption grammar of the shapes world: GenEval's six tasks (Ghosh et al. 2023, arXiv:2310.11513), as text and as scenes.

A `Scene` is what a caption means. Scenes are canonical: two captions mean the same exactly if they parse to equal scenes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from reward_models.worlds.splits import SPLITS, draw, quotas, split_by_hash

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
RELATIONS = ("left of", "above")
MAX_COUNT = 4

# Which share of the prompts each task gets; the tasks that small models fail at get more.
TASK_SHARES = {
    "object": 0.08,
    "two_objects": 0.17,
    "counting": 0.25,
    "colour": 0.10,
    "position": 0.20,
    "attribution": 0.20,
}
TASKS = tuple(TASK_SHARES)

_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}
_OPENINGS = ("", "a picture of ", "an image of ")  # each opens any caption
_JOINS = ("and", "with")
# Every wording of a relation: (words, whether the first object named is the scene's second).
_RELATION_WORDS = {
    "left of": (
        ("left of", False),
        ("to the left of", False),
        ("on the left of", False),
        ("right of", True),
        ("to the right of", True),
        ("on the right of", True),
    ),
    "above": (("above", False), ("over", False), ("below", True), ("under", True)),
}


@dataclass(frozen=True)
class Item:
    """`count` objects of one shape; `colour` None means that the caption does not say."""

    shape: str
    colour: str | None = None
    count: int = 1

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; choose one of: {', '.join(SHAPES)}")
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"unknown colour {self.colour!r}; choose one of: {', '.join(COLOURS)}, or None")
        if self.count not in _NUMBERS:
            raise ValueError(f"count {self.count!r} of {self.shape!r} is not in the grammar; give 1 to {MAX_COUNT}")


@dataclass(frozen=True)
class Scene:
    """The meaning of a caption; build it with `compose`, which puts it in canonical form.

    task: one of `TASKS`. items: one or two. relation: None, or one of `RELATIONS`, said of items[0] with respect to items[1].
    """

    task: str
    items: tuple[Item, ...]
    relation: str | None = None

    def objects(self) -> tuple[Item, ...]:
        """One `Item` of count 1 per object that the picture must show, in the order of `items`."""
        return tuple(Item(item.shape, item.colour) for item in self.items for _ in range(item.count))


@dataclass(frozen=True)
class Prompt:
    """A caption, the task it belongs to, and its scene's plainest caption, which prompts that mean the same share."""

    text: str
    task: str
    scene: str


def compose(items: tuple[Item, ...], relation: str | None = None) -> Scene:
    """The canonical `Scene` of one or two items; ValueError if no task of the grammar covers them.

    Without a relation the order of two items means nothing, so they are sorted. Two items need different shapes, one
    object each, and either no colours or two different ones.
    """
    if len(items) == 1 and relation is None:
        (item,) = items
        task = "counting" if item.count > 1 else "object" if item.colour is None else "colour"
        return Scene(task, (item,))
    if len(items) != 2 or relation not in (None, *RELATIONS):
        raise ValueError(
            f"{len(items)} items with relation {relation!r} are not in the grammar; give one item without a relation, "
            f"or two with None or one of: {', '.join(RELATIONS)}"
        )
    first, second = items
    if first.count != 1 or second.count != 1:
        raise ValueError(f"counts {first.count} and {second.count} of two items are not in the grammar; give one each")
    if first.shape == second.shape:
        raise ValueError(f"two items of shape {first.shape!r} are not in the grammar; give two different shapes")
    if (first.colour is None) != (second.colour is None) or (first.colour and first.colour == second.colour):
        raise ValueError(f"colours {first.colour!r} and {second.colour!r} of two items are not in the grammar; give two different or none")
    if relation is not None:
        return Scene("position", (first, second), relation)
    task = "two_objects" if first.colour is None else "attribution"
    return Scene(task, tuple(sorted(items, key=lambda item: SHAPES.index(item.shape))))


def _noun_phrase(item: Item, number: str = "a") -> str:
    words = [number if item.count == 1 else _NUMBERS[item.count]]
    if item.colour is not None:
        words.append(item.colour)
    words.append(item.shape if item.count == 1 else _PLURALS[item.shape])
    return " ".join(words)


def wordings(scene: Scene) -> tuple[str, ...]:
    """Every caption that `parse` reads as `scene`, of those the grammar writes; distinct, the plainest first."""
    openings = (*_OPENINGS, "there are " if scene.items[0].count > 1 else "there is ")
    if scene.relation is not None:
        first, second = (_noun_phrase(item) for item in scene.items)
        bodies, sentences = [], []
        for words, is_swapped in _RELATION_WORDS[scene.relation]:
            left, right = (second, first) if is_swapped else (first, second)
            bodies.append(f"{left} {words} {right}")
            sentences.append(f"{left} is {words} {right}")
    elif len(scene.items) == 2:
        first, second = (_noun_phrase(item) for item in scene.items)
        bodies = [f"{a} {join} {b}" for join in _JOINS for a, b in ((first, second), (second, first))]
        sentences = []
    elif scene.items[0].count == 1:
        bodies, sentences = [_noun_phrase(scene.items[0]), _noun_phrase(scene.items[0], "one")], []
    else:
        bodies, sentences = [_noun_phrase(scene.items[0]), "a group of " + _noun_phrase(scene.items[0])], []
    return (*(opening + body for opening in openings for body in bodies), *sentences)


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption of at most 16 words that means `scene`: the plainest wording, or one that `rng` picks uniformly."""
    texts = wordings(scene)
    return texts[0] if rng is None else texts[int(rng.integers(len(texts)))]


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """The sorted vocabulary: every word of every caption."""
    return tuple(sorted({word for scene in _all_scenes() for text in wordings(scene) for word in text.split()}))


def parse(caption: str) -> Scene:
    """The scene a caption means; the inverse of `caption` for every wording.

    Case, surplus spaces and a final full stop do not matter. ValueError names an unknown word and the known ones, or the
    place where a caption of known words leaves the grammar.
    """
    tokens = caption.lower().strip().rstrip(".").split()
    for token in tokens:
        if token not in words():
            raise ValueError(f"unknown word {token!r} in caption {caption!r}; known words: {', '.join(words())}")
    rest = _skip_opening(tokens)
    first, rest = _read_item(rest, caption)
    if not rest:
        return compose((first,))
    if rest[0] in _JOINS:
        second, rest = _read_item(rest[1:], caption)
        relation, is_swapped = None, False
    else:
        relation, is_swapped, rest = _read_relation(rest, caption)
        second, rest = _read_item(rest, caption)
    if rest:
        raise ValueError(f"caption {caption!r} goes on with {' '.join(rest)!r} after two objects; end it there")
    return compose((second, first) if is_swapped else (first, second), relation)


def _skip_opening(tokens: list[str]) -> list[str]:
    for opening in (*_OPENINGS[1:], "there is", "there are"):
        start = opening.split()
        if tokens[: len(start)] == start:
            tokens = tokens[len(start) :]
            break
    return tokens[3:] if tokens[:3] == ["a", "group", "of"] else tokens


def _read_item(tokens: list[str], caption: str) -> tuple[Item, list[str]]:
    """The item that `tokens` begin with, and the tokens after it."""
    counts = {"a": 1, **{word: count for count, word in _NUMBERS.items()}}
    if not tokens or tokens[0] not in counts:
        found = repr(tokens[0]) if tokens else "the end"
        raise ValueError(f"caption {caption!r} has {found} where a number belongs; write one of: {', '.join(counts)}")
    count, rest = counts[tokens[0]], tokens[1:]
    colour, rest = (rest[0], rest[1:]) if rest and rest[0] in COLOURS else (None, rest)
    nouns = {shape if count == 1 else _PLURALS[shape]: shape for shape in SHAPES}
    if not rest or rest[0] not in nouns:
        found = repr(rest[0]) if rest else "the end"
        raise ValueError(f"caption {caption!r} has {found} where a shape belongs; write one of: {', '.join(nouns)}")
    return Item(nouns[rest[0]], colour, count), rest[1:]


def _read_relation(tokens: list[str], caption: str) -> tuple[str, bool, list[str]]:
    """The relation that `tokens` begin with, whether it swaps the objects, and the tokens after it."""
    rest = tokens[1:] if tokens[0] == "is" else tokens
    for relation, phrases in _RELATION_WORDS.items():
        for words_, is_swapped in phrases:
            phrase = words_.split()
            if rest[: len(phrase)] == phrase:
                return relation, is_swapped, rest[len(phrase) :]
    allowed = [phrase for phrases in _RELATION_WORDS.values() for phrase, _ in phrases]
    raise ValueError(
        f"caption {caption!r} has {' '.join(tokens)!r} where it should end or go on with one of: {', '.join((*_JOINS, *allowed))}"
    )


def _all_scenes() -> Iterator[Scene]:
    """Every scene of the grammar, task by task."""
    for shape in SHAPES:
        for colour in (None, *COLOURS):
            for count in _NUMBERS:
                yield compose((Item(shape, colour, count),))
    for first, second in permutations(SHAPES, 2):
        for left, right in ((None, None), *permutations(COLOURS, 2)):
            items = (Item(first, left), Item(second, right))
            if SHAPES.index(first) < SHAPES.index(second):
                yield compose(items)
            for relation in RELATIONS:
                yield compose(items, relation)


@lru_cache(maxsize=1)
def _scenes_by_split() -> dict[str, tuple[Scene, ...]]:
    by_task = sorted(_all_scenes(), key=lambda scene: TASKS.index(scene.task))
    return split_by_hash(by_task, lambda scene: scene.task, caption)


def scenes(split: str) -> tuple[Scene, ...]:
    """Every scene of `split`, one of `SPLITS`, task by task.

    The splits share no scene, which is task, items and relation together, and so no caption. They do share items: each item
    of a held-out pair is in `train` in other scenes, and so is the pair itself under another relation or none.
    Which scene goes where depends on a hash of its meaning alone: 76 % train, 8 % validation, 16 % heldout of each task.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
    return _scenes_by_split()[split]


def prompts(split: str, count: int, seed: int, shares: dict[str, float] | None = None) -> list[Prompt]:
    """`count` prompts of `split`, the tasks in the proportions of `shares` (default `TASK_SHARES`), in shuffled order.

    Deterministic in its arguments. Within a task every scene comes once before any comes twice, and no text repeats
    until all texts of the task are used up; then they start again (validation has few captions of one object).
    """
    shares = TASK_SHARES if shares is None else shares
    all_scenes = scenes(split)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found = []
    for task, quota in quotas(shares, count, TASKS).items():
        pool = [scene for scene in all_scenes if scene.task == task]
        found += [Prompt(text, task, caption(parse(text))) for text in draw(pool, wordings, quota, rng)]
    return [found[index] for index in rng.permutation(count)]
