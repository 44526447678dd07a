"""The caption grammar of the tones world: beeps, buzzes, noise, chirps and clicks, one after another or two at once, as text and as scenes.

A `Scene` is what a caption means. Scenes are canonical: two captions mean the same exactly if they parse to equal scenes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import numpy as np

from reward_models.worlds.splits import SPLIT_SHARES, SPLITS, draw, quotas, split_by_hash

KINDS = ("beep", "buzz", "noise", "chirp", "click")
PITCHES = ("low", "middle", "high")
DIRECTIONS = ("rising", "falling")
VARIANTS = {"beep": PITCHES, "buzz": PITCHES, "noise": (), "chirp": DIRECTIONS, "click": ()}
MAX_EVENTS = 3

# Which share of the prompts each task gets; the tasks that small models fail at get more.
TASK_SHARES = {"single": 0.08, "pitch": 0.16, "order2": 0.26, "order3": 0.25, "together": 0.25}
TASKS = tuple(TASK_SHARES)

_TOGETHER = {"click": ("beep", "buzz", "chirp"), "noise": ("beep", "chirp")}  # what can be told apart from it while both sound
_OPENINGS = ("", "the sound of ", "a recording of ", "there is ")
_JOINS = (("then",), ("and", "then"), ("and", "finally"), ("followed", "by"), ("before",), ("after",))
_BETWEEN_EVENTS = ("then", "finally", "followed", "before", "after", "while", "with", "once")  # one of them for every event but one
# {0}, {1}, {2} are events in the order of time.
_ORDERS_OF_TWO = ("{0}, then {1}", "{0}, followed by {1}", "{0} and then {1}")
_ORDERS_OF_TWO_EVENTS = ("{0} before {1}", "{1} after {0}")  # "noise after a beep while a click repeats" would be read in two ways
_ORDERS_OF_THREE = (
    "{0}, then {1}, then {2}",
    "{0}, followed by {1}, then {2}",
    "{0}, followed by {1}, followed by {2}",
    "{0}, then {1}, and then {2}",
    "{0}, then {1}, and finally {2}",
)


@dataclass(frozen=True)
class Event:
    """One sound. `pitch` is low, middle or high of a beep or buzz, rising or falling of a chirp; None: the caption does not say."""

    kind: str
    pitch: str | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of sound {self.kind!r}; choose one of: {', '.join(KINDS)}")
        if self.pitch is not None and self.pitch not in VARIANTS[self.kind]:
            allowed = "".join(f"{name}, " for name in VARIANTS[self.kind])
            raise ValueError(f"a {self.kind} cannot be {self.pitch!r}; give one of: {allowed}None")


@dataclass(frozen=True)
class Scene:
    """The meaning of a caption; build it with `compose`, which puts it in canonical form.

    task: one of `TASKS`. groups: in the order of time, each of one event or of two that sound at once.
    """

    task: str
    groups: tuple[tuple[Event, ...], ...]

    def events(self) -> tuple[Event, ...]:
        """Every event, in the order of `groups`."""
        return tuple(event for group in self.groups for event in group)


@dataclass(frozen=True)
class Prompt:
    """A caption, the task it belongs to, and its scene's plainest caption, which prompts that mean the same share."""

    text: str
    task: str
    scene: str


def compose(groups: tuple[tuple[Event, ...], ...]) -> Scene:
    """The canonical `Scene` of one to three groups of events in the order of time; ValueError if no task of the grammar covers them.

    Two events at once have no order, so the tonal one comes first. Neighbours differ in meaning, and share no kind where two sound at once.
    """
    if not groups or any(len(group) not in (1, 2) for group in groups) or sum(map(len, groups)) > MAX_EVENTS:
        sizes = [len(group) for group in groups]
        raise ValueError(f"groups of {sizes} events are not in the grammar; give 1 to {MAX_EVENTS} events, at most two of them at once")
    groups = tuple(tuple(sorted(group, key=lambda event: event.kind in _TOGETHER)) for group in groups)
    for group in groups:
        if len(group) == 2 and group[0].kind not in _TOGETHER.get(group[1].kind, ()):
            pairs = "; ".join(f"{other} with {' or '.join(kinds)}" for other, kinds in _TOGETHER.items())
            raise ValueError(f"a {group[0].kind} and a {group[1].kind} at once are not in the grammar; at once go {pairs}")
    for before, after in pairwise(groups):
        is_single = len(before) == len(after) == 1
        if before == after or (not is_single and {event.kind for event in before} & {event.kind for event in after}):
            raise ValueError(f"{_group_phrases(before)[0]!r} next to {_group_phrases(after)[0]!r} is not in the grammar; let them differ")
    if any(len(group) == 2 for group in groups):
        return Scene("together", groups)
    if len(groups) > 1:
        return Scene(f"order{len(groups)}", groups)
    has_pitch = any(event.pitch is not None for group in groups for event in group)
    return Scene("pitch" if has_pitch else "single", groups)


