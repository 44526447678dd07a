"""Pairs that a judge is asked about in both orders: what it says only of the place of a medium in the question is a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import nan

CHOICES = ("first", "second", "tie")


def pairs_in_both_orders(prompts: Sequence[str]) -> list[tuple[int, int]]:
    """Each two places of equal prompts, in both orders one after the other."""
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    return [order for places in groups.values() for one, other in combinations(places, 2) for order in ((one, other), (other, one))]


def win_shares(answers: Mapping[tuple[int, int], str | None], items: int) -> list[float]:
    """Of each item the mean over its pairs of 1 for a win that both orders agree on, 0 for such a loss, 0.5 else; 0.5 without pairs.

    answers  of (shown first, shown second), of CHOICES; each pair in both orders. None: no answer, and the pair counts for neither; an item
             of which no pair is left has NaN
    """
    points, pairs = [0.0] * items, [0] * items
    for (first, second), answer in answers.items():
        other = answers[second, first]
        if answer is None or other is None:
            continue
        # Each pair is met twice, once in each order: the item shown first takes its points.
        points[first] += {("first", "second"): 1.0, ("second", "first"): 0.0}.get((answer, other), 0.5)
        pairs[first] += 1
    met = {first for first, _ in answers}
    return [points[item] / pairs[item] if pairs[item] else nan if item in met else 0.5 for item in range(items)]
