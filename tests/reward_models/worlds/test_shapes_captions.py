"""The caption grammar: captions and scenes invert each other, splits share no combination, prompts are reproducible."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models.worlds import load_world
from reward_models.worlds.shapes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SPLITS,
    TASK_SHARES,
    TASKS,
    Item,
    caption,
    compose,
    parse,
    prompts,
    scenes,
    wordings,
    words,
)

EVERY_SCENE = [scene for split in SPLITS for scene in scenes(split)]


def test_every_scene_reads_back_from_its_plainest_wording():
    assert [parse(caption(scene)) for scene in EVERY_SCENE] == EVERY_SCENE


@given(scene=st.sampled_from(EVERY_SCENE), seed=st.integers(0, 2**32 - 1))
def test_parse_inverts_every_paraphrase(scene, seed):
    text = caption(scene, np.random.default_rng(seed))
    assert parse(text) == scene
    assert parse(f"  {text.upper()}. ") == scene
    assert len(text.split()) <= 16


@given(scene=st.sampled_from(EVERY_SCENE))
def test_wordings_of_a_scene_are_distinct_and_all_reachable(scene):
    texts = wordings(scene)
    assert len(set(texts)) == len(texts) >= 8
    assert all(parse(text) == scene for text in texts)
    assert texts[0] == caption(scene)


def test_no_text_means_two_scenes():
    texts = [caption(scene) for scene in EVERY_SCENE]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a star", compose((Item("star"),))),
        ("one star", compose((Item("star"),))),
        ("there is one red circle", compose((Item("circle", "red"),))),
        ("two crosses", compose((Item("cross", None, 2),))),
        ("there are a group of three cyan rings", compose((Item("ring", "cyan", 3),))),
        ("a square and a circle", compose((Item("circle"), Item("square")))),
        ("a blue square with a red circle", compose((Item("circle", "red"), Item("square", "blue")))),
        ("a star is to the right of a ring", compose((Item("ring"), Item("star")), "left of")),
        ("a red star under a blue ring", compose((Item("ring", "blue"), Item("star", "red")), "above")),
    ],
)
def test_meaning(text, scene):
    assert parse(text) == scene


def test_mirrored_relations_mean_the_same_and_reversed_ones_do_not():
    assert parse("a ring left of a star") == parse("a star right of a ring") != parse("a star left of a ring")
    assert parse("a ring above a star") == parse("a star below a ring") != parse("a star above a ring")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a red dog", "unknown word 'dog'.*circle.*red"),
        ("", "the end where a number belongs"),
        ("a red", "the end where a shape belongs"),
        ("two circle", "'circle' where a shape belongs.*circles"),
        ("a circle red", "'red' where it should end or go on with one of: and, with, left of"),
        ("a circle and a square and a star", "goes on with 'and a star'"),
        ("a circle and a circle", "two different shapes"),
        ("a red circle and a red square", "two different or none"),
        ("a red circle and a square", "two different or none"),
        ("two circles and a square", "counts 2 and 1"),
    ],
)
def test_captions_outside_the_grammar_are_refused_with_the_reason(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(("blob",), "unknown shape 'blob'.*ring"), (("star", "pink"), "unknown colour 'pink'.*cyan"), (("star", None, 5), "count 5")],
)
def test_items_outside_the_grammar_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        Item(*arguments)


def test_compose_refuses_unknown_relations():
    with pytest.raises(ValueError, match=r"'near'.*left of, above"):
        compose((Item("star"), Item("ring")), "near")


def test_vocabulary_is_small_sorted_and_complete():
    vocabulary = words()
    assert list(vocabulary) == sorted(set(vocabulary))
    assert len(vocabulary) <= 60
    assert {*SHAPES, *COLOURS, *["left", "right", "above", "below", "under", "over", "two", "three", "four"]} <= set(vocabulary)


def test_splits_share_no_scene_and_have_their_shares_of_every_task():
    assert len(set(EVERY_SCENE)) == len(EVERY_SCENE)
    totals = Counter(scene.task for scene in EVERY_SCENE)
    assert set(totals) == set(TASKS)
    for split, share in (("train", 0.76), ("validation", 0.08), ("heldout", 0.16)):
        counts = Counter(scene.task for scene in scenes(split))
        assert all(counts[task] >= 1 for task in TASKS)
        assert all(abs(counts[task] - share * totals[task]) <= 1.5 for task in TASKS)


def test_splits_share_no_caption_but_the_pairs_of_heldout_are_in_train_under_another_relation():
    train, heldout = scenes("train"), scenes("heldout")
    assert not {text for scene in train for text in wordings(scene)} & {text for scene in heldout for text in wordings(scene)}
    relations = {}
    for scene in train:
        relations.setdefault(frozenset(scene.items), set()).add((scene.items, scene.relation))
    for scene in heldout:
        known = relations.get(frozenset(scene.items), set())
        assert (scene.items, scene.relation) not in known
        assert len(known) > 0 if len(scene.items) == 2 else not known


def test_every_word_and_every_relation_is_in_train():
    seen = {word for scene in scenes("train") for text in wordings(scene) for word in text.split()}
    assert seen == set(words())
    assert {scene.relation for scene in scenes("train")} == {None, *RELATIONS}


def test_prompts_are_reproducible_and_belong_to_their_split():
    drawn = {split: prompts(split, 120, 3) for split in SPLITS}
    for split, found in drawn.items():
        assert found == prompts(split, 120, 3) != prompts(split, 120, 4)
        assert all(parse(one.text) in scenes(split) and parse(one.text).task == one.task for one in found)
        assert all(parse(one.text) == parse(one.scene) and one.scene == caption(parse(one.text)) for one in found)
    assert not {one.text for one in drawn["train"]} & {one.text for one in drawn["heldout"]}


@pytest.mark.parametrize("count", [0, 1, 7, 200, 1000])
def test_prompts_follow_the_task_shares(count):
    counts = Counter(one.task for one in prompts("train", count, 0))
    assert sum(counts.values()) == count
    assert all(abs(counts[task] - share * count) < 1 for task, share in TASK_SHARES.items())


def test_prompts_of_given_shares():
    assert {one.task for one in prompts("heldout", 30, 0, {"counting": 2.0, "colour": 1.0})} == {"counting", "colour"}


def test_prompts_repeat_only_after_every_text_was_used():
    texts = [one.text for one in prompts("train", 1000, 0)]
    available = sum(len(wordings(scene)) for scene in scenes("train") if scene.task == "object")
    assert available < 1000 * TASK_SHARES["object"]
    assert len(set(texts)) == 1000 - (1000 * TASK_SHARES["object"] - available)
    assert max(Counter(texts).values()) <= 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("test", 1, 0), "unknown split 'test'.*train, validation, heldout"),
        (("train", -1, 0), "-1 is negative"),
        (("train", 1, 0, {"size": 1.0}), "unknown task 'size'.*counting"),
        (("train", 1, 0, {"colour": 0.0}), "no proportions"),
    ],
)
def test_prompts_refuse_what_they_do_not_know(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        prompts(*arguments)


def test_worlds_are_loaded_by_name():
    assert load_world("shapes").words() == words()
    with pytest.raises(ValueError, match=r"unknown world 'shape'.*shapes"):
        load_world("shape")
