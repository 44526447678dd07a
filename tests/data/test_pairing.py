"""Pairing: every rule and filter by hand, and what holds whatever the scores are."""

import random
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.filters import PAIR_FILTERS
from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from diffalign.data.pairing import FIXES, RULES, Group, PairingSettings, group_candidates, pair_groups
from diffalign.data.records import Candidate, Preference

SCORED = [name for name in RULES if name != "imported"]


def group(scores, group_id="g", *, other=None, sources=None, identities=None, sizes=None, preferences=()) -> Group:
    """A group of candidates a, b, c, … with scores r.d (and r.other)."""
    count = len(scores)
    columns = {"r.d": scores} if other is None else {"r.d": scores, "r.other": other}
    ids = [f"{group_id}{letter}" for letter in "abcdefgh"[:count]]
    return Group(
        group_id,
        f"prompt of {group_id}",
        ids,
        columns,
        sources or ["m"] * count,
        identities or [""] * count,
        sizes or [(8, 8)] * count,
        preferences,
    )


def pair(groups, **values):
    """(samples joined by >, scores) of each preference."""
    return [(">".join(row.samples), row.scores) for row in pair_groups(groups, PairingSettings(**{"by": "r.d", **values})).preferences]


def summary(groups, **values):
    return pair_groups(groups, PairingSettings(**{"by": "r.d", **values})).summary


FOUR = group([0.25, 1.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("best_vs_worst", [("gb>gc", (1.0, 0.0))]),
        ("best_vs_rest", [("gb>gd", (1.0, 0.5)), ("gb>ga", (1.0, 0.25)), ("gb>gc", (1.0, 0.0))]),
        (
            "all_pairs",
            [
                *[("gb>gd", (1.0, 0.5)), ("gb>ga", (1.0, 0.25)), ("gb>gc", (1.0, 0.0))],
                *[("gd>ga", (0.5, 0.25)), ("gd>gc", (0.5, 0.0)), ("ga>gc", (0.25, 0.0))],
            ],
        ),
        ("ranked_list", [("gb>gd>ga>gc", (1.0, 0.5, 0.25, 0.0))]),
        ("labelled", [("gb", (1.0,)), ("gd", (0.5,)), ("ga", (0.25,)), ("gc", (0.0,))]),
    ],
)
def test_each_rule_by_hand(rule, expected):
    assert pair([FOUR], rule=rule, threshold=0.5 if rule == "labelled" else None) == expected


def both(scores, *, weights=(1.0, 1.0), **values):
    """The pairs of Pareto fronts of (r.d, r.other), and the account."""
    columns = list(zip(*scores, strict=True))
    by = {"r.d": weights[0], "r.other": weights[1]}
    found = pair_groups([group(list(columns[0]), other=list(columns[1]))], PairingSettings("pareto", by, **values))
    return [">".join(row.samples) for row in found.preferences], found.summary


# a: 3|1 and b: 2|2 are beaten by none, c: 1|1 by both, d: 0|0 by all; c beats d. e: 0|3 neither beats nor is beaten.
FRONTS = [(3.0, 1.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0), (0.0, 3.0)]


def test_pareto_pairs_each_of_the_upper_front_with_each_of_the_lower():
    assert both(FRONTS[:4])[0] == ["ga>gd", "gb>gd"]
    assert both(FRONTS[:3])[0] == ["ga>gc", "gb>gc"]
    # e beats d alone, in the second score: it joins the upper front.
    assert both(FRONTS)[0] == ["ga>gd", "gb>gd", "ge>gd"]
    # Without d, e is on both fronts, and in no pair.
    assert both([*FRONTS[:3], FRONTS[4]])[0] == ["ga>gc", "gb>gc"]


def test_pareto_takes_less_for_better_where_the_weight_is_below_0():
    assert both([(3.0, -1.0), (2.0, -2.0), (1.0, -1.0), (0.0, 0.0)], weights=(1.0, -1.0))[0] == ["ga>gd", "gb>gd"]


def test_pareto_s_fronts_do_not_depend_on_the_size_of_the_weights():
    for weights in ((1.0, 1.0), (0.1, 7.0), (50.0, 1.0)):
        assert sorted(both(FRONTS[:4], weights=weights)[0]) == ["ga>gd", "gb>gd"]


def test_pareto_drops_a_pair_whose_sum_says_the_contrary():
    """a: 0|5 beats b: 0|4; c: 2|0 beats d: 1|0. Of a and d neither beats the other: the sum says a; of c and b it says b."""
    scores = [(0.0, 5.0), (0.0, 4.0), (2.0, 0.0), (1.0, 0.0)]
    found, account = both(scores)
    assert found == ["ga>gb", "ga>gd", "gc>gd"] and account.pairs_dropped == {"order": 1}
    found, account = both(scores, weights=(2.0, 1.0))
    assert found == ["ga>gb", "ga>gd", "gc>gd"] and account.pairs_dropped == {"ties": 1}, "4 and 4"


def test_pareto_of_one_score_is_the_best_over_the_worst():
    assert pair([FOUR], rule="pareto") == pair([FOUR], rule="best_vs_worst")
    tied = group([1.0, 0.0, 1.0, 0.5, 0.0])
    assert [names for names, _ in pair([tied], rule="pareto")] == ["ga>gb", "ga>ge", "gc>gb", "gc>ge"]


def test_pareto_of_samples_that_beat_each_other_by_turns_says_so():
    with pytest.raises(ValueError, match=r"rule 'pareto' found no preferences in 1 groups: no sample beats another by every score"):
        both([(1.0, 0.0), (0.0, 1.0)])


