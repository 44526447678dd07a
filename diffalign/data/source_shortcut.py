"""The shortcut of sources: where chosen and rejected come from different models, a policy can learn the model and not the preference.

"More is Less" finds that pools of several generators make both sides linearly separable, and that what is aligned on them learns the
generator; its remedy is one generator for both. Its probe reads features of the samples, this one the names of their models alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from diffalign.data.records import Preference

FOLDS = 5
EXACT = 8  # sources whose best ranking is searched in full
RISK = 0.05  # of a bound that lies too high


@dataclass(frozen=True)
class SourceShortcut:
    """What the sources of two samples say of which is preferred.

    across    pairs with a winner (of a list: every two of its samples that are not tied) whose samples are of different sources
    within    such pairs of one source
    share     of `across`, in which a fixed ranking of the sources, fitted on other groups, names the winner; each group counts as one
    at_least  its lower bound, one-sided, 95 % over groups: Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404
    ranking   the ranking that names the most winners of all, best first
    """

    across: int
    within: int
    share: float
    at_least: float
    ranking: tuple[str, ...]

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the ranking is right more often than a coin, the bound considered."""
        return self.at_least > 0.5


def source_shortcut(preferences: Iterable[Preference], sources: Mapping[str, str]) -> SourceShortcut | None:
    """What sources say of the winners of pairs and lists; None where no pair is across sources. Rows judged one by one have no pairs.

    sources  candidate_id → source
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    within = 0
    for preference in preferences:
        for winner, loser in _decided(preference):
            if sources[winner] == sources[loser]:
                within += 1
            else:
                groups.setdefault(preference.group_id, []).append((sources[winner], sources[loser]))
    if not groups:
        return None
    names = sorted({name for pairs in groups.values() for pair in pairs for name in pair})
    wins = np.stack([_wins(groups[group_id], names) for group_id in sorted(groups)])
    share = float(np.mean([right for fold in range(min(FOLDS, len(wins))) for right in _held_out(wins, fold)]))
    ranking = tuple(names[place] for place in best_ranking(wins.sum(axis=0)))
    return SourceShortcut(sum(map(len, groups.values())), within, share, lower_bound(share, len(wins)), ranking)


def _decided(preference: Preference) -> Iterator[tuple[str, str]]:
    """The pairs (winner, loser) that a preference says."""
    if preference.kind == "labelled" or preference.win_probability == 0.5:
        return
    scores = preference.scores if preference.kind == "list" else None
    for first, second in combinations(range(len(preference.samples)), 2):
        if scores is None or scores[first] != scores[second]:
            yield preference.samples[first], preference.samples[second]


def _wins(pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> np.ndarray:
    """(S, S): the share of a group's pairs that source i wins against j."""
    wins = np.zeros((len(names), len(names)))
    for winner, loser in pairs:
        wins[names.index(winner), names.index(loser)] += 1 / len(pairs)
    return wins


def _held_out(wins: np.ndarray, fold: int) -> list[float]:
    """Of each group of a fold, the share of winners that the best ranking of the other groups names; ½ for sources that those lack."""
    is_out = np.arange(len(wins)) % FOLDS == fold
    fitted = wins[~is_out].sum(axis=0)
    places = np.argsort(best_ranking(fitted))
    seen = (fitted.sum(axis=0) + fitted.sum(axis=1)) > 0
    right = np.where(seen[:, None] & seen[None, :], places[:, None] < places[None, :], 0.5)
    return [float((each * right).sum()) for each in wins[is_out]]


def best_ranking(wins: np.ndarray) -> list[int]:
    """The order of sources, best first, that names the most winners, wins[i, j] those of i over j; by net wins where there are many."""
    count = len(wins)
    if count > EXACT:
        return np.argsort(wins.sum(axis=0) - wins.sum(axis=1), kind="stable").tolist()
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # of a set of sources (bits): the winners named, and the order
    for members in range(1, 1 << count):
        ends = [last for last in range(count) if members >> last & 1]
        orders = [(last, best[members ^ (1 << last)]) for last in ends]
        best[members] = max(
            ((named + float(wins[list(order), last].sum()), (*order, last)) for last, (named, order) in orders), key=lambda found: found[0]
        )
    return list(best[(1 << count) - 1][1])


def lower_bound(share: float, count: int) -> float:
    """The one-sided lower 95 % bound of a share of `count` trials."""
    from scipy.stats import beta

    successes = share * count
    return float(beta.ppf(RISK, successes, count - successes + 1)) if successes > 0 else 0.0
