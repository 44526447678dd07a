"""The renderer: deterministic, keeps its distances, draws what it is told."""

import math

import numpy as np
import pytest

from reward_models.worlds.shapes import (
    COLOURS,
    PALETTE,
    SHAPES,
    SIZE,
    Placed,
    caption,
    layout,
    parse,
    prompts,
    render,
    render_objects,
)
from reward_models.worlds.shapes.geometry import REACH, coverage

LIGHT = (236.0, 236.0, 236.0)


def test_a_picture_depends_on_scene_and_seed_alone():
    text = "a red circle left of a blue star"
    first = render(text, 5)
    assert first.dtype == np.uint8
    assert first.shape == (SIZE, SIZE, 3)
    assert np.array_equal(first, render("a blue star is on the right of a red circle", 5))
    assert np.array_equal(first, render(parse(text), 5))
    assert not np.array_equal(first, render(text, 6))


def test_layouts_keep_their_distances():
    for seed, one in enumerate(prompts("train", 400, 1)):
        scene = parse(one.text)
        placed = layout(scene, seed).placed
        assert [(p.shape) for p in placed] == [item.shape for item in scene.objects()]
        for index, p in enumerate(placed):
            reach = REACH[p.shape] * p.radius
            assert 6.5 <= p.radius <= 10
            assert min(p.x, p.y, SIZE - p.x, SIZE - p.y) >= reach + 2 - 1e-9
            for q in placed[:index]:
                assert math.hypot(p.x - q.x, p.y - q.y) >= reach + REACH[q.shape] * q.radius + 3 - 1e-9
        if scene.relation is not None:
            first, second = placed
            right, down = second.x - first.x, second.y - first.y
            along, across = (right, down) if scene.relation == "left of" else (down, right)
            assert along >= 16
            assert along >= abs(across) + 6


def test_open_colours_vary_and_groups_share_theirs():
    drawn = [layout("three stars", seed).placed for seed in range(40)]
    nearest = [{min(COLOURS, key=lambda c, p=p: math.dist(PALETTE[c], p.colour)) for p in placed} for placed in drawn]
    assert all(len(names) == 1 for names in nearest)
    assert set().union(*nearest) == set(COLOURS)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_antialiased_and_has_the_shapes_area(shape):
    steps = np.arange(SIZE) + 0.5 - SIZE / 2
    coarse = coverage(shape, *np.meshgrid(steps, steps), 9.0)
    fine_steps = (np.arange(SIZE * 8) + 0.5) / 8 - SIZE / 2
    fine = coverage(shape, *np.meshgrid(fine_steps * 8, fine_steps * 8), 72.0)
    assert ((coarse > 0.05) & (coarse < 0.95)).sum() > 8
    assert coarse.sum() == pytest.approx(fine.sum() / 64, rel=0.03)
    assert fine[np.hypot(*np.meshgrid(fine_steps, fine_steps)) > REACH[shape] * 9 + 0.2].max() == 0


def test_circle_area_by_hand():
    steps = np.arange(SIZE) + 0.5 - SIZE / 2
    assert coverage("circle", *np.meshgrid(steps, steps), 9.0).sum() == pytest.approx(math.pi * 81, rel=0.005)


def test_objects_are_drawn_in_order_in_their_colours_and_may_leave_the_picture():
    pixels = render_objects(
        [Placed("square", "red", 20, 20, 8), Placed("circle", (1, 2, 3), 20, 20, 4), Placed("star", "blue", 64, 64, 8)], LIGHT
    )
    assert tuple(pixels[20, 20]) == (1, 2, 3)
    assert tuple(pixels[15, 15]) == PALETTE["red"]
    assert tuple(pixels[63, 63]) == PALETTE["blue"]
    assert tuple(pixels[40, 40]) == (236, 236, 236)
    assert np.array_equal(render_objects([Placed("star", "red", -50, 200, 5)], LIGHT), render_objects([], LIGHT))


@pytest.mark.parametrize(
    ("placed", "complaint"),
    [
        (Placed("blob", "red", 9, 9, 5), "unknown shape 'blob'.*circle"),
        (Placed("star", "pink", 9, 9, 5), "unknown colour 'pink'.*red"),
        (Placed("star", "red", 9, 9, 0), "radius 0 .*not positive"),
    ],
)
def test_objects_that_cannot_be_drawn_are_refused(placed, complaint):
    with pytest.raises(ValueError, match=complaint):
        render_objects([placed], LIGHT)


def test_render_refuses_captions_outside_the_grammar():
    with pytest.raises(ValueError, match="unknown word 'dog'"):
        render("a dog", 0)


def test_every_task_renders_with_up_to_four_objects():
    for count in (1, 2, 3, 4):
        for shape in SHAPES:
            word = caption(parse("a " + shape)).split()[1]
            plural = "crosses" if word == "cross" else word + "s"
            text = f"{('one', 'two', 'three', 'four')[count - 1]} {word if count == 1 else plural}"
            assert len(layout(text, 1).placed) == count