def test_what_a_preference_says():
    (row,) = pair_groups([FOUR], PairingSettings(by="r.d")).preferences
    assert row == Preference("g", "prompt of g", ("gb", "gc"), "pair", scores=(1.0, 0.0), source="r.d")
    assert row.win_probability is None, "a score gap is no log-odds"
    assert pair_groups([FOUR], PairingSettings("ranked_list", "r.d")).preferences[0].kind == "list"


def test_labelled_gives_one_at_or_above_the_threshold():
    rows = pair_groups([FOUR], PairingSettings("labelled", "r.d", threshold=0.5)).preferences
    assert {row.samples[0]: row.labels for row in rows} == {"gb": (1,), "gd": (1,), "ga": (0,), "gc": (0,)}
    far = pair_groups([FOUR], PairingSettings("labelled", "r.d", threshold=0.5, minimum_gap=0.3)).preferences
    assert {row.samples[0]: row.labels for row in far} == {"gb": (1,), "gc": (0,)}
    good = pair_groups([FOUR], PairingSettings("labelled", "r.d", threshold=0.5, minimum_winner=0.8)).preferences
    assert {row.samples[0]: row.labels for row in good} == {"gb": (1,), "ga": (0,), "gc": (0,)}
    assert pair_groups([group([1.0])], PairingSettings("labelled", "r.d", threshold=0.5)).summary.pairs_kept == 1, "no partner is needed"


def test_random_takes_the_pairs_of_best_vs_worst_and_a_fair_coin():
    groups = [group([1.0, 0.0], f"g{index:03d}") for index in range(400)]
    rows = pair_groups(groups, PairingSettings("random", "r.d", seed=1)).preferences
    flipped = [row.samples[0].endswith("b") for row in rows]
    assert {frozenset(row.samples) for row in rows} == {frozenset(row.ids) for row in groups}
    assert 160 <= sum(flipped) <= 240
    assert rows == pair_groups(reversed(groups), PairingSettings("random", "r.d", seed=1)).preferences
    assert rows[:100] == pair_groups(groups[:100], PairingSettings("random", "r.d", seed=1)).preferences, "of (seed, group) alone"
    other = [row.samples[0].endswith("b") for row in pair_groups(groups, PairingSettings("random", "r.d", seed=2)).preferences]
    assert 120 <= sum(one != two for one, two in zip(flipped, other, strict=True)) <= 280
    assert {row.scores for row in rows} == {(1.0, 0.0)}, "the verdict is random too: a method that reads scores must not see the truth"


def test_several_scores_are_summed_with_weights():
    both = group([1.0, 0.0], other=[0.0, 3.0])
    assert pair([both], by={"r.d": 1.0, "r.other": 0.5}) == [("gb>ga", (1.5, 1.0))]
    assert pair([both], by={"r.d": 1.0, "r.other": -1.0}) == [("ga>gb", (1.0, -3.0))]
    assert pair_groups([both], PairingSettings(by={"r.d": 1.0, "r.other": 0.5})).preferences[0].source == "1·r.d + 0.5·r.other"


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("minimum_gap", {"minimum_gap": 0.5}, ["gb>gd", "gb>ga", "gb>gc", "gd>gc"]),
        ("maximum_gap", {"maximum_gap": 0.5}, ["gb>gd", "gd>ga", "gd>gc", "ga>gc"]),
        ("minimum_winner", {"minimum_winner": 0.5}, ["gb>gd", "gb>ga", "gb>gc", "gd>ga", "gd>gc"]),
        # r.other of b and a is equal, which is no disagreement; d has more than b
        ("agreement", {"agreement": ("r.other",)}, ["gb>ga", "gb>gc", "gd>ga", "gd>gc", "ga>gc"]),
    ],
)
def test_each_pair_filter_by_hand(name, values, expected):
    four = group([0.25, 1.0, 0.0, 0.5], other=[2.0, 2.0, 1.0, 3.0])
    result = pair_groups([four], PairingSettings("all_pairs", "r.d", **values))
    assert [">".join(row.samples) for row in result.preferences] == expected
    assert result.summary.pairs_dropped == {name: 6 - len(expected)}


def test_ties_are_dropped_or_kept_with_even_odds():
    tied = group([1.0, 1.0, 0.0])
    assert pair([tied], rule="all_pairs") == [("ga>gc", (1.0, 0.0)), ("gb>gc", (1.0, 0.0))]
    kept = pair_groups([tied], PairingSettings("all_pairs", "r.d", ties="keep"))
    assert [(row.samples, row.win_probability) for row in kept.preferences] == [
        (("ga", "gb"), 0.5),
        (("ga", "gc"), None),
        (("gb", "gc"), None),
    ]
    assert kept.summary.ties == 1
    assert summary([tied], rule="all_pairs").pairs_dropped == {"ties": 1}


def test_a_ranked_list_is_thinned_of_ties_or_keeps_them():
    tied = group([1.0, 1.0, 0.0, 0.5])
    assert pair([tied], rule="ranked_list") == [("ga>gd>gc", (1.0, 0.5, 0.0))]
    assert pair([tied], rule="ranked_list", ties="keep") == [("ga>gb>gd>gc", (1.0, 1.0, 0.5, 0.0))]
    assert summary([tied, group([1.0, 1.0, 1.0], "h")], rule="ranked_list").pairs_dropped == {"ties": 1}
    assert pair([group([1.0, 1.0, 0.0])], rule="ranked_list") == [("ga>gc", (1.0, 0.0))]


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [(2, 2, "ab"), (6, 2, "af"), (3, 3, "abc"), (4, 3, "abd"), (5, 3, "ace"), (6, 4, "abdf"), (8, 4, "aceh"), (8, 8, "abcdefgh")],
)
def test_a_list_of_one_length_is_spread_over_the_ranking(count, length, expected):
    """Samples a, b, … are best first: the ranks are i·(n − 1)/(K − 1), rounded to the better."""
    ranked = group([1 - index / 8 for index in range(count)], "")
    assert pair([ranked], rule="ranked_list", length=length) == [
        (">".join(expected), tuple(1 - "abcdefgh".index(one) / 8 for one in expected))
    ]


