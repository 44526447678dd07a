"""The rewards without weights: every value here was computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import load_reward
from reward_models.pixels import luma


def picture(rows: list[list[tuple[int, int, int]]]) -> Image:
    return Image.from_pixels(np.array(rows, dtype=np.uint8))


def score(name: str, image: Image, **settings: int) -> float:
    return load_reward(name, **settings)([""], [image])["score"][0]


def grey(value: int) -> tuple[int, int, int]:
    return (value, value, value)


BLACK, WHITE, RED, GREEN, BLUE = grey(0), grey(255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_luma_of_the_primaries_is_bt601() -> None:
    values = luma(picture([[RED, GREEN, BLUE, WHITE, BLACK]]).pixels())
    np.testing.assert_allclose(values, [[0.299, 0.587, 0.114, 1.0, 0.0]], rtol=1e-12)


def test_brightness() -> None:
    # (0.299 + 0.587 + 0.114 + 51/255) / 4 = 1.2 / 4
    assert score("brightness", picture([[RED, GREEN], [BLUE, grey(51)]])) == pytest.approx(0.3, rel=1e-12)
    assert score("brightness", picture([[WHITE]])) == pytest.approx(1.0, rel=1e-12)


def test_contrast() -> None:
    # Half black, half white: deviations ±0.5. Then luma 0, 0.2, 0.4, 0.6: mean 0.3, variance (0.09 + 0.01 + 0.01 + 0.09) / 4 = 0.05.
    assert score("contrast", picture([[BLACK, WHITE]])) == pytest.approx(0.5, rel=1e-12)
    assert score("contrast", picture([[BLACK, grey(51), grey(102), grey(153)]])) == pytest.approx(math.sqrt(0.05), rel=1e-12)
    assert score("contrast", picture([[RED, RED]])) == pytest.approx(0.0, abs=1e-12)


def test_saturation() -> None:
    # Red 1; grey 0; black 0 by definition; (200, 100, 50): (200 − 50) / 200 = 0.75. Mean of the four: 0.4375.
    assert score("saturation", picture([[RED, grey(80)], [BLACK, (200, 100, 50)]])) == pytest.approx(0.4375, rel=1e-12)


def test_saturation_of_the_darkest_colours_is_not_cut_off() -> None:
    assert score("saturation", picture([[(1, 0, 0)]])) == 1.0


def test_sharpness() -> None:
    # 3 rows x 4 columns, one bright pixel (10) at row 1, column 1. Interior: its Laplacian is −40, its right neighbour's +10.
    # Mean −15, deviations ∓25: variance 625.
    rows = [[BLACK] * 4, [BLACK, grey(10), BLACK, BLACK], [BLACK] * 4]
    assert score("sharpness", picture(rows)) == pytest.approx(625.0, rel=1e-12)


def test_sharpness_of_a_straight_ramp_is_zero() -> None:
    ramp = [[grey(row + 2 * column) for column in range(8)] for row in range(8)]
    assert score("sharpness", picture(ramp)) == pytest.approx(0.0, abs=1e-18)


def test_sharpness_refuses_a_picture_without_interior() -> None:
    with pytest.raises(ValueError, match=r"2 x 3 pixels; it needs at least 3 x 3"):
        score("sharpness", picture([[BLACK, BLACK]] * 3))


def test_jpeg_size() -> None:
    """A grey (128) 16 x 16 picture: every coefficient is 0, so the file can be counted by hand.

    Headers: SOI 2, JFIF 18, two quantisation tables 2 · 69, SOF0 19, Huffman tables 2 · 33 (DC) + 2 · 183 (AC), SOS 14, EOI 2: 625 bytes.
    Scan, one 4:2:0 unit: 4 luma blocks of DC '00' and EOB '1010', 2 chroma blocks of DC '00' and EOB '00': 4 · 6 + 2 · 4 = 32 bits.
    """
    image = picture([[grey(128)] * 16] * 16)
    assert score("jpeg_size", image) == 629 / 256
    assert score("jpeg_size", image, quality=40) == 629 / 256  # zeros cost the same at any quality


def test_jpeg_size_of_four_units_adds_their_bits() -> None:
    # 32 x 16: two units, 64 bits = 8 bytes.
    assert score("jpeg_size", picture([[grey(128)] * 32] * 16)) == 633 / 512


def test_jpeg_size_grows_with_detail_and_quality() -> None:
    noise = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert score("jpeg_size", noise) > 4 * score("jpeg_size", picture([[grey(128)] * 64] * 64))
    assert score("jpeg_size", noise, quality=95) > score("jpeg_size", noise) > score("jpeg_size", noise, quality=10)


@pytest.mark.parametrize("quality", [0, 96, -1, 50.0, "75", True])
def test_jpeg_size_refuses_a_quality_out_of_range(quality: object) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 95"):
        load_reward("jpeg_size", quality=quality)
