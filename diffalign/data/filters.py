"""Filters: which candidates may meet, and which pairs are dropped and why. The first filter that objects is the one counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from diffalign.data.groups import Group
from diffalign.data.pairing_settings import PairingSettings


@dataclass(frozen=True)
class Judged:
    """A proposed preference as the pair filters see it: its best and worst sample.

    gap        best − worst, ≥ 0 (labelled: distance from the threshold); None where the data came with an order and no scores
    winner     score of the best, or None likewise
    agreement  per score of `settings.agreement`: value of the best − value of the worst
    is_tie     the judge does not prefer either, in no span where it judged spans
    samples    how many samples it has, before a list is cut to `settings.length`
    spans      1, −1 or 0 for each span of `settings.spans`
    keeps_thresholds  whether it keeps those of every score of `settings.thresholds`
    """

    gap: float | None
    winner: float | None
    agreement: tuple[float, ...]
    is_tie: bool
    samples: int
    spans: tuple[int, ...] = ()
    keeps_thresholds: bool = True


PAIR_FILTERS: dict[str, Callable[[Judged, PairingSettings], bool]] = {  # True: drop
    "ties": lambda pair, settings: settings.ties == "drop" and pair.is_tie,
    "order": lambda pair, settings: settings.rule in ("own_vs_rest", "pareto") and pair.gap is not None and pair.gap < 0,
    "length": lambda pair, settings: settings.length is not None and pair.samples < settings.length,
    "minimum_gap": lambda pair, settings: settings.minimum_gap > 0 and _known(pair.gap, "minimum_gap") < settings.minimum_gap,
    "maximum_gap": lambda pair, settings: settings.maximum_gap is not None and _known(pair.gap, "maximum_gap") > settings.maximum_gap,
    "minimum_winner": lambda pair, settings: (
        settings.minimum_winner is not None and _known(pair.winner, "minimum_winner") < settings.minimum_winner
    ),
    "minimum_judged": lambda pair, settings: sum(map(abs, pair.spans)) < settings.minimum_judged * len(pair.spans),
    "agreement": lambda pair, settings: any(difference < 0 for difference in pair.agreement),
    "thresholds": lambda pair, settings: not pair.keeps_thresholds,
}


def objection(pair: Judged, settings: PairingSettings) -> str | None:
    """The name of the first filter that drops the pair, or None."""
    return next((name for name, drops in PAIR_FILTERS.items() if drops(pair, settings)), None)


@dataclass(frozen=True)
class Parts:
    """A group cut into parts whose members may meet: positions in the group. `dropped`: candidates set aside, by reason."""

    parts: list[list[int]]
    dropped: dict[str, int]


def split_group(group: Group, values: Sequence[float], settings: PairingSettings) -> Parts:
    """Cut a group into parts of one source and one size, each without unscored or identical candidates, in order of id.

    values   the score of each candidate that ranks; not finite: set aside as "unscored"
    A candidate left without a partner is set aside as "alone" (its group has no other), "same_source" or "same_size": no other is of its
    model, or of its size (`Group.sizes`; sounds of one size last equally long). The setting of that name, false, lets them meet.
    """
    dropped: dict[str, int] = {}
    every = sorted(range(len(group.ids)), key=lambda index: group.ids[index])
    meet = settings.strategies and {*settings.strategies, *([""] if settings.rule == "own_vs_rest" else [])}  # where "" wins, named or not
    order = [index for index in every if not meet or group.strategies[index] in meet]
    _count(dropped, "strategies", len(every) - len(order))
    read = [values, *(group.scores[name] for name in (*settings.agreement, *settings.thresholds, *settings.spans))]
    scored = [index for index in order if all(column[index] is not None and math.isfinite(column[index]) for column in read)]
    _count(dropped, "unscored", len(order) - len(scored))
    distinct = _distinct(group, scored) if settings.deduplicate else scored
    _count(dropped, "deduplicate", len(scored) - len(distinct))
    if settings.rule == "labelled":
        return Parts([distinct] if distinct else [], dropped)
    parts = _partners([distinct], None, "alone", dropped)
    if settings.same_source:
        parts = _partners(parts, lambda index: group.sources[index], "same_source", dropped)
    if settings.same_size:
        parts = _partners(parts, lambda index: tuple(group.sizes[index]), "same_size", dropped)
    return Parts(parts, dropped)


def meeting_objection(group: Group, members: Sequence[int], settings: PairingSettings) -> str | None:
    """The filter that forbids these members to meet, for preferences that came with the data, or None: a setting that, false, lets them."""
    identities = [group.identities[index] for index in members if group.identities[index]]
    if settings.deduplicate and len(set(identities)) < len(identities):
        return "deduplicate"
    if settings.same_source and len({group.sources[index] for index in members}) > 1:
        return "same_source"
    if settings.same_size and len({tuple(group.sizes[index]) for index in members}) > 1:
        return "same_size"
    return None


def _distinct(group: Group, members: list[int]) -> list[int]:
    """Members without those whose medium an earlier one has; "" is unknown and equals nothing."""
    seen: set[str] = set()
    kept = []
    for index in members:
        identity = group.identities[index]
        if identity and identity in seen:
            continue
        seen.add(identity)
        kept.append(index)
    return kept


def _partners(parts: list[list[int]], key: Callable[[int], Hashable] | None, reason: str, dropped: dict[str, int]) -> list[list[int]]:
    """Parts cut by key; those of one member are set aside and counted under `reason`."""
    cut: list[list[int]] = []
    for part in parts:
        pieces: dict[Hashable, list[int]] = {}
        for index in part:
            pieces.setdefault(key(index) if key else None, []).append(index)
        cut.extend(pieces.values())
    _count(dropped, reason, sum(len(piece) == 1 for piece in cut))
    return [piece for piece in cut if len(piece) > 1]


def _count(dropped: dict[str, int], reason: str, number: int) -> None:
    if number:
        dropped[reason] = dropped.get(reason, 0) + number


def _known(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(
            f"{name} is set, but these preferences came without scores or votes; remove it, or rank by a reward with another rule"
        )
    return value