def test_groups_without_enough_samples_give_no_list_and_are_counted():
    groups = [FOUR, group([1.0, 0.0], "h"), group([1.0, 1.0, 0.5], "i"), group([2.0, 2.0, 2.0], "j"), group([3.0, 2.0, 1.0], "k")]
    assert [name for name, _ in pair(groups, rule="ranked_list", length=3)] == ["gb>gd>gc", "ka>kb>kc"]
    assert summary(groups, rule="ranked_list", length=3).pairs_dropped == {"length": 2, "ties": 1}
    kept = pair(groups, rule="ranked_list", length=3, ties="keep")
    assert [name for name, _ in kept] == ["gb>gd>gc", "ia>ib>ic", "ja>jb>jc", "ka>kb>kc"]
    assert summary(groups, rule="ranked_list", length=3, ties="keep").pairs_dropped == {"length": 1}


def test_the_ends_of_a_list_are_judged_before_it_is_cut():
    """A list keeps its best and its worst, so its gap is the group's."""
    assert pair([FOUR], rule="ranked_list", length=2, minimum_gap=1.0) == [("gb>gc", (1.0, 0.0))]
    assert summary([FOUR], rule="ranked_list", length=2).gap_range == (1.0, 1.0)


RULED = {"best_vs_worst": {}, "all_pairs": {}, "ranked_list": {"length": 2}, "labelled": {"threshold": 0.5}, "random": {}}


@pytest.mark.parametrize("rule", RULED)
def test_top_keeps_the_groups_with_the_best_winners(rule):
    groups = [group([winner, 0.0], name) for name, winner in (("p", 0.6), ("q", 0.9), ("r", 0.7), ("s", 0.9))]
    whole, best = (pair_groups(groups, PairingSettings(rule, "r.d", top=top, **RULED[rule])) for top in (None, 3))
    assert {row.group_id for row in best.preferences} == {"q", "r", "s"}
    assert best.preferences == [row for row in whole.preferences if row.group_id != "p"], "what is kept is as it was"
    assert best.summary.pairs_dropped == {"top": len(whole.preferences) - len(best.preferences)}
    assert best.summary.groups_kept == 3
    assert {row.group_id for row in pair_groups(groups, PairingSettings(rule, "r.d", top=1, **RULED[rule])).preferences} == {"q"}
    assert pair_groups(groups, PairingSettings(rule, "r.d", top=9, **RULED[rule])) == whole


def test_top_counts_what_the_filters_before_it_left():
    groups = [group([0.9, 0.8], "p"), group([0.7, 0.0], "q"), group([0.6, 0.0], "r")]
    found = pair_groups(groups, PairingSettings(by="r.d", minimum_gap=0.5, top=1))
    assert [row.group_id for row in found.preferences] == ["q"]
    assert found.summary.pairs_dropped == {"minimum_gap": 1, "top": 1}
    assert sum(found.summary.gap_counts) == 1 and sum(found.summary.gap_proposed) == 3


@pytest.mark.parametrize(
    ("positives", "share", "kept"), [(8, 0.5, (2, 2)), (8, 0.8, (8, 2)), (8, 0.9, (8, 1)), (2, 0.8, (2, 1)), (3, 0.5, (3, 3))]
)
def test_the_share_of_positives_by_hand(positives, share, kept):
    """Ten samples; of the label there is too much of, as few are dropped as bring the share nearest."""
    groups = [group([float(index < positives)], f"g{index}") for index in range(10)]
    found = pair_groups(groups, PairingSettings("labelled", "r.d", threshold=0.5, positive_share=share))
    labels = [row.labels for row in found.preferences]
    assert (labels.count((1,)), labels.count((0,))) == kept
    assert found.summary.pairs_dropped.get("positive_share", 0) == 10 - sum(kept)


def test_which_rows_the_share_drops_is_a_function_of_the_seed():
    groups = [group([1.0, 0.0, 0.0, 0.0], f"g{index:02d}") for index in range(30)]
    settings = PairingSettings("labelled", "r.d", threshold=0.5, positive_share=0.5, seed=1)
    rows = pair_groups(groups, settings).preferences
    assert rows == pair_groups(groups[::-1], settings).preferences
    unwanted = [row.samples[0] for row in rows if row.labels == (0,)]
    other = [row.samples[0] for row in pair_groups(groups, replace(settings, seed=2)).preferences if row.labels == (0,)]
    assert len(unwanted) == len(other) == 30 and 2 <= len(set(unwanted) & set(other)) <= 20, "about a third is drawn by both"
    swapped = pair_groups(groups, replace(settings, swap_labels=True)).preferences
    assert [row.samples for row in swapped] == [row.samples for row in rows], "balanced before labels are turned around"


def test_the_share_is_of_what_top_left():
    groups = [group([1.0, 0.0, 0.0], "p"), group([0.9, 0.0, 0.0], "q")]
    found = pair_groups(groups, PairingSettings("labelled", "r.d", threshold=0.5, top=1, positive_share=0.5))
    assert [row.labels for row in found.preferences] == [(1,), (0,)] and found.summary.groups_kept == 1
    assert found.summary.pairs_dropped == {"positive_share": 1, "top": 3}


