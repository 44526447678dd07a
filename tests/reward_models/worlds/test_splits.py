"""What every world shares: splits by hash, quotas, prompts without repeats."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from reward_models.worlds import shapes
from reward_models.worlds.splits import draw, quotas, split_by_hash


def test_a_split_is_a_rank_of_the_hash():
    scenes = [(task, index) for index in range(25) for task in ("b", "a")]
    found = split_by_hash(scenes, lambda scene: scene[0], repr, {"validation": 0.08, "heldout": 0.16})
    assert list(found) == ["train", "validation", "heldout"]
    assert sorted(scene for split in found.values() for scene in split) == sorted(scenes)
    ranked = {task: sorted((s for s in scenes if s[0] == task), key=lambda s: hashlib.sha256(repr(s).encode()).digest()) for task in "ab"}
    assert found["validation"] == (*ranked["b"][:2], *ranked["a"][:2])
    assert found["heldout"] == (*ranked["b"][2:6], *ranked["a"][2:6])
    assert found["train"] == (*ranked["b"][6:], *ranked["a"][6:])


def test_scenes_of_one_key_stay_together():
    """Twelve scenes of four keys: a split that would end inside a key takes all of it."""
    scenes = [(key, index) for index in range(3) for key in "abcd"]
    found = split_by_hash(scenes, lambda _: "one task", lambda scene: scene[0], {"validation": 0.08, "heldout": 0.3})
    ranked = sorted("abcd", key=lambda key: hashlib.sha256(key.encode()).digest())
    assert [{key for key, _ in found[split]} for split in ("validation", "heldout", "train")] == [
        {ranked[0]},
        set(ranked[1:3]),
        {ranked[3]},
    ]
    assert sorted(scene for split in found.values() for scene in split) == sorted(scenes)


def test_even_the_smallest_task_is_in_every_split():
    found = split_by_hash("xyz", lambda _: "one task", str, {"validation": 0.08, "heldout": 0.16})
    assert [len(found[split]) for split in ("train", "validation", "heldout")] == [1, 1, 1]


def test_quotas_by_hand():
    assert quotas({"b": 1.0, "a": 1.0}, 3, ("a", "b", "c")) == {"a": 2, "b": 1}
    assert quotas({"a": 0.5, "b": 0.3, "c": 0.2}, 7, ("a", "b", "c")) == {"a": 4, "b": 2, "c": 1}  # 3.5, 2.1, 1.4
    assert quotas({"a": 1.0, "b": 0.0}, 5, ("a", "b")) == {"a": 5, "b": 0}


def test_no_text_twice_before_every_text_was_drawn():
    wordings = {"x": ("x1", "x2", "x3"), "y": ("y1",)}
    texts = draw(list(wordings), wordings.__getitem__, 10, np.random.default_rng(0))
    assert sorted(texts[:4]) == ["x1", "x2", "x3", "y1"]
    assert {text[0] for text in texts[:2]} == {"x", "y"}
    assert set(Counter(texts).values()) == {2, 3}
    assert texts == draw(list(wordings), wordings.__getitem__, 10, np.random.default_rng(0))


def test_the_prompts_of_shapes_stay_the_same():
    """Stored experiments name their prompts by (split, count, seed)."""
    drawn = [shapes.prompts(split, count, seed) for split in shapes.SPLITS for count, seed in ((1000, 0), (333, 5))]
    assert hashlib.sha256(repr(drawn).encode()).hexdigest() == "91d187ed3f9e300e0b2bd6b356a0a511f898bc820cf2e273de2071aaa21f1470"


@pytest.mark.parametrize(
    ("shares", "count", "complaint"),
    [
        ({"c": 1.0}, 1, "unknown task 'c' in shares; choose among: a, b"),
        ({}, 1, "no proportions; give weights"),
        ({"a": -1.0, "b": 2.0}, 1, "no proportions"),
        ({"a": 1.0}, -2, "-2 is negative; ask for 0"),
    ],
)
def test_quotas_refuse_what_cannot_be_divided(shares, count, complaint):
    with pytest.raises(ValueError, match=complaint):
        quotas(shares, count, ("a", "b"))
