"""The shortcut of sources: where chosen and rejected come from different models, a policy can learn the model and not the preference.

"More is Less" finds that pools of several generators make both sides linearly separable, and that what is aligned on them learns the
generator; its remedy is one generator for both. Its probe reads features of the samples, as latent_shortcut does; this one reads the
names of their models alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


@dataclass(frozen=True)
class _Wins:
    """Pairs of different sources, each array (P,): who won over whom, of which group, and the pair's share of that group."""

    winner: np.ndarray
    loser: np.ndarray
    group: np.ndarray
    share: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> _Wins:
        return _Wins(self.winner[chosen], self.loser[chosen], self.group[chosen], self.share[chosen])


def source_shortcut(preferences: Iterable[Preference], sources: Mapping[str, str]) -> SourceShortcut | None:
    """What sources say of the winners of pairs and lists; None where no pair is across sources. Rows judged one by one have no pairs.

    sources  candidate_id → source
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    within = 0
    for preference in preferences:
        for winner, loser in decided(preference):
            if sources[winner] == sources[loser]:
                within += 1
            else:
                groups.setdefault(preference.group_id, []).append((sources[winner], sources[loser]))
    if not groups:
        return None
    names = sorted({name for pairs in groups.values() for pair in pairs for name in pair})
    place = {name: index for index, name in enumerate(names)}
    rows = [
        (place[winner], place[loser], number, 1 / len(pairs))
        for number, (_, pairs) in enumerate(sorted(groups.items()))
        for winner, loser in pairs
    ]
    wins = _Wins(*map(np.array, zip(*rows)))
    right = sum(_held_out(wins, fold, len(names)) for fold in range(min(FOLDS, len(groups))))
    share = min(1.0, right / len(groups))
    ranking = tuple(names[index] for index in best_ranking(wins.winner, wins.loser, wins.share, len(names)))
    return SourceShortcut(len(rows), within, share, lower_bound(share, len(groups)), ranking)


def decided(preference: Preference) -> Iterator[tuple[str, str]]:
    """The pairs (winner, loser) that a preference says."""
    if preference.kind == "labelled" or preference.win_probability == 0.5:
        return
    scores = preference.scores if preference.kind == "list" else None
    for first, second in combinations(range(len(preference.samples)), 2):
        if scores is None or scores[first] != scores[second]:
            yield preference.samples[first], preference.samples[second]


def _held_out(wins: _Wins, fold: int, count: int) -> float:
    """Over the groups of a fold, the sum of their shares whose winners the best ranking of the other groups names; ½ for new sources."""
    is_out = wins.group % FOLDS == fold
    fitted, out = wins[~is_out], wins[is_out]
    places = np.argsort(best_ranking(fitted.winner, fitted.loser, fitted.share, count))
    is_known = np.isin(np.arange(count), np.concatenate([fitted.winner, fitted.loser]))
    right = np.where(is_known[out.winner] & is_known[out.loser], places[out.winner] < places[out.loser], 0.5)
    return float((right * out.share).sum())


def best_ranking(winner: np.ndarray, loser: np.ndarray, share: np.ndarray, count: int) -> list[int]:
    """The order of `count` sources, best first, that names the most winners, each pair by its share; by net wins where there are many."""
    if count > EXACT:
        net = np.bincount(winner, share, count) - np.bincount(loser, share, count)
        return np.argsort(-net, kind="stable").tolist()
    wins = np.zeros((count, count))
    np.add.at(wins, (winner, loser), share)
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # of a set of sources (bits): the winners named, and the order
    for members in range(1, 1 << count):
        ends = [last for last in range(count) if members >> last & 1]
        orders = [(last, best[members ^ (1 << last)]) for last in ends]
        best[members] = max(
            ((named + float(wins[list(order), last].sum()), (*order, last)) for last, (named, order) in orders), key=lambda found: found[0]
        )
    return list(best[(1 << count) - 1][1])


def lower_bound(share: float, count: float) -> float:
    """The one-sided lower 95 % bound of a share of `count` trials."""
    from scipy.stats import beta

    successes = share * count
    return float(beta.ppf(RISK, successes, count - successes + 1)) if successes > 0 else 0.0