def test_a_share_of_one_label_alone_is_refused():
    with pytest.raises(
        ValueError, match=r"positive_share 0\.8 needs rows of both labels, and 0 of 4 rows have label 1; move the threshold"
    ):
        pair([FOUR], rule="labelled", threshold=2.0, positive_share=0.8)
    with pytest.raises(ValueError, match=r"minimum_gap=9\.0 dropped most"):
        pair([FOUR], rule="labelled", threshold=0.5, positive_share=0.8, minimum_gap=9.0)


def test_identical_media_are_paired_once():
    twins = group([1.0, 0.0, 1.0, 0.5], identities=["x", "y", "x", "z"])
    assert pair([twins], rule="all_pairs") == [("ga>gd", (1.0, 0.5)), ("ga>gb", (1.0, 0.0)), ("gd>gb", (0.5, 0.0))]
    assert summary([twins]).candidates_dropped == {"deduplicate": 1}
    assert summary([twins], deduplicate=False).candidates_dropped == {}
    unknown = group([1.0, 0.0], identities=["", ""])
    assert summary([unknown]).candidates_dropped == {}


def test_only_samples_of_one_source_and_one_size_meet():
    mixed = group([1.0, 0.0, 0.75, 0.5], sources=["m", "n", "n", "m"])
    assert pair([mixed]) == [("ga>gd", (1.0, 0.5)), ("gc>gb", (0.75, 0.0))]
    assert pair([mixed], same_source=False) == [("ga>gb", (1.0, 0.0))]
    assert summary([mixed]).across_sources == 0
    assert summary([mixed], same_source=False).across_sources == 1
    sized = group([1.0, 0.0, 0.5], sizes=[(8, 8), (8, 16), (8, 8)])
    assert pair([sized]) == [("ga>gc", (1.0, 0.5))]
    assert summary([sized]).candidates_dropped == {"same_size": 1}
    assert pair([sized], same_size=False) == [("ga>gb", (1.0, 0.0))]


def sounds(*kinds):
    """Candidates of one prompt: sounds of so many samples, at a rate, with so many channels."""
    for index, (samples, rate, channels) in enumerate(kinds):
        wave = np.random.default_rng(index).uniform(-1, 1, (channels, samples))
        yield Candidate(f"c{index}", "g", "p", Audio.from_waveform(wave, rate), "m")


def test_sounds_are_of_one_size_that_last_equally_long():
    """1 s at 16 kHz, at 44.1 kHz and in stereo; a sample less is another length, as it was."""
    equal = list(sounds((16_000, 16_000, 1), (44_100, 44_100, 1), (16_000, 16_000, 2), (15_999, 16_000, 1)))
    scores = {"r.d": {each.candidate_id: float(index) for index, each in enumerate(equal)}}
    groups = group_candidates(equal, scores)
    assert pair(groups, rule="all_pairs") == [("c2>c1", (2.0, 1.0)), ("c2>c0", (2.0, 0.0)), ("c1>c0", (1.0, 0.0))]
    assert summary(groups).candidates_dropped == {"same_size": 1}
    came = [Preference("g", "p", ("c0", other)) for other in ("c1", "c2", "c3")]
    imported = group_candidates(equal, {}, came)
    assert [samples for samples, _ in pair(imported, rule="imported", by=None)] == ["c0>c1", "c0>c2"]
    assert summary(imported, rule="imported", by=None).pairs_dropped == {"same_size": 1}


def test_videos_are_of_one_size_with_their_frames_and_rate():
    kinds = [(5, 8.0), (5, 8.0), (10, 16.0), (6, 8.0)]
    clips = [
        Candidate(f"c{index}", "g", "p", Video.from_frames(np.full((frames, 8, 8, 3), index, np.uint8), rate), "m")
        for index, (frames, rate) in enumerate(kinds)
    ]
    groups = group_candidates(clips, {"r.d": {each.candidate_id: float(index) for index, each in enumerate(clips)}})
    assert pair(groups, rule="all_pairs") == [("c1>c0", (1.0, 0.0))]
    assert summary(groups).candidates_dropped == {"same_size": 2}


@pytest.mark.parametrize("hole", [nan, inf, None])
def test_candidates_without_a_score_are_set_aside(hole):
    assert pair([group([1.0, hole, 0.0])], rule="all_pairs") == [("ga>gc", (1.0, 0.0))]
    assert summary([group([1.0, hole, 0.0])]).candidates_dropped == {"unscored": 1}
    assert pair([group([1.0, 0.5, 0.0], other=[1.0, 1.0, hole])], agreement=("r.other",)) == [("ga>gb", (1.0, 0.5))]


def test_the_summary_counts_everything():
    groups = [FOUR, group([1.0, 0.9], "h"), group([2.0], "i"), group([1.0, 1.0], "j")]
    found = summary(groups, rule="all_pairs", minimum_gap=0.5)
    assert (found.groups_read, found.groups_kept, found.candidates_read, found.pairs_kept, found.ties) == (4, 1, 9, 4, 1)
    assert found.pairs_dropped == {"minimum_gap": 3, "ties": 1}
    assert found.candidates_dropped == {"alone": 1}
    assert found.gap_range == (0.0, 1.0)
    np.testing.assert_allclose(found.gap_edges, np.linspace(0, 1, 21))
    assert (sum(found.gap_counts), sum(found.gap_proposed)) == (4, 8)
    assert found.gap_counts[10:12] == (2, 0)
    assert found.gap_counts[15] == 1
    assert found.gap_counts[19] == 1


