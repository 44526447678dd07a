"""The rewards of video without weights: every value here was computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from diffalign.data.modalities.video import Video
from reward_models import load_reward
from reward_models.frames import blurred_luma, mean_change

WIDTH = 64


def score(name: str, frames: np.ndarray, fps: float = 8) -> float:
    return load_reward(name)([""], [Video.from_frames(frames, fps)])["score"][0]


def flat(*levels: int) -> np.ndarray:
    """A frame of one grey for each level, 4 x 6 pixels."""
    return np.stack([np.full((4, 6, 3), level, dtype=np.uint8) for level in levels])


def edge(columns: list[int], bright: int = 255) -> np.ndarray:
    """Frames of 8 x 64 pixels: black up to a column, bright from there."""
    frames = np.zeros((len(columns), 8, WIDTH, 3), dtype=np.uint8)
    for frame, column in zip(frames, columns, strict=True):
        frame[:, column:] = bright
    return frames


def test_the_blur_is_binomial_and_keeps_the_border() -> None:
    # A white pixel in the middle of black: outer product of (1, 2, 1) / 4. In a corner: what lies beyond is white, (3, 1) / 4 each way.
    pixels = np.zeros((5, 5, 3), dtype=np.uint8)
    pixels[2, 2] = 255
    kernel = np.zeros((5, 5))
    kernel[1:4, 1:4] = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_allclose(blurred_luma(pixels), kernel, atol=1e-12)
    corner = np.zeros((3, 3, 3), dtype=np.uint8)
    corner[0, 0] = 255
    np.testing.assert_allclose(blurred_luma(corner), np.outer([3, 1, 0], [3, 1, 0]) / 16, atol=1e-12)
    np.testing.assert_allclose(blurred_luma(flat(51)[0]), np.full((4, 6), 0.2), atol=1e-12)


def test_movement_of_a_changing_grey() -> None:
    # Luma 0, 0.2, 0.6: changes 0.2 and 0.4, mean 0.3, at 10 frames a second 3 luma a second. Sign does not count.
    assert score("movement", flat(0, 51, 153), 10) == pytest.approx(3.0, rel=1e-12)
    assert score("movement", flat(153, 51, 0), 10) == pytest.approx(3.0, rel=1e-12)
    assert score("movement", flat(80, 80, 80)) == 0.0


@pytest.mark.parametrize(("step", "fps"), [(1, 8.0), (3, 8.0), (2, 24.0), (5, 30.0)])
def test_movement_of_an_edge_is_its_contrast_times_its_speed(step: int, fps: float) -> None:
    # Each frame, what the edge passes over changes by the contrast; the blur spreads that and adds nothing.
    frames = edge([10 + step * time for time in range(9)], bright=102)
    assert score("movement", frames, fps) == pytest.approx(0.4 * step * fps / WIDTH, rel=1e-12)


def test_movement_is_the_same_at_another_frame_rate() -> None:
    fast = edge([10 + time for time in range(33)])
    assert score("movement", fast[::4], 6) == pytest.approx(score("movement", fast, 24), rel=1e-12)


def test_flicker_of_alternating_brightness() -> None:
    # Luma a, b, a, b: |a - 2b + a| = 2 |a - b| at every inner frame.
    assert score("flicker", flat(0, 255, 0, 255, 0)) == pytest.approx(2.0, rel=1e-12)
    assert score("flicker", flat(102, 153, 102, 153)) == pytest.approx(0.4, rel=1e-12)
    # Luma 0, 0.2, 0.6, 0.4: second differences 0.2 and -0.6.
    assert score("flicker", flat(0, 51, 153, 102)) == pytest.approx(0.4, rel=1e-12)


def test_a_steady_fade_does_not_flicker() -> None:
    frames = flat(*range(0, 250, 25))
    assert score("flicker", frames) == pytest.approx(0.0, abs=1e-12)
    assert score("movement", frames) == pytest.approx(8 * 25 / 255, rel=1e-12)


def test_flicker_of_an_edge_that_moves_steadily_is_low() -> None:
    # Blurred, the edge is 0, 1/4, 3/4, 1. At one pixel a frame a second difference in time is one in space: 1/4, 1/4, -1/4, -1/4 in four
    # columns of 64, so 1/64. At two: g(x + 2) - 2 g(x) + g(x - 2) over seven columns: 1/4, 3/4, 3/4 ... worked out below, 3/64.
    steady = edge([20 + time for time in range(8)])
    assert score("flicker", steady) == pytest.approx(1 / WIDTH, rel=1e-12)
    ramp = np.array([0, 0, 0, 0, 0.25, 0.75, 1, 1, 1, 1])
    at_two = np.abs(ramp[:-4] - 2 * ramp[2:-2] + ramp[4:])
    np.testing.assert_allclose(at_two, [0.25, 0.75, 0.5, 0.5, 0.75, 0.25])
    assert score("flicker", edge([20 + 2 * time for time in range(8)])) == pytest.approx(3 / WIDTH, rel=1e-12)
    trembling = edge([20 + time % 2 for time in range(8)])
    # To and fro by a pixel: twice the first difference, 2/64. The same movement, twice the flicker.
    assert score("flicker", trembling) == pytest.approx(2 / WIDTH, rel=1e-12)
    assert score("movement", trembling) == pytest.approx(score("movement", steady), rel=1e-12)


def test_flicker_does_not_depend_on_the_rate_and_movement_follows_it() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    assert score("flicker", frames, 8) == score("flicker", frames, 24)
    assert score("movement", frames, 24) == pytest.approx(3 * score("movement", frames, 8), rel=1e-12)


def test_noise_of_every_frame_reads_as_much_as_statistics_say() -> None:
    """Independent grey noise, uniform on 0 to 1: its blur is near a normal of standard deviation (6/16)·sqrt(1/12) (Σ w² = (6/16)²).

    A first difference has sqrt(2), a second sqrt(6) times that, and a normal's mean absolute value is sqrt(2/π) of its deviation.
    """
    grey = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 1), dtype=np.uint8)
    frames = np.repeat(grey, 3, axis=3)
    deviation = 6 / 16 * np.sqrt(1 / 12)
    assert score("movement", frames, 1) == pytest.approx(np.sqrt(2 / np.pi) * np.sqrt(2) * deviation, rel=0.02)
    assert score("flicker", frames) == pytest.approx(np.sqrt(2 / np.pi) * np.sqrt(6) * deviation, rel=0.02)


@pytest.mark.parametrize(("name", "frames"), [("movement", 1), ("flicker", 2)])
def test_too_few_frames_are_refused(name: str, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"a video of {frames} frames .* give at least {frames + 1} frames"):
        score(name, flat(*[0] * frames))


def test_a_change_is_of_the_frames_in_their_order() -> None:
    # A third difference of luma 0, 0.2, 0.6, 0.4: -0 + 3·0.2 - 3·0.6 + 0.4 = -0.8.
    assert mean_change(flat(0, 51, 153, 102), (-1.0, 3.0, -3.0, 1.0)) == pytest.approx(0.8, rel=1e-12)
