"""The caption grammar of sounds: captions and scenes invert each other, splits share no scene, mistakes are mistakes."""

from collections import Counter

import numpy as np
import pytest

from reward_models.worlds import load_world
from reward_models.worlds.tones import (
    KINDS,
    PITCHES,
    SPLITS,
    STRATEGIES,
    TASK_SHARES,
    TASKS,
    Event,
    caption,
    compose,
    parse,
    perturb,
    prompts,
    scenes,
    wordings,
    words,
)

EVERY_SCENE = [scene for split in SPLITS for scene in scenes(split)]
LOW_BEEP, CLICK, NOISE = Event("beep", "low"), Event("click"), Event("noise")


def test_every_wording_of_every_scene_reads_back_and_none_means_two():
    every = []
    for scene in EVERY_SCENE:
        texts = wordings(scene)
        assert texts[0] == caption(scene)
        assert len(texts) >= 8
        assert all(parse(text) == scene and len(text.split()) <= 20 for text in texts)
        every += texts
    assert len(set(every)) == len(every) == 94_096


def test_captions_are_drawn_from_the_wordings():
    scene = parse("noise, then a low beep")
    assert {caption(scene, np.random.default_rng(seed)) for seed in range(400)} == set(wordings(scene))
    assert parse("  Noise THEN a low beep. ") == scene


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("one beep", ((Event("beep"),),)),
        ("the sound of a burst of noise", ((NOISE,),)),
        ("a low beep, then noise, then a high buzz", ((LOW_BEEP,), (NOISE,), (Event("buzz", "high"),))),
        ("noise after a low beep", ((LOW_BEEP,), (NOISE,))),
        ("a low beep before noise", ((LOW_BEEP,), (NOISE,))),
        ("a low beep followed by noise", ((LOW_BEEP,), (NOISE,))),
        ("first noise, then a low beep", ((NOISE,), (LOW_BEEP,))),
        ("a rising chirp while a click repeats", ((Event("chirp", "rising"), CLICK),)),
        ("a repeating click with a rising chirp", ((Event("chirp", "rising"), CLICK),)),
        ("noise, then a low beep and a click that repeats at once", ((NOISE,), (LOW_BEEP, CLICK))),
        ("a beep, then a low beep, and finally a beep", ((Event("beep"),), (LOW_BEEP,), (Event("beep"),))),
    ],
)
def test_meaning(text, groups):
    assert parse(text) == compose(groups)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a red beep", "unknown word 'red'.*beep.*rising"),
        ("", "the end where a sound belongs"),
        ("a low", "'a low' where a sound belongs"),
        ("a rising beep", "a beep cannot be 'rising'; give one of: low, middle, high, None"),
        ("a low beep noise", "'noise' where it should end or go on with one of: then"),
        ("a low beep and noise", "joins two sounds by 'and' alone"),
        ("noise after a beep after noise", "'after noise' where it should end"),
        ("a beep, then noise after a beep", "'after a beep' where it should end"),
        ("a beep, then a beep", "'a beep' next to 'a beep'"),
        ("a beep with a click that repeats, then a beep", "next to 'a beep'"),
        ("a buzz with noise", "a buzz and a noise at once are not in the grammar"),
        ("noise while a click repeats", "a noise and a click at once"),
        ("noise, then a beep, then noise, then a beep", "has 4 events; give at most 3"),
        ("a beep, then a click, then a buzz, then a chirp", "has 4 events; give at most 3"),
        ("a beep; a buzz", "'beep;', where events are separated by ', then'"),
    ],
)
def test_captions_outside_the_grammar_are_refused_with_the_reason(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


def test_events_and_groups_outside_the_grammar_are_refused():
    with pytest.raises(ValueError, match=r"unknown kind of sound 'song'.*beep, buzz"):
        Event("song")
    with pytest.raises(ValueError, match="a noise cannot be 'low'; give one of: None"):
        Event("noise", "low")
    for groups in ((), ((),), ((LOW_BEEP, CLICK, NOISE),)):
        with pytest.raises(ValueError, match="not in the grammar"):
            compose(groups)


def test_what_sounds_at_once_has_no_order():
    assert compose(((CLICK, LOW_BEEP),)) == compose(((LOW_BEEP, CLICK),))


def test_vocabulary_is_small_sorted_and_all_in_train():
    assert list(words()) == sorted(set(words()))
    assert len(words()) <= 80
    assert {*KINDS, *PITCHES, "rising", "falling", "then", "while"} <= set(words())
    train = {word for scene in scenes("train") for text in wordings(scene) for word in text.replace(",", "").split()}
    assert train == set(words())


def test_splits_share_no_scene_and_have_their_shares_of_every_task():
    assert len(set(EVERY_SCENE)) == len(EVERY_SCENE) == 2359
    totals = Counter(scene.task for scene in EVERY_SCENE)
    assert totals == {"single": 5, "pitch": 8, "order2": 156, "order3": 1872, "together": 318}
    for split, share in (("train", 0.76), ("validation", 0.08), ("heldout", 0.16)):
        counts = Counter(scene.task for scene in scenes(split))
        assert all(counts[task] >= 1 for task in TASKS)
        assert all(abs(counts[task] - share * totals[task]) <= 10 for task in TASKS)  # what sounds alike stays together


def test_the_same_sounds_in_another_order_are_in_the_same_split():
    """Else a model that has learned one of two orders by heart is asked for the other."""
    split_of = {scene: split for split in SPLITS for scene in scenes(split)}
    turned = {scene: compose(scene.groups[::-1]) for scene in EVERY_SCENE if len(scene.groups) > 1}
    assert len(turned) > 2000 and all(split_of[one] == split_of[other] for one, other in turned.items())


def test_every_event_and_every_pair_at_once_of_heldout_is_in_train():
    train, heldout = scenes("train"), scenes("heldout")
    assert {event for scene in heldout for event in scene.events()} <= {event for scene in train for event in scene.events()}
    pairs = [{group for scene in split for group in scene.groups if len(group) == 2} for split in (train, heldout)]
    assert len(pairs[0]) == 18
    assert pairs[1] <= pairs[0]


def test_prompts_are_reproducible_and_belong_to_their_split():
    for split in SPLITS:
        found = prompts(split, 120, 3)
        assert found == prompts(split, 120, 3) != prompts(split, 120, 4)
        members = set(scenes(split))
        assert all(parse(one.text) in members and parse(one.text).task == one.task for one in found)
        assert all(one.scene == caption(parse(one.text)) for one in found)


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_prompts_follow_the_task_shares(count):
    counts = Counter(one.task for one in prompts("train", count, 0))
    assert sum(counts.values()) == count
    assert all(abs(counts[task] - share * count) < 1 for task, share in TASK_SHARES.items())


def test_prompts_repeat_only_after_every_text_was_used():
    texts = [one.text for one in prompts("train", 60, 0, {"single": 1.0})]
    available = {text for scene in scenes("train") if scene.task == "single" for text in wordings(scene)}
    assert set(texts) == available
    assert len(available) < 60
    assert max(Counter(texts).values()) == 2
    many = [one.text for one in prompts("train", 2000, 0, {"order3": 1.0})]
    assert len(set(many)) == 2000
    assert {one.task for one in prompts("heldout", 30, 0, {"order2": 2.0, "pitch": 1.0})} == {"order2", "pitch"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("test", 1, 0), "unknown split 'test'.*train, validation, heldout"),
        (("train", -1, 0), "-1 is negative"),
        (("train", 1, 0, {"size": 1.0}), "unknown task 'size'.*together"),
        (("train", 1, 0, {"pitch": 0.0}), "no proportions"),
    ],
)
def test_prompts_refuse_what_they_do_not_know(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        prompts(*arguments)


def test_the_world_is_loaded_by_name():
    assert load_world("tones").words() == words()


def captions_of(mistakes):
    return {name: [caption(scene) for scene in found] for name, found in mistakes.items()}


def test_mistakes_of_a_sequence_by_hand():
    assert captions_of(perturb("a low beep, then a rising chirp while a click repeats")) == {
        "kind": [
            "a low buzz, then a rising chirp while a click repeats",
            "noise, then a rising chirp while a click repeats",
            "a low beep, then a buzz while a click repeats",
            "a low beep, then a rising chirp with noise",
        ],
        "pitch": [
            "a middle beep, then a rising chirp while a click repeats",
            "a high beep, then a rising chirp while a click repeats",
            "a low beep, then a falling chirp while a click repeats",
        ],
        "dropped": ["a rising chirp while a click repeats", "a low beep, then a repeating click", "a low beep, then a rising chirp"],
        "swapped": ["a rising chirp while a click repeats, then a low beep"],
        "timing": ["a low beep, then a rising chirp, then a repeating click", "a low beep, then a repeating click, then a rising chirp"],
    }


def test_mistakes_of_one_sound_by_hand():
    assert captions_of(perturb("a beep")) == {
        "kind": ["a buzz", "noise", "a chirp", "a repeating click"],
        "inserted": [
            "a buzz, then a beep",
            "a beep, then a buzz",
            "noise, then a beep",
            "a beep, then noise",
            "a beep with noise",
            "a chirp, then a beep",
            "a beep, then a chirp",
            "a repeating click, then a beep",
            "a beep, then a repeating click",
            "a beep while a click repeats",
        ],
    }


def test_no_mistake_is_the_scene_itself_or_may_be_heard_as_it():
    members = set(EVERY_SCENE)
    for scene in EVERY_SCENE[::40]:
        found = perturb(scene)
        assert list(found) == [name for name in STRATEGIES if name in found]
        every = [one for each in found.values() for one in each]
        assert scene not in every
        assert all(len(set(each)) == len(each) >= 1 for each in found.values())
        assert members.issuperset(every)
    # The low beep may be the high beep's "a beep": no mistake.
    assert "swapped" not in perturb("a beep, then a low beep")