@pytest.mark.parametrize(
    ("groups", "values", "message"),
    [
        ([FOUR], {"minimum_gap": 2.0}, r"minimum_gap=2\.0 dropped most\. Gaps observed: 1 … 1\. Lower minimum_gap"),
        ([FOUR], {"maximum_gap": 0.1}, r"maximum_gap=0\.1 dropped most\. Gaps observed: 1 … 1\. Raise maximum_gap"),
        ([FOUR], {"minimum_winner": 3.0}, r"minimum_winner=3\.0 dropped most"),
        (
            [group([1.0, 1.0, 1.0]), group([0.0, 2.0], "h")],
            {"minimum_gap": 5, "rule": "all_pairs"},
            r"ties='drop' dropped most\. Gaps observed: 0 … 2",
        ),
        ([group([1.0, 1.0])], {}, "ties='drop' dropped most"),
        ([group([1.0, 0.0], sources=["m", "n"])], {}, "same_source=True dropped most.*set same_source to false"),
        ([group([1.0, 0.0], sizes=[(8, 8), (9, 9)])], {}, "same_size=True dropped most.*same_size to false"),
        ([group([1.0, 0.0], identities=["x", "x"])], {}, "deduplicate"),
        ([group([1.0])], {}, "Generate at least 2 samples per prompt"),
        ([group([nan, nan])], {}, "Run the stage `score`"),
        ([group([1.0, 0.0], other=[0.0, 1.0])], {"agreement": ["r.other"]}, r"agreement=\('r\.other',\) dropped most"),
        ([], {}, "no groups to pair"),
    ],
)
def test_nothing_left_names_what_dropped_most(groups, values, message):
    with pytest.raises(ValueError, match=message):
        pair(groups, **values)


