"""The shapes reward model: the reward protocol over the verifier."""

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import load_reward
from reward_models.worlds.shapes import DIMENSIONS, Shapes, prompts, render, verify


def batch(count):
    texts = [one.text for one in prompts("validation", count, 0)]
    return texts, [Image.from_pixels(render(text, index)) for index, text in enumerate(texts)]


def test_the_table_knows_it():
    reward = load_reward("shapes")
    assert isinstance(reward, Shapes)
    assert (reward.name, reward.dimensions) == ("shapes", DIMENSIONS)
    assert not reward.groupwise


def test_a_batch_is_its_items_in_order():
    texts, media = batch(12)
    texts[3], texts[7] = texts[7], texts[3]
    scores = Shapes()(texts, media)
    assert tuple(scores) == DIMENSIONS
    for index, (text, one) in enumerate(zip(texts, media, strict=True)):
        expected = verify(text, one.pixels())
        assert {name: values[index] for name, values in scores.items()} == expected
        assert Shapes()([text], [one]) == {name: [value] for name, value in expected.items()}
    assert scores["overall"] == [float(index not in (3, 7)) for index in range(12)]


def test_an_empty_batch():
    assert Shapes()([], []) == {name: [] for name in DIMENSIONS}


def test_larger_pictures_are_reduced_by_boxes():
    pixels = render("two red crosses", 1)
    large = Image.from_pixels(np.repeat(np.repeat(pixels, 3, axis=0), 3, axis=1))
    assert Shapes()(["two red crosses"], [large]) == Shapes()(["two red crosses"], [Image.from_pixels(pixels)])


def test_refusals():
    _, media = batch(1)
    with pytest.raises(ValueError, match=r"unknown word 'dog'.*known words: a, above"):
        Shapes()(["a dog"], media)
    with pytest.raises(ValueError, match="2 prompts and 1 media"):
        Shapes()(["a star", "a ring"], media)
