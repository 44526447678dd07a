"""Filters that compare a row with the rest of its set: they act on what passed the pair filters, before any label is turned around."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from diffalign.data.pairing_settings import PairingSettings
from diffalign.data.records import Preference


def set_objections(rows: Sequence[Preference], settings: PairingSettings) -> dict[int, str]:
    """Place of every dropped row → the name of the filter that drops it; a filter sees what the one before it left.

    Raises ValueError where a filter is set and the rows lack what it reads: scores for `top`, both labels for `positive_share`.
    """
    dropped: dict[int, str] = {}
    for name, surplus in SET_FILTERS.items():
        if getattr(settings, name) is not None:
            left = [place for place in range(len(rows)) if place not in dropped]
            dropped |= {left[place]: name for place in surplus([rows[place] for place in left], settings)}
    return dropped


def _beyond_top(rows: Sequence[Preference], settings: PairingSettings) -> list[int]:
    """Rows of the groups whose best sample is not among the `top` best; of equal ones the first group_id is better."""
    best: dict[str, float] = {}
    for row in rows:
        if row.scores is None:
            raise ValueError(
                f"top {settings.top} compares the winners' scores, and a preference of group {row.group_id!r} came without; remove top, "
                f"or rank by a reward with another rule"
            )
        best[row.group_id] = max(best.get(row.group_id, -float("inf")), *row.scores)
    kept = set(sorted(best, key=lambda group_id: (-best[group_id], group_id))[: settings.top])
    return [place for place, row in enumerate(rows) if row.group_id not in kept]


def _unbalanced(rows: Sequence[Preference], settings: PairingSettings) -> list[int]:
    """Rows of the label there is too much of, as few as bring the share of label 1 nearest to `positive_share`; which, the seed draws."""
    share = settings.positive_share or 0.0
    places: dict[int, list[int]] = {0: [], 1: []}
    for place, row in enumerate(rows):
        if row.labels is None:
            raise ValueError(
                f"positive_share {share} counts labels, and group {row.group_id!r} has a {row.kind}; remove it, or choose rule 'labelled'"
            )
        places[row.labels[0]].append(place)
    if rows and not all(places.values()):
        counts = f"{len(places[1])} of {len(rows)} rows have label 1"
        raise ValueError(f"positive_share {share} needs rows of both labels, and {counts}; move the threshold, or remove positive_share")
    scarce, odds = (1, (1 - share) / share) if len(places[1]) < share * len(rows) else (0, share / (1 - share))
    # Of (seed, sample) alone, through sha512 inside random.seed: the same on every machine and for any order of groups.
    excess = sorted(places[1 - scarce], key=lambda place: random.Random(f"{settings.seed}:{rows[place].samples[0]}").random())
    return excess[max(1, round(len(places[scarce]) * odds)) :]


SET_FILTERS: dict[str, Callable[[Sequence[Preference], PairingSettings], list[int]]] = {"top": _beyond_top, "positive_share": _unbalanced}