def test_every_reason_has_its_fix():
    assert set(PAIR_FILTERS) | {"strategies", "unscored", "deduplicate", "alone", "same_source", "same_size"} == set(FIXES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "best"}, "unknown pairing rule 'best'; choose one of: best_vs_worst"),
        ({"by": None}, "set `by` to a reward.dimension"),
        ({"by": {"r.d": 0.0}}, "weight of 'r.d' in `by` is 0.0"),
        ({"minimum_gap": -1}, "minimum_gap is -1"),
        ({"flip_share": 0.6}, "flip_share is 0.6; it lies between 0 and 0.5"),
        ({"rule": "random", "flip_share": 0.1}, "flip_share 0.1 with rule 'random', whose labels say nothing already"),
        ({"minimum_gap": nan}, "minimum_gap is nan"),
        ({"minimum_gap": 1.0, "maximum_gap": 0.5}, "maximum_gap 0.5 lies below minimum_gap 1.0"),
        ({"ties": "maybe"}, "ties is 'maybe'; choose one of: drop, keep"),
        ({"ties": "keep", "minimum_gap": 0.1}, "a tie has gap 0"),
        ({"rule": "labelled"}, "needs a finite threshold"),
        ({"rule": "labelled", "threshold": 0.5, "agreement": ["r.other"]}, "judges samples singly"),
        ({"threshold": 0.5}, "belongs to rule 'labelled'"),
        ({"agreement": "r.other"}, "write agreement: \\[r.other\\]"),
        ({"rule": "imported"}, "remove by='r.d'"),
        ({"length": 3}, "length 3 belongs to rule 'ranked_list', not 'best_vs_worst'"),
        ({"rule": "ranked_list", "length": 1}, "length is 1; a list has 2 samples or more"),
        ({"top": 0}, "top is 0; give the number of groups to keep"),
        ({"positive_share": 0.8}, "positive_share 0.8 belongs to rule 'labelled', not 'best_vs_worst'"),
        ({"rule": "labelled", "threshold": 0.5, "positive_share": 1.0}, "positive_share is 1.0; both labels are kept"),
        ({"rule": "labelled", "threshold": 0.5, "positive_share": nan}, "positive_share is nan"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PairingSettings(**{"by": "r.d", **values})


def test_bad_groups_are_refused():
    with pytest.raises(ValueError, match=r"no score 'r\.x' for group 'g'; scores made so far: r\.d"):
        pair([FOUR], by="r.x")
    with pytest.raises(ValueError, match="group 'g' occurs twice"):
        pair([FOUR, FOUR])
    with pytest.raises(ValueError, match="sources has 1 entries for 4 candidates"):
        replace(FOUR, sources=["m"])
    with pytest.raises(ValueError, match="candidate 'a' occurs twice"):
        replace(FOUR, ids=["a", "a", "b", "c"])


def test_flipped_labels_are_a_share_that_the_seed_draws():
    groups = [group([3.0, 2.0, 1.0], f"g{index:03d}") for index in range(200)]
    settings = PairingSettings("all_pairs", "r.d", flip_share=0.2)

    def flipped(settings: PairingSettings) -> set[tuple[str, ...]]:
        return {row.samples for row in pair_groups(groups, settings).preferences if row.samples[0] > row.samples[1]}

    few, more = flipped(settings), flipped(replace(settings, flip_share=0.3))
    assert 90 <= len(few) <= 150 and few < more, "a fifth of 600, within three deviations, and the same ones again"
    assert len(few & flipped(replace(settings, seed=1))) < 60
    assert flipped(replace(settings, flip_share=0.0)) == set()
    swapped = replace(settings, swap_labels=True)
    assert len(flipped(swapped)) == 600 - len(few)
    [row] = {row.source for row in pair_groups(groups, settings).preferences}
    assert row == "r.d (20% of labels flipped)"
    lists = pair_groups(groups, replace(settings, rule="ranked_list")).preferences
    assert {row.samples[0][-1] for row in lists} == {"a", "c"}, "a list is turned around whole"


# What came with the data


def votes(*rows, **columns) -> Group:
    return group([0.0, 0.0, 0.0], preferences=rows, **columns)


def test_imported_preferences_are_kept_filtered_and_swapped():
    clear, tie = Preference("g", "p", ("ga", "gb"), source="people"), Preference("g", "p", ("gb", "gc"), win_probability=0.5)
    soft = Preference("g", "p", ("gc", "ga"), win_probability=0.9, scores=(3.0, 1.0))
    rule = PairingSettings("imported")
    assert pair_groups([votes(clear, tie)], rule).preferences == [clear]
    assert pair_groups([votes(clear, tie)], rule).summary.ties == 1
    assert pair_groups([votes(clear, tie)], replace(rule, ties="keep")).preferences == [clear, tie]
    assert pair_groups([votes(soft)], replace(rule, minimum_gap=2.0)).preferences == [soft]
    (swapped,) = pair_groups([votes(soft)], replace(rule, swap_labels=True)).preferences
    assert (swapped.samples, swapped.scores, swapped.win_probability) == (("ga", "gc"), (3.0, 1.0), 0.9)
    with pytest.raises(ValueError, match="same_source=True dropped most"):
        pair_groups([votes(clear, sources=["m", "n", "n"])], rule)
    with pytest.raises(ValueError, match="deduplicate=True dropped most"):
        pair_groups([votes(clear, identities=["x", "x", "y"])], rule)
    with pytest.raises(ValueError, match="minimum_gap is set, but these preferences came without scores"):
        pair_groups([votes(clear)], replace(rule, minimum_gap=0.1))
    with pytest.raises(ValueError, match=r"names \['gz'\], which the group lacks"):
        pair_groups([votes(Preference("g", "p", ("ga", "gz")))], rule)
    with pytest.raises(ValueError, match="the data carry none"):
        pair_groups([votes()], rule)


def test_imported_labels_become_rows_of_one_sample():
    three = Preference("g", "p", ("gc", "ga", "gb"), "labelled", labels=(1, 0, 0), scores=(3.0, 2.0, 1.0), source="people")
    two = Preference("h", "p", ("hb", "ha"), "labelled", labels=(1, 0))
    groups = [votes(three), group([0.0, 0.0], "h", preferences=[two])]
    rows = pair_groups(groups, PairingSettings("imported")).preferences
    assert [(row.samples, row.labels, row.scores) for row in rows] == [
        *[(("ga",), (0,), (2.0,)), (("gb",), (0,), (1.0,)), (("gc",), (1,), (3.0,))],
        *[(("ha",), (0,), None), (("hb",), (1,), None)],
    ]
    assert {(row.kind, row.source) for row in rows} == {("labelled", "people"), ("labelled", "")}
    balanced = pair_groups(groups, PairingSettings("imported", positive_share=0.5)).preferences
    assert sorted(row.labels for row in balanced) == [(0,), (0,), (1,), (1,)]


def test_set_filters_say_what_imported_rows_lack():
    row = Preference("g", "p", ("ga", "gb"))
    with pytest.raises(ValueError, match="top 1 compares the winners' scores, and a preference of group 'g' came without"):
        pair_groups([votes(row)], PairingSettings("imported", top=1))
    with pytest.raises(ValueError, match=r"positive_share 0\.8 counts labels, and group 'g' has a pair"):
        pair_groups([votes(row)], PairingSettings("imported", positive_share=0.8))


def test_a_reward_may_have_to_agree_with_people():
    row = Preference("g", "p", ("ga", "gb"))
    rule = PairingSettings("imported", agreement=("r.d",))
    assert pair_groups([group([1.0, 0.0], preferences=[row])], rule).preferences == [row]
    with pytest.raises(ValueError, match="agreement"):
        pair_groups([group([0.0, 1.0], preferences=[row])], rule)


def test_groups_come_from_candidates_in_any_order():
    def make(name, group_id, colour):
        pixels = np.full((4, 6, 3), colour, np.uint8)
        return Candidate(name, group_id, f"prompt {group_id}", Image.from_pixels(pixels), model="m")

    candidates = [make("d", "2", 1), make("a", "1", 1), make("c", "2", 2), make("b", "1", 1)]
    first, second = group_candidates(candidates, {"r.d": {"a": 1.0, "b": 0.5, "c": 2.0}})
    assert (first.group_id, first.ids, first.scores, first.sources, first.sizes) == (
        "1",
        ["a", "b"],
        {"r.d": [1.0, 0.5]},
        ["m"] * 2,
        [(6, 4)] * 2,
    )
    assert first.identities[0] == first.identities[1] != second.identities[0]
    assert (second.ids, second.scores["r.d"][0]) == (["c", "d"], 2.0)
    assert np.isnan(second.scores["r.d"][1])
    assert group_candidates(candidates, {}, identities=False)[0].identities == ["", ""]
    with pytest.raises(ValueError, match="group '1' has two prompts"):
        group_candidates([candidates[1], replace(candidates[3], prompt="another")], {})


# What holds whatever the scores are

values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))


@st.composite
def group_lists(draw):
    groups = []
    for index in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 5))
        column = st.lists(values, min_size=count, max_size=count)
        groups.append(
            group(
                draw(column),
                f"g{index}",
                other=draw(column),
                sources=draw(st.lists(st.sampled_from("mn"), min_size=count, max_size=count)),
                identities=draw(st.lists(st.sampled_from(["", "x", "y", "z"]), min_size=count, max_size=count)),
                sizes=draw(st.lists(st.sampled_from([(8, 8), (8, 16)]), min_size=count, max_size=count)),
            )
        )
    return groups


