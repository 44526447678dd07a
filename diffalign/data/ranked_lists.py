"""Ranked lists: which of their samples are tied, and which stay in a list without ties or of a given length. Places count from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from diffalign.data.records import Preference


def tied_places(scores: Sequence[float]) -> set[int]:
    """Places, of scores from best to worst, whose score the one before has."""
    return {place for place, (earlier, later) in enumerate(pairwise(scores), 1) if earlier == later}


def untied(tied: set[int], count: int) -> list[int]:
    """The places of a list of `count` thinned to its distinct scores; all of it where all are equal, which is a tie as a whole."""
    return [place for place in range(count) if place not in tied or len(tied) == count - 1]


def spread(count: int, length: int | None) -> list[int]:
    """`length` of `count` places: the first, the last, and evenly spread ranks between, rounded to the better; all where there are no more.

    length   2 or more, or None for all
    """
    if length is None or count <= length:
        return list(range(count))
    return [place * (count - 1) // (length - 1) for place in range(length)]


def shortened(preference: Preference, places: Sequence[int]) -> Preference:
    """A list of those of its samples, with their scores."""
    scores = preference.scores
    return replace(
        preference,
        samples=tuple(preference.samples[place] for place in places),
        scores=None if scores is None else tuple(scores[place] for place in places),
    )
