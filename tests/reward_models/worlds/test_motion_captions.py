"""The grammar of the motion world: captions and scenes invert each other, splits share no scene, prompts are reproducible."""

import re
from collections import Counter

import numpy as np
import pytest

from reward_models.worlds import load_world
from reward_models.worlds.motion import (
    COLOURS,
    MOTIONS,
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
RED, BLUE = ("circle", "red"), ("square", "blue")


def assert_wordings_invert(some_scenes):
    for scene in some_scenes:
        texts = wordings(scene)
        assert len(set(texts)) == len(texts) >= 12
        assert texts[0] == caption(scene)
        for text in texts:
            assert parse(text) == scene
            assert len(text.split()) <= 20
            assert set(text.split()) <= set(words())


def test_wordings_read_back():
    assert_wordings_invert(EVERY_SCENE[::20])


@pytest.mark.long
def test_every_wording_of_every_scene_reads_back():
    assert_wordings_invert(EVERY_SCENE)


def test_no_plainest_text_means_two_scenes():
    assert len({caption(scene) for scene in EVERY_SCENE}) == len(set(EVERY_SCENE)) == len(EVERY_SCENE)


def test_the_number_of_scenes_by_hand():
    objects, couples = 4 * 6, 4 * 6 * 3 * 5
    by_hand = {
        "single": objects * 5,
        "speed": objects * 4 * 2,
        "sequence": objects * 5 * 4,
        "pair": couples // 2 * (5 * 5 - 1),
        "meeting": couples * 4 * 4,
    }
    assert Counter(scene.task for scene in EVERY_SCENE) == by_hand
    assert tuple(by_hand) == TASKS


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a red circle rises", (Item(*RED, ("up",)),)),
        ("A video of a red circle not moving.", (Item(*RED, ("stay",)),)),
        ("a red circle slowly falls", (Item(*RED, ("down",), "slowly"),)),
        ("there is a red circle moving to the left quickly", (Item(*RED, ("left",), "fast"),)),
        ("a red circle moves right, then up", (Item(*RED, ("right", "up")),)),
        ("a red circle stays, then falls", (Item(*RED, ("stay", "down")),)),
        ("a clip of a red circle first rising and then standing still", (Item(*RED, ("up", "stay")),)),
        ("a blue square stays while a red circle falls", (Item(*RED, ("down",)), Item(*BLUE, ("stay",)))),
        ("a video of a blue square going left as a red circle does not move", (Item(*RED, ("stay",)), Item(*BLUE, ("left",)))),
        ("a blue square rises and then a red circle drops", (Item(*BLUE, ("up", "stay")), Item(*RED, ("stay", "down")))),
        ("a video of a blue square rising, then a red circle falling", (Item(*BLUE, ("up", "stay")), Item(*RED, ("stay", "down")))),
    ],
)
def test_meaning(text, items):
    assert parse(text) == compose(items)
    assert parse(text).items == items


def test_the_order_of_a_pair_means_nothing_and_that_of_a_meeting_does():
    assert parse("a red circle rises while a blue square falls") == parse("a blue square drops as a red circle goes up")
    assert parse("a red circle rises then a blue square falls") != parse("a blue square falls then a red circle rises")
    assert compose((Item(*BLUE, ("stay", "left")), Item(*RED, ("up", "stay")))).items[0].colour == "red"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a red dog moves left", "unknown word 'dog'.*circle.*red"),
        ("", "the end where an article belongs"),
        ("a circle moves left", "'circle' where a colour belongs"),
        ("a red moves left", "'moves' where a shape belongs"),
        ("a red circle", "the end where a motion belongs.*moves left"),
        ("a red circle moving left", "'moving' where a motion belongs.*rises"),
        ("a video of a red circle rises", "'rises' where a motion belongs.*rising"),
        ("a red circle first rises", "the end where it should go on; write one of: then, and then"),
        ("a red circle first rises while a blue square falls", "'while' where it should go on"),
        ("a red circle rises a blue square falls", "'a' where it should end or go on.*while"),
        ("a red circle rises while falls", "'falls' after 'while'"),
        ("a red circle rises then falls then rises", "goes on with 'then rises'"),
        ("a red circle rises then rises", "two different ones"),
        ("a red circle stays slowly", "speed 'slowly' of .*stay"),
        ("a red circle rises slowly while a blue square falls", "speed 'slowly' of one of two"),
        ("a red circle rises while a red square falls", "a red circle and a red square .*two different colours"),
        ("a red circle rises while a blue circle falls", "two different shapes"),
        ("a red circle stays while a blue square stays", "one each, of which one moves"),
        ("a red circle stays then a blue square falls", "motions .*'stay'"),
    ],
)
def test_captions_outside_the_grammar_are_refused_with_the_reason(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("ring", "red", ("up",)), "unknown shape 'ring'.*star"),
        (("star", "pink", ("up",)), "unknown colour 'pink'.*cyan"),
        (("star", "red", ("north",)), "unknown motion 'north'.*stay"),
        (("star", "red", ()), r"motions \(\) "),
        (("star", "red", ("up",), "soon"), "speed 'soon'.*slowly, fast"),
        (("star", "red", ("up", "down"), "fast"), "speed 'fast' of .*to one motion"),
    ],
)
def test_items_outside_the_grammar_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        Item(*arguments)


