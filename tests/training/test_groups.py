"""Rows over the latent cache: which rows an objective may use, and what a batch holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffalign.data.latents import LatentCache
from diffalign.data.pairing import Group, PairingSettings, pair_groups
from diffalign.data.records import Preference, read_preferences
from diffalign.training.groups import CachedGroups


@pytest.fixture()
def cache(tiny_road: Path) -> LatentCache:
    return LatentCache(tiny_road / "latents")


def labelled(label: int, group: int = 0) -> Preference:
    return Preference(f"g{group}", "a red circle", (f"g{group}-0",), "labelled", labels=(label,))


def test_a_batch_by_hand(cache: LatentCache, tiny_road: Path) -> None:
    rows = read_preferences(tiny_road / "preferences")
    groups = CachedGroups(cache, [replace(row, weight=1 + index) for index, row in enumerate(rows)], "pairs")
    assert len(groups) == 12 and groups.describe(1) == "g1 ('a blue square')"
    batch = groups.fetch([5, 1], dropped=[False, True], flipped=[True, False])
    assert batch.latents.shape == (2, 2, 4, 8, 8)
    assert torch.equal(batch.latents[0], cache.latents(["g5-0", "g5-1"]).flip(-1))
    assert torch.equal(batch.latents[1], cache.latents(["g1-0", "g1-1"]))
    assert torch.equal(batch.embeds["prompt_embeds"][0], cache.embeds(["a blue square"])["prompt_embeds"][0])
    assert torch.equal(batch.embeds["prompt_embeds"][1], cache.dropout_embeds()["prompt_embeds"][0])
    assert batch.weight.tolist() == [6, 2] and batch.weight.dtype == torch.float32
    assert batch.scores is not None and batch.scores.tolist() == [[[1], [0]]] * 2 and batch.labels is None


def test_positives_are_winners_and_wanted_samples(cache: LatentCache, tiny_road: Path) -> None:
    pairs = read_preferences(tiny_road / "preferences")[:2]
    groups = CachedGroups(cache, [*pairs, labelled(1, 4), labelled(0, 5)], "positives")
    assert [row.samples for row in groups.preferences] == [("g0-0",), ("g1-0",), ("g4-0",)]
    assert groups.fetch([0, 2], dropped=[False] * 2, flipped=[False] * 2).latents.shape == (2, 1, 4, 8, 8)


def test_every_wanted_sample_of_a_labelled_row_is_a_positive(cache: LatentCache) -> None:
    row = Preference("g0", "a red circle", ("g0-0", "g0-1", "g1-0"), "labelled", labels=(1, 0, 1), scores=(3.0, 1.0, 2.0))
    groups = CachedGroups(cache, [row], "positives")
    assert [each.samples for each in groups.preferences] == [("g0-0",), ("g1-0",)]


def test_a_tie_is_never_a_win(cache: LatentCache, tiny_road: Path) -> None:
    pairs = read_preferences(tiny_road / "preferences")
    pairs[3] = replace(pairs[3], win_probability=0.5)
    with pytest.raises(ValueError, match=r"1 of 12 pairs are ties \(win_probability 0\.5\).*pair\.ties: drop"):
        CachedGroups(cache, pairs, "pairs")
    assert len(CachedGroups(cache, pairs, "pairs", reads=["scores or win_probability"])) == 12
    assert len(CachedGroups(cache, [replace(pairs[3], win_probability=0.6)], "pairs")) == 1


def test_what_an_objective_reads_is_there_in_every_row_or_no_step_is_made(cache: LatentCache, tiny_road: Path) -> None:
    """Votes and scores in one set are refused by who reads scores; who takes either reads all rows alike, whatever is beside them."""
    pairs = read_preferences(tiny_road / "preferences")
    mixed = [*pairs[:10], *(replace(row, scores=None, win_probability=0.8) for row in pairs[10:])]
    told = r"reads a score of each sample, and 2 of 12 rows have none; name scores of the run in train\.scores, or rank by one: pair\.by"
    for reads in ("scores", "scores or win_probability"):
        with pytest.raises(ValueError, match=told):
            CachedGroups(cache, mixed, "pairs", reads=[reads])
    voted = [replace(row, win_probability=0.8, scores=None if index else row.scores) for index, row in enumerate(pairs)]
    groups = CachedGroups(cache, voted, "pairs", reads=["scores or win_probability"])
    for rows in ([0], [1, 0]):
        batch = groups.fetch(rows, dropped=[False] * 2, flipped=[False] * 2)
        assert batch.scores is None and batch.win_probability is not None
    scores = {sample: (2.0, 1.0) for row in mixed for sample in row.samples}
    assert CachedGroups(cache, mixed, "pairs", reads=["scores"], scores=scores).every_score().shape == (12, 2, 2)


def test_segments_need_labels(cache: LatentCache, tiny_road: Path) -> None:
    pairs = read_preferences(tiny_road / "preferences")
    with pytest.raises(ValueError, match="some pairs have no segment_labels"):
        CachedGroups(cache, pairs, "segments")


def test_rows_that_do_not_fit_are_refused(cache: LatentCache, tiny_road: Path) -> None:
    pairs = read_preferences(tiny_road / "preferences")
    with pytest.raises(ValueError, match=r"trains on pairs \(pair rows\), the preference set has {'labelled': 1}; choose a pairing rule"):
        CachedGroups(cache, [labelled(1)], "pairs")
    with pytest.raises(ValueError, match=r"trains on lists \(list or pair rows\), the preference set has {'labelled': 1}"):
        CachedGroups(cache, [labelled(1)], "lists")
    assert len(CachedGroups(cache, pairs, "lists")) == 12, "a pair is a list of two"
    with pytest.raises(ValueError, match="no rows"):
        CachedGroups(cache, [], "pairs")
    with pytest.raises(ValueError, match="trains on positives"):
        CachedGroups(cache, [labelled(0)], "positives")
    lists = [replace(pairs[0], kind="list"), Preference("g1", "a red circle", ("g1-0", "g1-1", "g2-0"), "list")]
    with pytest.raises(ValueError, match=r"groups of different sizes in one set: {2: 1, 3: 1}"):
        CachedGroups(cache, lists, "lists")


def scored_group(name: str, *ids: str) -> Group:
    """Candidates of the cache as one group, best first."""
    count = len(ids)
    return Group(
        name, "a red circle", ids, {"r.d": [count - place for place in range(count)]}, [""] * count, [""] * count, [(16, 16)] * count
    )


GROUPS = [scored_group("a", "g0-0", "g0-1", "g1-0"), scored_group("b", "g2-0", "g2-1", "g3-0", "g3-1"), scored_group("c", "g4-0", "g4-1")]


def test_lists_of_one_length_make_a_batch_of_groups_of_any_size(cache: LatentCache) -> None:
    lists = pair_groups(GROUPS, PairingSettings("ranked_list", "r.d", length=3)).preferences
    batch = CachedGroups(cache, lists, "lists").fetch([0, 1], dropped=[False] * 2, flipped=[False] * 2)
    assert torch.equal(batch.latents.flatten(0, 1), cache.latents(["g0-0", "g0-1", "g1-0", "g2-0", "g2-1", "g3-1"]))
    with pytest.raises(ValueError, match="groups of different sizes in one set"):
        CachedGroups(cache, pair_groups(GROUPS, PairingSettings("ranked_list", "r.d")).preferences, "lists")


def test_triples_are_lists_of_three_with_a_winner(cache: LatentCache, tiny_road: Path) -> None:
    """For an objective that takes them; their winner has a higher score than their loser, or people ranked."""
    triples = pair_groups(GROUPS, PairingSettings("ranked_list", "r.d", length=3)).preferences
    batch = CachedGroups(cache, triples, "pairs", triples=True).fetch([1], dropped=[False], flipped=[False])
    assert torch.equal(batch.latents[0], cache.latents(["g2-0", "g2-1", "g3-1"]))
    pairs = read_preferences(tiny_road / "preferences")
    assert len(CachedGroups(cache, pairs, "pairs", triples=True)) == 12
    assert len(CachedGroups(cache, [replace(row, scores=None) for row in triples], "pairs", triples=True)) == 2
    assert len(CachedGroups(cache, [replace(row, scores=(2.0, 2.0, 1.0)) for row in triples], "pairs", triples=True)) == 2
    with pytest.raises(ValueError, match=r"1 of 2 triples have one score for winner and loser.*pair\.ties: drop"):
        CachedGroups(cache, [triples[0], replace(triples[1], scores=(2.0, 1.0, 1.0))], "pairs", triples=True)
    with pytest.raises(ValueError, match=r"trains on pairs \(pair rows\), the preference set has {'list': 2}"):
        CachedGroups(cache, triples, "pairs")
    lists = pair_groups(GROUPS, PairingSettings("ranked_list", "r.d")).preferences
    for rows, lengths in ((lists, r"\[2, 3, 4\]"), (lists[1:2], r"\[4\]"), ([*pairs, *triples], r"\[2, 3\]")):
        with pytest.raises(ValueError, match=rf"lists of 3 \(gold, winner, loser\), not of {lengths}; set pair.length: 3"):
            CachedGroups(cache, rows, "pairs", triples=True)


def test_labelled_rows_make_a_batch_of_groups_of_any_size(cache: LatentCache) -> None:
    scored = pair_groups(GROUPS, PairingSettings("labelled", "r.d", threshold=2.5)).preferences
    people = Preference("b", "a red circle", ("g2-1", "g2-0", "g3-0"), "labelled", labels=(1, 0, 0))
    judged = [replace(group, preferences=[people] if group.group_id == "b" else []) for group in GROUPS]
    for rows, labels in ((scored, [1, 0, 0, 1, 1, 0, 0, 0, 0]), (pair_groups(judged, PairingSettings("imported")).preferences, [0, 1, 0])):
        groups = CachedGroups(cache, rows, "labelled")
        batch = groups.fetch(range(len(groups)), dropped=[False] * len(groups), flipped=[False] * len(groups))
        assert batch.latents.shape == (len(labels), 1, 4, 8, 8)
        assert batch.labels is not None and batch.labels.flatten().tolist() == labels


def test_a_candidate_that_was_not_encoded_is_named(cache: LatentCache) -> None:
    with pytest.raises(KeyError, match=r"not in the latent cache.*'g99-0'"):
        CachedGroups(cache, [Preference("g99", "a red circle", ("g99-0", "g99-1"))], "pairs")