@st.composite
def all_settings(draw):
    rule = draw(st.sampled_from(SCORED))
    ties = draw(st.sampled_from(["drop", "keep"]))
    minimum_gap = 0.0 if ties == "keep" else draw(st.sampled_from([0.0, 0.5, 2.0]))
    return PairingSettings(
        rule=rule,
        by=draw(st.sampled_from(["r.d", "r.other"])),
        minimum_gap=minimum_gap,
        maximum_gap=draw(st.sampled_from([None, 3.0])),
        minimum_winner=draw(st.sampled_from([None, 0.0])),
        agreement=() if rule == "labelled" else draw(st.sampled_from([(), ("r.other",)])),
        ties=ties,
        deduplicate=draw(st.booleans()),
        same_source=draw(st.booleans()),
        same_size=draw(st.booleans()),
        length=draw(st.sampled_from([None, 2, 3])) if rule == "ranked_list" else None,
        threshold=0.5 if rule == "labelled" else None,
        top=draw(st.sampled_from([None, 1, 2])),
        positive_share=draw(st.sampled_from([None, 0.5, 0.8])) if rule == "labelled" else None,
        seed=draw(st.integers(0, 3)),
    )


def outcome(groups, chosen):
    """The result, or the text of the error where nothing is left."""
    try:
        return pair_groups(groups, chosen)
    except ValueError as error:
        return str(error)


def shuffled(groups: list[Group], seed: int) -> list[Group]:
    """The same groups in another order, their candidates in another order."""
    generator = random.Random(seed)
    result = []
    for each in groups:
        order = generator.sample(range(len(each.ids)), len(each.ids))
        result.append(
            Group(
                each.group_id,
                each.prompt,
                [each.ids[index] for index in order],
                {name: [column[index] for index in order] for name, column in each.scores.items()},
                *([column[index] for index in order] for column in (each.sources, each.identities, each.sizes)),
            )
        )
    return generator.sample(result, len(result))


@settings(deadline=None, max_examples=200)
@given(group_lists(), all_settings())
def test_kept_pairs_obey_every_filter(groups, chosen):
    result = outcome(groups, chosen)
    if isinstance(result, str):
        return
    by_id = {name: (each, index) for each in groups for index, name in enumerate(each.ids)}
    for row in result.preferences:
        places = [by_id[name] for name in row.samples]
        scores = [each.scores[chosen.by][index] for each, index in places]
        assert {each.group_id for each, _ in places} == {row.group_id}
        ranked = sorted(scores, reverse=True)
        assert list(row.scores) == ranked
        if chosen.rule != "random":
            assert scores == ranked, "winner ≥ loser"
        gap = ranked[0] - ranked[-1] if chosen.threshold is None else abs(ranked[0] - chosen.threshold)
        assert gap >= chosen.minimum_gap
        assert chosen.maximum_gap is None or gap <= chosen.maximum_gap
        if chosen.threshold is None:
            assert chosen.minimum_winner is None or ranked[0] >= chosen.minimum_winner
            assert gap > 0 or chosen.ties == "keep"
            assert not chosen.same_source or len({each.sources[index] for each, index in places}) == 1
            assert not chosen.same_size or len({each.sizes[index] for each, index in places}) == 1
            known = [each.identities[index] for each, index in places if each.identities[index]]
            assert not chosen.deduplicate or len(set(known)) == len(known)
            assert row.win_probability == (0.5 if gap == 0 and row.kind == "pair" else None)
            assert chosen.length is None or len(row.samples) == chosen.length
        if chosen.agreement and chosen.rule != "random":
            (best, one), (worst, other) = places[0], places[-1]
            assert best.scores["r.other"][one] >= worst.scores["r.other"][other]
    assert chosen.top is None or len({row.group_id for row in result.preferences}) <= chosen.top
    assert chosen.positive_share is None or {row.labels for row in result.preferences} == {(0,), (1,)}
    account = result.summary
    assert account.pairs_kept == len(result.preferences) == sum(account.gap_counts)
    assert sum(account.gap_proposed) == account.pairs_kept + sum(account.pairs_dropped.values())


@settings(deadline=None, max_examples=100)
@given(group_lists(), all_settings(), st.integers(0, 9))
def test_the_order_of_the_input_changes_nothing(groups, chosen, seed):
    one, two = outcome(groups, chosen), outcome(iter(shuffled(groups, seed)), chosen)
    assert one == two
    if not isinstance(one, str):
        assert [row.group_id for row in one.preferences] == sorted(row.group_id for row in one.preferences)


@settings(deadline=None, max_examples=100)
@given(group_lists(), all_settings())
def test_swapping_turns_every_judgement_around(groups, chosen):
    straight, swapped = outcome(groups, chosen), outcome(groups, replace(chosen, swap_labels=True))
    if isinstance(straight, str):
        assert straight == swapped
        return
    assert not isinstance(swapped, str)
    assert len(straight.preferences) == len(swapped.preferences)
    for before, after in zip(straight.preferences, swapped.preferences, strict=True):
        assert after.scores == before.scores, "the verdict keeps its place"
        assert after.source == f"{before.source} (labels swapped)"
        if before.labels is not None:
            assert after.samples == before.samples
            assert after.labels == tuple(1 - label for label in before.labels)
        else:
            assert after.samples == before.samples[::-1]
    assert replace(swapped.summary, shortcut=None) == replace(straight.summary, shortcut=None), "the winners' sources are turned around too"


