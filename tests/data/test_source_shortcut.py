"""What the sources of two samples say of which is preferred: separable, balanced and single sources, and the numbers by hand."""

from __future__ import annotations

import tracemalloc
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import binom

from diffalign.data.pairing import Group, PairingSettings, pair_groups
from diffalign.data.records import Preference
from diffalign.data.source_shortcut import EXACT, best_ranking, lower_bound, source_shortcut

# a sample's source is the first letter of its id
SOURCES = {f"{source}{number}": source for source in "abcdefghijklmnopqrstuvwxyz" for number in range(200)}


def pairs(words: list[str], group: str | None = None) -> list[Preference]:
    """ "ab": a sample of source a is preferred to one of source b; each in a group of its own, where none is named."""
    return [Preference(group or f"g{i:03d}", "p", (f"{win}{i}", f"{lose}{i + 100}")) for i, (win, lose) in enumerate(words)]


def test_separable_sources_are_beyond_chance() -> None:
    found = source_shortcut(pairs(["ba"] * 40), SOURCES)
    assert found is not None and found.is_beyond_chance
    assert (found.across, found.within, found.share, found.ranking) == (40, 0, 1.0, ("b", "a"))
    assert found.at_least == pytest.approx(0.05 ** (1 / 40)), "the bound for 40 of 40, in closed form"


def test_balanced_sources_are_not() -> None:
    order = np.random.default_rng(0).permutation(["ab", "ba"] * 20).tolist()
    found = source_shortcut(pairs(order), SOURCES)
    assert found is not None and not found.is_beyond_chance and found.share <= 0.55 and found.at_least < 0.5


def test_one_source_has_no_shortcut() -> None:
    assert source_shortcut(pairs(["aa"] * 9), SOURCES) is None and source_shortcut([], SOURCES) is None


def test_a_weak_tendency_in_many_pairs_is_found_with_its_size() -> None:
    """700 of 1000, by hand: the ranking of every fold is the same, so the share is that of the whole."""
    words = np.random.default_rng(1).permutation(["ab"] * 70 + ["ba"] * 30).tolist()
    found = source_shortcut([row for part in range(10) for row in pairs_of(words, part)], SOURCES)
    assert found is not None and found.is_beyond_chance
    assert found.share == pytest.approx(0.7) and 0.67 < found.at_least < 0.68


def pairs_of(words: list[str], part: int) -> list[Preference]:
    return [Preference(f"g{part}-{i:03d}", "p", (f"{win}{i}", f"{lose}{i + 100}")) for i, (win, lose) in enumerate(words)]


def test_the_ranking_is_fitted_on_other_groups() -> None:
    """Every group has two sources of its own: fitted on itself each ranking would be right, and nothing can be known of it."""
    found = source_shortcut(pairs(["ab", "cd", "ef", "gh", "ij", "kl", "mn"]), SOURCES)
    assert found is not None and found.share == 0.5 and not found.is_beyond_chance


def test_a_group_counts_as_one() -> None:
    assert (found := source_shortcut(pairs(["ab"] * 90, "g"), SOURCES)) is not None and not found.is_beyond_chance and found.across == 90


def test_lists_ties_and_labels() -> None:
    """Of a list every two that are not tied count, of a pair none that is a tie, and rows judged one by one have no pairs."""
    rows = [
        Preference("g0", "p", ("a0", "b0", "a1"), "list", scores=(1.0, 0.5, 0.5)),
        Preference("g1", "p", ("a2", "b2"), win_probability=0.5),
    ]
    rows += [Preference("g2", "p", ("a3",), "labelled", labels=(1,))]
    assert (found := source_shortcut(rows, SOURCES)) is not None and (found.across, found.within) == (1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_ranking_is_that_of_trying_all(seed: int) -> None:
    wins = np.random.default_rng(seed).uniform(size=(5, 5))

    def named(order: tuple[int, ...]) -> float:
        return sum(wins[first, second] for first, second in combinations(order, 2))

    assert tuple(best_ranking(*listed(wins), 5)) == max(permutations(range(5)), key=named)


def test_many_sources_are_ranked_by_net_wins() -> None:
    order = np.random.default_rng(0).permutation(EXACT + 2)
    wins = np.zeros((EXACT + 2, EXACT + 2))
    for first, second in combinations(order, 2):
        wins[first, second] = 1
    assert best_ranking(*listed(wins), EXACT + 2) == order.tolist()


def listed(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Winners, losers and shares of a table of wins."""
    winner, loser = np.indices(wins.shape).reshape(2, -1)
    return winner, loser, wins.ravel()


def test_sources_that_are_as_many_as_samples_take_no_table_of_all_by_all() -> None:
    """Where each sample names a source of its own, groups × sources² numbers would be 864 GB; nothing can be known of any of them."""
    rows = [Preference(f"g{i}", "p", (f"w{i}", f"l{i}")) for i in range(3000)]
    sources = {name: name for row in rows for name in row.samples}
    tracemalloc.start()
    found = source_shortcut(rows, sources)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None and (found.across, found.share) == (3000, 0.5) and not found.is_beyond_chance
    assert most < 50e6


@pytest.mark.parametrize(("right", "count"), [(7, 10), (30, 40), (1, 3)])
def test_the_bound_is_the_share_under_which_so_many_are_rare(right: int, count: int) -> None:
    assert binom.sf(right - 1, count, lower_bound(right / count, count)) == pytest.approx(0.05)
    assert lower_bound(0.0, 5) == 0.0


def test_pairing_says_it_and_pairing_within_a_source_mends_it() -> None:
    """Of each group two samples of b are better than two of a. The controls are seen as they are trained on."""
    scores = {"r.d": [0.0, 0.1, 0.9, 1.0]}
    groups = [Group(f"g{i}", "p", [f"g{i}-{j}" for j in range(4)], scores, ["a", "a", "b", "b"], [""] * 4, [(8, 8)] * 4) for i in range(20)]
    apart = pair_groups(groups, PairingSettings(by="r.d", same_source=False)).summary.shortcut
    assert apart is not None and (apart.share, apart.ranking, apart.across) == (1.0, ("b", "a"), 20) and apart.is_beyond_chance
    swapped = pair_groups(groups, PairingSettings(by="r.d", same_source=False, swap_labels=True)).summary.shortcut
    assert swapped is not None and swapped.ranking == ("a", "b")
    assert pair_groups(groups, PairingSettings(by="r.d")).summary.shortcut is None
