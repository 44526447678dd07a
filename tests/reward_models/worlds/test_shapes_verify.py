"""The verifier: exact on renders, also degraded ones, not fooled by corruptions or adversarial pictures, smooth where truth is."""

import io
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from reward_models.worlds.shapes import (
    COLOURS,
    DIMENSIONS,
    PALETTE,
    RELATIONS,
    SHAPES,
    SIZE,
    Placed,
    detect,
    layout,
    parse,
    prompts,
    read,
    render,
    render_objects,
    verify,
)
from reward_models.worlds.shapes.geometry import REACH, coverage

LIGHT = (236.0, 236.0, 236.0)


def degrade(pixels, seed):
    """What a good autoencoder does to a picture: a slight blur, a little noise, JPEG."""
    rng = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter(pixels.astype(float), (0.8, 0.8, 0)) + rng.normal(0, 3, pixels.shape)
    file = io.BytesIO()
    PIL.Image.fromarray(np.clip(np.rint(blurred), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return np.asarray(PIL.Image.open(file))


def examples(count, seed):
    return [(parse(one.text), index) for index, one in enumerate(prompts("train", count, seed))]


def share_true(pairs):
    """The share of (scene, pixels) that the verifier finds wholly true, and how many there are."""
    results = [verify(scene, pixels)["overall"] for scene, pixels in pairs]
    return sum(results) / len(results), len(results)


def assert_renders_are_true(count):
    share, _ = share_true((scene, render(scene, seed)) for scene, seed in examples(count, 11))
    assert share == 1.0


def test_renders_are_true():
    assert_renders_are_true(600)


@pytest.mark.long
def test_ten_thousand_renders_are_true():
    assert_renders_are_true(10_000)


def test_degraded_renders_are_true():
    share, _ = share_true((scene, degrade(render(scene, seed), seed)) for scene, seed in examples(600, 12))
    assert share >= 0.99


@pytest.mark.long
def test_ten_thousand_degraded_renders_are_true():
    share, _ = share_true((scene, degrade(render(scene, seed), seed)) for scene, seed in examples(10_000, 13))
    assert share >= 0.99


def free_place(placed, radius, rng):
    """A place for one more object of `radius` that touches no other, or None."""
    for _ in range(200):
        x, y = rng.uniform(1.3 * radius + 2, SIZE - 1.3 * radius - 2, size=2)
        if all(math.hypot(x - p.x, y - p.y) >= REACH[p.shape] * p.radius + 1.3 * radius + 3 for p in placed):
            return float(x), float(y)
    return None


def wrong_colour(scene, placed, rng):
    index = int(rng.integers(len(placed)))
    colour = scene.objects()[index].colour
    if colour is None:
        return None
    other = str(rng.choice([c for c in COLOURS if c != colour]))
    return [replace(p, colour=other) if i == index else p for i, p in enumerate(placed)]


def swapped_colours(scene, placed, rng):
    if len(placed) != 2 or scene.items[0].colour is None or len(scene.items) == 1:
        return None
    return [replace(placed[0], colour=placed[1].colour), replace(placed[1], colour=placed[0].colour)]


def wrong_shape(scene, placed, rng):
    index = int(rng.integers(len(placed)))
    other = str(rng.choice([s for s in SHAPES if s != placed[index].shape]))
    return [replace(p, shape=other) if i == index else p for i, p in enumerate(placed)]


def wrong_count(scene, placed, rng):
    if scene.task != "counting":
        return None
    count = int(rng.choice([c for c in (1, 2, 3, 4) if c != len(placed)]))
    words = (
        f"{('one', 'two', 'three', 'four')[count - 1]} {placed[0].shape}{'' if count == 1 else 'es' if placed[0].shape == 'cross' else 's'}"
    )
    return [replace(p, colour=placed[0].colour) for p in layout(words, int(rng.integers(2**31))).placed]


def wrong_side(scene, placed, rng):
    if scene.relation is None:
        return None
    first, second = placed
    return [replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)]


def wrong_axis(scene, placed, rng):
    if scene.relation is None:
        return None
    return [replace(p, x=p.y, y=p.x) for p in placed]


def extra_object(scene, placed, rng, radius=6.5):
    place = free_place(placed, radius, rng)
    if place is None:
        return None
    like = placed[int(rng.integers(len(placed)))]
    is_copy = rng.random() < 0.5
    shape, colour = (like.shape, like.colour) if is_copy else (str(rng.choice(SHAPES)), str(rng.choice(COLOURS)))
    return [*placed, Placed(shape, colour, *place, radius)]


def missing_object(scene, placed, rng):
    index = int(rng.integers(len(placed)))
    return [p for i, p in enumerate(placed) if i != index]


def another_colour(one, rng):
    own = min(COLOURS, key=lambda c: math.dist(PALETTE[c], one.colour))
    return str(rng.choice([c for c in COLOURS if c != own]))


def dotted(scene, placed, rng):
    """A dot of another colour, 5 px wide, on every object but a ring."""
    dots = [Placed("circle", another_colour(p, rng), p.x, p.y, 2.5) for p in placed if p.shape != "ring"]
    return [*placed, *dots] if dots else None


def striped(scene, placed, rng):
    """Stripes of another colour on every object, 2 px wide and 5 px apart."""
    stripes = []
    for p in placed:
        colour, reach = another_colour(p, rng), int(p.radius)
        places = [(dx, dy) for dy in range(-reach, reach, 5) for dx in range(-reach, reach + 1)]
        inside = [(dx, dy) for dx, dy in places if coverage(p.shape, np.array(float(dx)), np.array(float(dy)), p.radius) == 1]
        stripes += [Placed("square", colour, p.x + dx, p.y + dy, 1.16) for dx, dy in inside]
    return [*placed, *stripes]


def outlined(scene, placed, rng):
    """A black outline around every object, 1.5 px wide where its radius is measured."""
    return [one for p in placed for one in (replace(p, colour=(0.0, 0.0, 0.0), radius=p.radius + 1.5), p)]


DEFACED = (dotted, striped, outlined)  # blur and JPEG hide a few of them, where two colours are near each other
CORRUPTIONS = (
    wrong_colour,
    swapped_colours,
    wrong_shape,
    wrong_count,
    wrong_side,
    wrong_axis,
    extra_object,
    missing_object,
    *DEFACED,
)


def corrupted(corruption, count, seed):
    """(scene, true picture, corrupted picture) for those of `count` examples that the corruption applies to."""
    for scene, index in examples(count, seed):
        drawn = layout(scene, index)
        wrong = corruption(scene, drawn.placed, np.random.default_rng(index))
        if wrong is not None:
            yield scene, render_objects(drawn.placed, drawn.background), render_objects(wrong, drawn.background)


def assert_corruption_is_never_true(corruption, count):
    triples = list(corrupted(corruption, count, 21))
    assert len(triples) >= count // 8
    for scene, true, wrong in triples:
        result = verify(scene, wrong)
        assert result["overall"] == 0.0
        assert result["score"] < verify(scene, true)["score"] - 0.05
    share, _ = share_true((scene, degrade(wrong, index)) for index, (scene, _, wrong) in enumerate(triples))
    assert share <= (0.06 if corruption in DEFACED else 0.0)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda f: f.__name__)