# Spans of time --------------------------------------------------------------------------------------------------------------------------


def clip_pair(whole, *spans, group_id="g") -> Group:
    """Candidates a and b with a score of the whole and one of each span."""
    columns = {"r.d": whole} | {f"r.{index}": scores for index, scores in enumerate(spans)}
    return replace(group(whole, group_id), scores=columns)


def spans(count):
    return tuple(f"r.{index}" for index in range(count))


def test_spans_are_judged_one_by_one():
    """The whole orders the pair; in a span the difference must be above the margin."""
    clip = clip_pair([0.25, 0.5], [0.5, 1.0], [1.0, 0.5], [0.5, 0.75], [0.5, 0.5])
    [row] = pair_groups([clip], PairingSettings(by="r.d", spans=spans(4), span_margin=0.25)).preferences
    assert row.samples == ("gb", "ga") and row.segment_labels == (1, -1, 0, 0) and row.win_probability is None
    [row] = pair_groups([clip], PairingSettings(by="r.d", spans=spans(4), swap_labels=True)).preferences
    assert row.samples == ("ga", "gb") and row.segment_labels == (1, -1, 1, 0)  # the verdict stays, the samples change their places
    assert pair_groups([clip], PairingSettings(by="r.d")).preferences[0].segment_labels is None


def test_a_clip_is_a_tie_where_every_span_is():
    """Whatever the whole says."""
    level = clip_pair([0.5, 0.5], [1.0, 0.0], [0.0, 1.0])
    tied = clip_pair([1.0, 0.0], [0.5, 0.5], [0.5, 0.5], group_id="h")
    found = summary([level, tied], spans=spans(2))
    assert (found.pairs_kept, found.ties, found.pairs_dropped) == (1, 1, {"ties": 1})
    [row] = pair_groups([level], PairingSettings(by="r.d", spans=spans(2))).preferences
    assert row.segment_labels == (1, -1) and row.win_probability is None


@pytest.mark.parametrize(("share", "kept"), [(0.0, 2), (0.25, 2), (0.3, 1), (0.5, 1)])
def test_minimum_judged_is_a_share_of_the_spans(share, kept):
    quarter = clip_pair([1.0, 0.0], [1.0, 0.0], *[[0.5, 0.5]] * 3)
    half = clip_pair([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], *[[0.5, 0.5]] * 2, group_id="h")
    found = summary([quarter, half], spans=spans(4), minimum_judged=share)
    assert (found.pairs_kept, found.pairs_dropped) == (kept, {"minimum_judged": 2 - kept} if kept < 2 else {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spans": "r.0"}, r"spans is a list of names, got the text 'r\.0'"),
        ({"spans": ("r.0",), "rule": "ranked_list"}, "rule 'ranked_list' makes none; choose such as best_vs_worst"),
        ({"span_margin": 0.1}, "there are none; remove them"),
        ({"spans": ("r.0",), "span_margin": -0.1}, "span_margin is -0.1; it is finite and ≥ 0"),
        ({"spans": ("r.0",), "minimum_judged": 2.0}, "minimum_judged is 2.0; a share of the spans lies in 0 … 1"),
    ],
)
def test_settings_of_spans_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        PairingSettings(**{"by": "r.d", **values})


def test_a_missing_score_of_a_span_is_named():
    with pytest.raises(ValueError, match=r"no score 'r\.1' for group 'g'"):
        pair_groups([clip_pair([1.0, 0.0], [1.0, 0.0])], PairingSettings(by="r.d", spans=spans(2)))


def test_flipped_spans_are_a_share_of_the_judged_ones_each_by_itself():
    """Of 600 spans, a third of them ties: within three deviations of a fifth of the judged; the pairs keep their order."""
    scores = {"r.d": [1.0, 0.0], "s.one": [1.0, 0.0], "s.two": [0.0, 1.0], "s.three": [0.5, 0.5]}
    groups = [
        Group(f"g{index:03d}", "p", [f"g{index:03d}-a", f"g{index:03d}-b"], scores, ["m"] * 2, [""] * 2, [(4, 4)] * 2)
        for index in range(200)
    ]
    settings = PairingSettings(by="r.d", spans=("s.one", "s.two", "s.three"), flip_spans=0.2)

    def flipped(settings: PairingSettings) -> set[tuple[str, int]]:
        rows = pair_groups(groups, settings).preferences
        assert all(row.samples == (f"{row.group_id}-a", f"{row.group_id}-b") and row.segment_labels[2] == 0 for row in rows)
        return {(row.group_id, place) for row in rows for place in (0, 1) if row.segment_labels[place] != (1, -1)[place]}

    few, more = flipped(settings), flipped(replace(settings, flip_spans=0.3))
    assert 56 <= len(few) <= 104 and few < more
    both = {group for group, place in few if (group, 1 - place) in few}
    assert 2 <= len(both) <= 30, "a fifth of a fifth of the pairs: the spans of a pair are turned independently"
    assert len(few & flipped(replace(settings, seed=1))) < 40 and flipped(replace(settings, flip_spans=0.0)) == set()
    [source] = {row.source for row in pair_groups(groups, settings).preferences}
    assert source == "r.d (20% of span labels flipped)"
    with pytest.raises(ValueError, match=r"flip_spans is 0\.6; it lies between 0 and 0\.5"):
        replace(settings, flip_spans=0.6)
    with pytest.raises(ValueError, match=r"flip_spans 0\.2 is of labels of spans, and there are none"):
        PairingSettings(by="r.d", flip_spans=0.2)
