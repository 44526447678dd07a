"""Slight mistakes: valid, different, by hand for each strategy, and never right for the scene that they spoil."""

import numpy as np
import pytest

from reward_models.worlds import motion, shapes

WORLDS = (shapes, motion)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_perturbed_scenes_are_of_the_grammar_and_differ(world):
    known = {scene for split in world.SPLITS for scene in world.scenes(split)}
    for scene in sorted(known, key=world.caption)[::60]:
        perturbed = world.perturb(scene)
        assert perturbed
        assert perturbed == world.perturb(world.caption(scene))
        for found in perturbed.values():
            assert found
            assert scene not in found
            assert len(set(found)) == len(found)
            assert set(found) <= known


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_what_shows_a_perturbed_scene_is_never_right(world):
    judged = 0
    for index, one in enumerate(world.prompts("heldout", 25, 7)):
        for found in world.perturb(one.text).values():
            wrong = found[int(np.random.default_rng(index).integers(len(found)))]
            result = world.verify(one.text, world.render(wrong, index))
            assert result["overall"] == 0.0, (one.text, world.caption(wrong))
            judged += 1
    assert judged >= 50


def captions(world, text):
    return {name: [world.caption(scene) for scene in found] for name, found in world.perturb(text).items()}


def test_a_motion_by_hand():
    found = captions(motion, "a red star rises fast")
    assert list(found) == ["colour", "shape", "motion", "speed"]
    assert found["colour"] == [f"a {colour} star moves up fast" for colour in motion.COLOURS[1:]]
    assert found["shape"] == [f"a red {shape} moves up fast" for shape in ("circle", "square", "triangle")]
    assert found["motion"] == [f"a red star moves {way} fast" for way in ("left", "right", "down")]
    assert found["speed"] == ["a red star moves up slowly"]


def test_a_sequence_by_hand():
    found = captions(motion, "a red star rises then stays")
    assert list(found) == ["colour", "shape", "motion", "order", "drop"]
    assert found["motion"] == [
        *(f"a red star moves {way} then stays" for way in ("left", "right", "down")),
        *(f"a red star moves up then moves {way}" for way in ("left", "right", "down")),
    ]
    assert found["order"] == ["a red star stays then moves up"]
    assert found["drop"] == ["a red star moves up", "a red star stays"]


def test_two_objects_by_hand():
    pair = captions(motion, "a red circle rises while a blue star stays")
    assert pair["swap"] == ["a blue circle moves up while a red star stays", "a red circle stays while a blue star moves up"]
    assert pair["drop"] == ["a red circle moves up", "a blue star stays"]
    assert len(pair["colour"]) == 2 * 4
    assert len(pair["shape"]) == 2 * 2
    assert len(pair["motion"]) == 3 + 4
    meeting = captions(motion, "a red circle rises then a blue star falls")
    assert meeting["order"] == ["a blue star moves down then a red circle moves up"]
    assert meeting["drop"] == ["a red circle moves up then stays", "a blue star stays then moves down"]


def test_insertions_by_hand():
    found = captions(motion, "a red star rises")["insert"]
    assert found[:4] == [f"a red star moves up then {what}" for what in ("moves left", "moves right", "moves down", "stays")]
    assert len(found) == 4 + 3 * 5 * 5


def test_a_picture_by_hand():
    found = captions(shapes, "a red ring left of a blue star")
    assert list(found) == ["colour", "shape", "side", "drop"]
    assert len(found["colour"]) == 2 * 4
    assert len(found["shape"]) == 2 * 4
    assert found["side"] == ["a blue star left of a red ring"]
    assert found["drop"] == ["a red ring", "a blue star"]
    counted = captions(shapes, "two stars")
    assert list(counted) == ["shape", "count"]
    assert counted["count"] == ["a star", "three stars", "four stars"]