def test_corruptions_are_never_true(corruption):
    assert_corruption_is_never_true(corruption, 150)


@pytest.mark.long
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda f: f.__name__)
def test_thousands_of_corruptions_are_never_true(corruption):
    assert_corruption_is_never_true(corruption, 5_000)


@pytest.mark.parametrize(
    ("corruption", "dimension"),
    [(wrong_colour, "colour"), (wrong_shape, "shape"), (wrong_count, "count"), (wrong_side, "position"), (extra_object, "count")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_corruption_shows_in_its_dimension(corruption, dimension):
    for scene, true, wrong in corrupted(corruption, 80, 22):
        assert verify(scene, wrong)[dimension] < verify(scene, true)[dimension] - 0.2


def adversarial():
    rng = np.random.default_rng(0)
    lines = np.full((SIZE, SIZE, 3), 236, np.uint8)
    lines[::8] = lines[:, ::8] = PALETTE["red"]
    waves = ndimage.gaussian_filter(rng.uniform(0, 255, (SIZE, SIZE, 3)), (6, 6, 0))
    waves = (waves - waves.min()) / (waves.max() - waves.min()) * 255
    return {
        "empty": render_objects([], LIGHT),
        "black": np.zeros((SIZE, SIZE, 3), np.uint8),
        "one colour": np.full((SIZE, SIZE, 3), PALETTE["red"], np.uint8),
        "noise": rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        "noisy background": np.clip(236 + rng.normal(0, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8),
        "everything": render_objects(
            [Placed(s, c, 6 + 10.4 * i, 6 + 10.4 * j, 4.2) for i, s in enumerate(SHAPES) for j, c in enumerate(COLOURS)], LIGHT
        ),
        "all shapes": render_objects(
            [Placed(s, COLOURS[i], 12 + 20 * (i % 3), 18 + 28 * (i // 3), 7) for i, s in enumerate(SHAPES)], LIGHT
        ),
        "all shapes red": render_objects([Placed(s, "red", 12 + 20 * (i % 3), 18 + 28 * (i // 3), 7) for i, s in enumerate(SHAPES)], LIGHT),
        "nine circles": render_objects([Placed("circle", "red", 12 + 20 * (i % 3), 12 + 20 * (i // 3), 7) for i in range(9)], LIGHT),
        "grid of lines": lines,
        "specks": render_objects([Placed("circle", COLOURS[i % 6], *rng.uniform(2, 62, 2), 2) for i in range(40)], LIGHT),
        "waves": waves.astype(np.uint8),
        "gradient": np.stack([np.tile(np.linspace(0, 255, SIZE), (SIZE, 1))] * 3, axis=-1).astype(np.uint8),
    }


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_pictures_score_low_for_every_caption(name):
    pixels = adversarial()[name]
    for scene, _ in examples(60, 31):
        result = verify(scene, pixels)
        assert result["overall"] == 0.0
        assert result["score"] < 0.5


def test_dimensions_are_numbers_between_0_and_1_and_score_is_the_mean_of_six():
    pictures = [*adversarial().values(), *(render(scene, seed) for scene, seed in examples(10, 41))]
    for pixels in pictures:
        for scene, _ in examples(12, 42):
            result = verify(scene, pixels)
            assert tuple(result) == DIMENSIONS
            assert all(type(value) is float and 0.0 <= value <= 1.0 for value in result.values())
            assert result["score"] == pytest.approx(sum(list(result.values())[:6]) / 6)


def test_dimensions_that_a_caption_does_not_speak_of_are_1():
    result = verify("a star", render("a red ring", 0))
    assert result["colour"] == result["position"] == 1.0
    assert result["shape"] < 0.01


def test_a_caption_and_its_scene_are_judged_alike():
    pixels = render("a red star above a blue ring", 3)
    assert verify("there is a blue ring below a red star", pixels) == verify(parse("a red star above a blue ring"), pixels)


def apart(relation, along, across):
    """A red circle and a blue square whose centres are so many pixels apart, along the axis of the relation and across it."""
    first, second = (32 - along / 2, 32 - across / 2), (32 + along / 2, 32 + across / 2)
    if relation == "above":
        first, second = first[::-1], second[::-1]
    return render_objects([Placed("circle", "red", *first, 7), Placed("square", "blue", *second, 7)], LIGHT)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("across", "first_true"), [(4, 19), (20, 21)])
def test_position_rises_as_the_object_moves_along_the_axis(relation, across, first_true):
    caption = f"a red circle {relation} a blue square"
    # Closer than 18 px, without a distance across, the two would overlap.
    places = [along for along in range(-35, 37, 2) if across == 20 or abs(along) >= 18]
    results = [verify(caption, apart(relation, along, across)) for along in places]
    values = [result["position"] for result in results]
    assert all(after >= before - 0.01 for before, after in pairwise(values))
    assert values[0] == 0.0
    assert values[-1] > 0.97
    assert [result["overall"] for result in results] == [float(along >= first_true) for along in places]


@pytest.mark.parametrize("relation", RELATIONS)
def test_position_is_half_where_the_relation_begins_to_hold(relation):
    assert verify(f"a red circle {relation} a blue square", apart(relation, 20, 20))["position"] == pytest.approx(0.5, abs=0.05)


def test_colour_falls_smoothly_between_two_colours():
    values = []
    for part in np.linspace(0, 1, 11):
        colour = tuple((1 - part) * np.array(PALETTE["red"]) + part * np.array(PALETTE["blue"]))
        values.append(verify("a red circle", render_objects([Placed("circle", colour, 32, 32, 9)], LIGHT))["colour"])
    assert values[0] > 0.99
    assert values[-1] < 0.01
    assert all(after <= before + 1e-3 for before, after in pairwise(values))


@pytest.mark.parametrize("colour", [(90, 90, 90), (10, 10, 10), (240, 120, 30), (120, 70, 40), (230, 170, 170)])
def test_other_colours_are_none_of_the_six(colour):
    pixels = render_objects([Placed("star", colour, 32, 32, 9)], LIGHT)
    assert not any(verify(f"a {name} star", pixels)["overall"] for name in COLOURS)


@pytest.mark.parametrize("radius", [6.5, 8, 10])
def test_two_merged_discs_are_one_up_to_a_limit(radius):
    places = np.arange(0, 2.05, 0.05) * radius
    pictures = [render_objects([Placed("circle", "red", 32 + side * apart / 2, 32, radius) for side in (-1, 1)], LIGHT) for apart in places]
    seen_as = [{shape for shape in SHAPES if verify(f"a red {shape}", pixels)["overall"]} for pixels in pictures]
    assert set().union(*seen_as) == {"circle"}
    assert 1.05 <= places[sum(map(bool, seen_as))] / radius <= 1.25
    scores = [verify("a red circle", pixels)["score"] for pixels in pictures]
    assert all(after <= before + 1e-3 for before, after in pairwise(scores[: sum(map(bool, seen_as)) + 1]))


def test_an_extra_object_counts_from_seven_pixels_and_lowers_the_score_before():
    for radius, overall in ((2.0, 1.0), (3.5, 0.0)):
        triples = list(corrupted(partial(extra_object, radius=radius), 150, 23))
        assert {verify(scene, wrong)["overall"] for scene, _, wrong in triples} == {overall}
        assert all(verify(scene, wrong)["score"] < verify(scene, true)["score"] - 0.02 for scene, true, wrong in triples)


def test_count_falls_with_the_difference():
    pictures = [render(text, 2) for text in ("a red circle", "two red circles", "three red circles", "four red circles")]
    one = [verify("a red circle", pixels)["count"] for pixels in pictures]
    four = [verify("four red circles", pixels)["count"] for pixels in pictures]
    assert one == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16], abs=0.02)
    assert four == pytest.approx([1 / 16, 1 / 4, 9 / 16, 1], abs=0.02)


def test_fidelity_falls_with_blur_specks_noise_and_tint():
    drawn = layout("a red star", 4)
    clean = render_objects(drawn.placed, LIGHT)
    rng = np.random.default_rng(0)

    def fidelity(pixels):
        return verify("a red star", np.clip(np.rint(pixels), 0, 255).astype(np.uint8))["fidelity"]

    specks = [
        fidelity(render_objects([*drawn.placed, *(Placed("circle", "blue", 4 + 9 * i, 4, 1.5) for i in range(count))], LIGHT))
        for count in range(6)
    ]
    blurs = [fidelity(ndimage.gaussian_filter(clean.astype(float), (sigma, sigma, 0))) for sigma in (0, 1, 2, 3)]
    noises = [fidelity(clean + rng.normal(0, sigma, clean.shape)) for sigma in (0, 8, 12, 30)]
    tints = [fidelity(render_objects(drawn.placed, (236, level, level))) for level in (236, 190, 180, 120)]
    for values in (specks, blurs, noises, tints):
        assert values[0] == 1.0
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_detections_say_where_and_how_large(shape):
    for colour in COLOURS:
        (found,) = detect(render_objects([Placed(shape, colour, 25.3, 40.6, 8)], LIGHT))
        assert (found.shape, found.colour) == (shape, colour)
        assert (found.x, found.y) == pytest.approx((25.3, 40.6), abs=0.3)
        assert found.foreign == 0.0
        assert found.ink == pytest.approx(math.pi * found.size**2, rel=0.25)
        assert found.shape_confidence == found.shapes[shape] > 0.95
        assert found.colour_confidence == found.colours[colour] > 0.95
    (large,) = detect(render_objects([Placed(shape, "red", 32, 32, 16)], LIGHT))
    assert large.size == pytest.approx(2 * found.size, rel=0.03)


def test_objects_of_two_colours_that_touch_are_told_apart():
    for other in COLOURS[1:]:
        pixels = render_objects([Placed("square", "red", 24, 32, 8), Placed("circle", other, 38.8, 32, 8)], LIGHT)
        blurred = np.rint(ndimage.gaussian_filter(pixels.astype(float), (0.8, 0.8, 0))).astype(np.uint8)
        assert [(one.shape, one.colour) for one in detect(blurred)] == [("square", "red"), ("circle", other)]


def test_ink_of_another_colour_counts_in_pixels_and_touching_objects_have_next_to_none():
    red = Placed("square", "red", 32, 32, 10)
    (found,) = detect(render_objects([red, Placed("circle", "blue", 32, 32, 2)], LIGHT))
    assert found.foreign == pytest.approx(math.pi * 4, rel=0.25)
    beside = render_objects([Placed("square", "red", 24, 32, 8), Placed("circle", "blue", 38.9, 32, 8)], LIGHT)
    assert sum(one.foreign for one in detect(beside)) < 2
    assert verify("a red square and a blue circle", beside)["overall"] == 1.0


def test_reading_reports_the_background_and_what_lies_about():
    clean = read(render_objects([Placed("ring", "green", 32, 32, 9)], (240, 230, 235)))
    assert clean.background == (240, 230, 235)
    assert clean.stray == clean.roughness == 0.0
    littered = read(render_objects([Placed("ring", "green", 32, 32, 9), Placed("circle", "blue", 8, 8, 2)], LIGHT))
    assert len(littered.detections) == 1
    assert littered.stray == pytest.approx(math.pi * 4, rel=0.25)


@pytest.mark.parametrize("pixels", [np.zeros((32, 32, 3), np.uint8), np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE), np.uint8)])
def test_other_pixels_are_refused(pixels):
    with pytest.raises(ValueError, match=r"pixels are .*; give uint8 \(64, 64, 3\)"):
        detect(pixels)