def test_vocabulary_is_small_sorted_and_all_of_it_is_in_train():
    vocabulary = words()
    assert list(vocabulary) == sorted(set(vocabulary))
    assert len(vocabulary) == 48
    assert {*SHAPES, *COLOURS, *MOTIONS} - {"stay"} <= set(vocabulary)
    assert {word for scene in scenes("train")[::5] for text in wordings(scene) for word in text.split()} == set(vocabulary)


def test_the_english_is_right():
    for scene in EVERY_SCENE[::40]:
        for text in wordings(scene):
            assert not re.search(r"\ba [aeiou]", text)
            assert not re.search(r"(^|then |while |as )a \w+ \w+ (first )?(slowly |quickly )?\w+ing\b", text) or text.startswith(
                ("a video of", "a clip of", "there is")
            )
            assert not re.search(r"\b(slowly|fast|quickly) .*\b(slowly|fast|quickly)\b", text)


def test_splits_share_no_scene_and_have_their_shares_of_every_task():
    totals = Counter(scene.task for scene in EVERY_SCENE)
    for split, share in (("train", 0.76), ("validation", 0.08), ("heldout", 0.16)):
        counts = Counter(scene.task for scene in scenes(split))
        assert all(abs(counts[task] - share * totals[task]) <= 1.5 for task in TASKS)
    assert list(dict.fromkeys(scene.task for scene in scenes("train"))) == list(TASKS)


def test_prompts_are_reproducible_and_belong_to_their_split():
    for split in SPLITS:
        drawn = prompts(split, 60, 3)
        assert drawn == prompts(split, 60, 3) != prompts(split, 60, 4)
        of_split = set(scenes(split))
        for one in drawn:
            assert parse(one.text) in of_split
            assert parse(one.text).task == one.task
            assert one.scene == caption(parse(one.text))


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_prompts_follow_the_task_shares_and_do_not_repeat(count):
    drawn = prompts("train", count, 0)
    counts = Counter(one.task for one in drawn)
    assert sum(counts.values()) == len({one.text for one in drawn}) == count
    assert all(abs(counts[task] - share * count) < 1 for task, share in TASK_SHARES.items())


def test_prompts_of_given_shares():
    assert {one.task for one in prompts("heldout", 30, 0, {"speed": 2.0, "single": 1.0})} == {"speed", "single"}
    with pytest.raises(ValueError, match=r"unknown task 'colour'.*meeting"):
        prompts("train", 1, 0, {"colour": 1.0})
    with pytest.raises(ValueError, match=r"unknown split 'test'.*train, validation, heldout"):
        prompts("test", 1, 0)


def test_a_generator_picks_every_wording():
    scene = parse("a red circle moves left slowly")
    rng = np.random.default_rng(0)
    assert {caption(scene, rng) for _ in range(400)} == set(wordings(scene))


def test_the_world_is_loaded_by_name():
    assert load_world("motion").words() == words()