def _event_phrases(event: Event) -> tuple[str, ...]:
    """Every noun phrase of an event, the plainest first."""
    if event.kind == "noise":
        return "noise", "a burst of noise"
    if event.kind == "click":
        return "a repeating click", "a click that repeats"
    return (f"a {event.pitch} {event.kind}" if event.pitch else f"a {event.kind}",)


def _group_phrases(group: tuple[Event, ...]) -> tuple[str, ...]:
    """Every phrase of what sounds at once, the plainest first."""
    if len(group) == 1:
        return _event_phrases(group[0])
    (tone,), others = _event_phrases(group[0]), _event_phrases(group[1])
    plainest = (f"{tone} while a click repeats",) if group[1].kind == "click" else ()
    joined = [text for other in others for text in (f"{tone} with {other}", f"{other} with {tone}", f"{tone} and {other} at once")]
    return (*plainest, *joined)


def wordings(scene: Scene) -> tuple[str, ...]:
    """Every caption that `parse` reads as `scene`, of those the grammar writes; distinct, the plainest first."""
    phrases = [_group_phrases(group) for group in scene.groups]
    if len(phrases) == 1:
        bodies = list(phrases[0])
        if len(scene.groups[0]) == 1 and scene.groups[0][0].kind not in _TOGETHER:
            bodies += [phrases[0][0].replace("a ", number, 1) for number in ("one ", "a single ")]
        return tuple(opening + body for opening in _OPENINGS for body in bodies)
    orders = _ORDERS_OF_THREE if len(phrases) == 3 else _ORDERS_OF_TWO
    if len(phrases) == 2 and scene.task != "together":
        orders += _ORDERS_OF_TWO_EVENTS
    bodies = [order.format(*chosen) for chosen in product(*phrases) for order in orders]
    firsts = [f"first {order.format(*(one[0] for one in phrases))}" for order in orders if order.startswith("{0}, then")]
    return (*(opening + body for opening in _OPENINGS for body in bodies), *firsts)


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption of at most 20 words that means `scene`: the plainest wording, or one that `rng` picks uniformly."""
    texts = wordings(scene)
    return texts[0] if rng is None else texts[int(rng.integers(len(texts)))]


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """The sorted vocabulary: every word of every caption, without its comma."""
    return tuple(sorted({word for scene in _all_scenes() for text in wordings(scene) for word in _tokens(text)}))


def _tokens(caption: str) -> list[str]:
    return caption.lower().replace(",", " ").strip().rstrip(".").split()


def parse(caption: str) -> Scene:
    """The scene a caption means; the inverse of `caption` for every wording.

    Case, commas, surplus spaces and a final full stop do not matter. ValueError names an unknown word and the known ones, or the place
    where a caption of known words leaves the grammar.
    """
    tokens = _tokens(caption)
    for token in tokens:
        if token not in words():
            if token.strip(";:/&+|") in words() or token in (";", ":", "/", "&", "+", "|"):
                raise ValueError(f"caption {caption!r} has {token!r}, where events are separated by ', then'")
            raise ValueError(f"unknown word {token!r} in caption {caption!r}; known words: {', '.join(words())}")
    events = 1 + sum(token in _BETWEEN_EVENTS for token in tokens)
    if events > MAX_EVENTS:
        raise ValueError(f"caption {caption!r} has {events} events; give at most {MAX_EVENTS} events")
    group, rest = _read_group(_skip_opening(tokens), caption)
    groups, is_reversed = [group], False
    while rest:
        join = next((join for join in _JOINS if tuple(rest[: len(join)]) == join), None)
        if join is None or (len(groups) > 1 and (is_reversed or join == ("after",))):
            allowed = ", ".join(" ".join(join) for join in _JOINS)
            raise ValueError(f"caption {caption!r} has {' '.join(rest)!r} where it should end or go on with one of: {allowed}")
        is_reversed = join == ("after",)
        group, rest = _read_group(rest[len(join) :], caption)
        groups.append(group)
    return compose(tuple(reversed(groups) if is_reversed else groups))


def _skip_opening(tokens: list[str]) -> list[str]:
    for opening in (*_OPENINGS[1:], "first"):
        start = opening.split()
        if tokens[: len(start)] == start:
            return tokens[len(start) :]
    return tokens


def _read_group(tokens: list[str], caption: str) -> tuple[tuple[Event, ...], list[str]]:
    """The events that `tokens` begin with, and the tokens after them."""
    first, rest = _read_event(tokens, caption)
    if rest[:4] == ["while", "a", "click", "repeats"]:
        return (first, Event("click")), rest[4:]
    if rest[:1] == ["with"]:
        second, rest = _read_event(rest[1:], caption)
        return (first, second), rest
    if rest[:1] == ["and"] and rest[1:2] not in (["then"], ["finally"]):
        second, rest = _read_event(rest[1:], caption)
        if rest[:2] != ["at", "once"]:
            raise ValueError(f"caption {caption!r} joins two sounds by 'and' alone; write 'and then' or end them with 'at once'")
        return (first, second), rest[2:]
    return (first,), rest


def _read_event(tokens: list[str], caption: str) -> tuple[Event, list[str]]:
    """The event that `tokens` begin with, and the tokens after it."""
    for event in (Event("noise"), Event("click")):
        for phrase in map(str.split, _event_phrases(event)):
            if tokens[: len(phrase)] == phrase:
                return event, tokens[len(phrase) :]
    for number in (["a", "single"], ["a"], ["one"]):
        if tokens[: len(number)] == number:
            rest = tokens[len(number) :]
            pitch, rest = (rest[0], rest[1:]) if rest and rest[0] in (*PITCHES, *DIRECTIONS) else (None, rest)
            if rest and rest[0] in ("beep", "buzz", "chirp"):
                return Event(rest[0], pitch), rest[1:]
    found = repr(" ".join(tokens[:3])) if tokens else "the end"
    raise ValueError(
        f"caption {caption!r} has {found} where a sound belongs; write one like 'a low beep', 'a buzz', 'a rising chirp', "
        "'noise' or 'a repeating click'"
    )


def _all_scenes() -> Iterator[Scene]:
    """Every scene of the grammar, task by task."""
    events = [Event(kind, pitch) for kind in KINDS for pitch in (None, *VARIANTS[kind])]
    singles = [(event,) for event in events]
    pairs = [(tone, Event(other)) for other, tones in _TOGETHER.items() for tone in events if tone.kind in tones]
    candidates = [(group,) for group in (*singles, *pairs)]
    candidates += [groups for count in (2, 3) for groups in product(singles, repeat=count)]
    candidates += [groups for pair in pairs for one in singles for groups in ((pair, one), (one, pair))]
    for groups in candidates:
        try:
            scene = compose(groups)
        except ValueError:  # neighbours that do not differ
            continue
        yield scene


@lru_cache(maxsize=1)
def _scenes_by_split() -> dict[str, tuple[Scene, ...]]:
    ordered = sorted(_all_scenes(), key=lambda scene: TASKS.index(scene.task))
    return split_by_hash(ordered, lambda scene: scene.task, _what_sounds, SPLIT_SHARES)


def _what_sounds(scene: Scene) -> str:
    """The events of a scene without their order: who has learned one of two orders by heart is not asked for the other."""
    return ", ".join(sorted(_event_phrases(event)[0] for event in scene.events()))


def scenes(split: str) -> tuple[Scene, ...]:
    """Every scene of `split`, one of `SPLITS`, task by task.

    The splits share no scene and so no caption. They do share events: a held-out sequence is of events that `train` has in other sequences.
    Which scene goes where depends on a hash of what sounds in it alone: 76 % train, 8 % validation, 16 % heldout of each task, and the same
    sounds in another order always in the same split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
    return _scenes_by_split()[split]


def prompts(split: str, count: int, seed: int, shares: dict[str, float] | None = None) -> list[Prompt]:
    """`count` prompts of `split`, the tasks in the proportions of `shares` (default `TASK_SHARES`), in shuffled order.

    Deterministic in its arguments. Within a task every scene comes once before any comes twice, and no text repeats until all texts of the
    task are used up; then they start again (validation has few captions of one sound).
    """
    all_scenes = scenes(split)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found = []
    for task, quota in quotas(TASK_SHARES if shares is None else shares, count, TASKS).items():
        pool = [scene for scene in all_scenes if scene.task == task]
        found += [Prompt(text, task, caption(parse(text))) for text in draw(pool, wordings, quota, rng)]
    return [found[index] for index in rng.permutation(count)]
