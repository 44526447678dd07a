"""The rewards of sound without weights: every value here was computed by hand, or is the standard's."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from diffalign.loudness import _high_pass, _shelf
from reward_models import load_reward
from reward_models.loudness import loudness_lufs
from reward_models.waveforms import mono


class Audio:
    """A stand-in for the handle of a sound."""

    def __init__(self, samples: object, sample_rate_hz: int = 16_000) -> None:
        self.samples = np.atleast_2d(np.array(samples, dtype=np.float32))
        self.sample_rate_hz = sample_rate_hz

    def waveform(self) -> np.ndarray:
        return self.samples


def score(name: str, samples: object, sample_rate_hz: int = 16_000) -> float:
    return load_reward(name)([""], [Audio(samples, sample_rate_hz)])["score"][0]  # type: ignore[list-item]


def sine(hz: float, seconds: float, rate: int = 48_000, level_db: float = 0.0) -> np.ndarray:
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def test_mono_is_the_mean_of_the_channels() -> None:
    np.testing.assert_array_equal(mono(np.array([[1.0, 0.0, -0.5], [0.0, 0.0, 0.5]])), [0.5, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"shape \(3,\); give \(channels, samples\)"):
        mono(np.zeros(3))


def test_rms() -> None:
    # A square of ±1: 0 dB. ±1/10: -20 dB. A sine: 10 log10(1/2). Channels of opposite sign cancel.
    assert score("rms", [1, -1, 1, -1]) == pytest.approx(0.0, abs=1e-12)
    assert score("rms", [0.1, -0.1]) == pytest.approx(-20.0, abs=1e-5)
    assert score("rms", sine(1000, 1)) == pytest.approx(10 * math.log10(0.5), abs=1e-5)
    assert score("rms", [[0.5, 0.5], [-0.5, -0.5]]) == score("rms", [0.0, 0.0]) == -120.0


def test_clipping_counts_runs_of_three_of_one_sign_in_one_channel() -> None:
    # Of 10 samples: a run of three and one of four are clipped, the two alone and the pair of ±1 are not.
    assert score("clipping", [1, 1, 1, 0, -1, -1, -1, -1, 1, 1]) == pytest.approx(-0.7)
    assert score("clipping", [1, -1, 1, -1, 1, -1]) == 0.0
    assert score("clipping", [[1, 1, 0, 0], [0, 0, 1, 1]]) == 0.0
    assert score("clipping", [[1.5, 1.5, 1.5, 0], [0, 0, 0, 0]]) == pytest.approx(-3 / 8)
    assert score("clipping", [32767 / 32768] * 4) == -1.0
    assert score("clipping", [0.99] * 4) == 0.0
    assert math.copysign(1, score("clipping", [0.0])) == 1.0


def test_clipping_falls_as_a_sine_is_driven_harder() -> None:
    # |sin| >= 1/gain on a share of 1 - 2/pi asin(1/gain): 2/3 at gain 2.
    driven = [score("clipping", np.clip(sine(100, 1) * gain, -1, 1), 48_000) for gain in (0.9, 1.5, 2, 4)]
    assert driven == sorted(driven, reverse=True)
    assert driven[0] == 0.0
    assert driven[2] == pytest.approx(-2 / 3, abs=0.01)


def test_centroid() -> None:
    # A sine is its own centroid; of two equal ones it lies in the middle; white noise has the middle of the band.
    assert score("centroid", sine(1000, 1, 16_000)) == pytest.approx(1000, abs=3)
    assert score("centroid", sine(1000, 1, 16_000) + sine(3000, 1, 16_000)) == pytest.approx(2000, abs=5)
    assert score("centroid", np.random.default_rng(0).standard_normal(64_000) * 0.1) == pytest.approx(4000, abs=40)
    assert score("centroid", sine(1000, 1, 48_000), 48_000) == pytest.approx(1000, abs=3)
    assert score("centroid", [0.0] * 4000) == 0.0
    assert score("centroid", [0.5]) == 0.0


def test_silence_is_the_share_of_frames_that_sound() -> None:
    # 10 frames of 320 samples, 3 of them at -40 dBFS; -60 dBFS itself is silent; 100 samples at the end are no frame.
    samples = np.zeros(3300)
    samples[320:1280] = 0.01
    samples[1600:1920] = 0.000999
    samples[3200:] = 1.0
    assert score("silence", samples) == pytest.approx(0.3)
    assert score("silence", [0.5] * 100) == 1.0
    assert score("silence", [0.0] * 16_000) == 0.0


def test_k_weighting_has_the_coefficients_of_the_standard_at_48_khz() -> None:
    # ITU-R BS.1770-4, tables 1 and 2.
    numerator, denominator = _shelf(48_000)
    np.testing.assert_allclose(numerator, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-10)
    np.testing.assert_allclose(denominator, [1.0, -1.69065929318241, 0.73248077421585], atol=1e-10)
    numerator, denominator = _high_pass(48_000)
    np.testing.assert_allclose(numerator, [1.0, -2.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(denominator, [1.0, -1.99004745483398, 0.99007225036621], atol=1e-10)


@pytest.mark.parametrize(("rate", "tolerance"), [(16_000, 0.06), (44_100, 0.02), (48_000, 0.02)])
def test_a_full_scale_sine_of_997_hz_in_one_channel_reads_minus_3_01(rate: int, tolerance: float) -> None:
    # At 16 kHz the bilinear transform squeezes the shelf: 0.05 LU.
    one = sine(997, 5, rate)
    assert loudness_lufs(one, rate) == pytest.approx(-3.01, abs=tolerance)
    assert loudness_lufs(np.stack([one, np.zeros_like(one)]), rate) == pytest.approx(-3.01, abs=tolerance)
    assert loudness_lufs(np.stack([one, one]), rate) == pytest.approx(0.0, abs=tolerance)


def stereo(*parts: tuple[float, float]) -> np.ndarray:
    """A sine of 1 kHz in both channels, at so many dBFS of peak for so many seconds, part after part."""
    one = np.concatenate([sine(1000, seconds, level_db=level) for level, seconds in parts])
    return np.stack([one, one])


@pytest.mark.parametrize(
    ("parts", "lufs"),
    [
        (((-23, 20),), -23.0),
        (((-33, 20),), -33.0),
        (((-36, 10), (-23, 60), (-36, 10)), -23.0),
        (((-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)), -23.0),
        (((-26, 20), (-20, 20.1), (-26, 20)), -23.0),
    ],
    ids=["1", "2", "3", "4", "5"],
)
def test_the_cases_of_ebu_tech_3341(parts: tuple[tuple[float, float], ...], lufs: float) -> None:
    """The minimum requirements' test signals 1 to 5, stereo sines of 1 kHz: ±0.1 LU."""
    assert loudness_lufs(stereo(*parts), 48_000) == pytest.approx(lufs, abs=0.1)


def test_loudness_of_silence_and_of_short_sounds() -> None:
    assert loudness_lufs(np.zeros(48_000), 48_000) == -70.0
    assert loudness_lufs(sine(1000, 1, level_db=-80), 48_000) == -70.0
    assert loudness_lufs(sine(1000, 0.3), 48_000) == pytest.approx(-3.0, abs=0.1)


def test_loudness_gates_silence_out() -> None:
    tone = sine(1000, 2, 16_000, -20)
    padded = np.concatenate([tone, np.zeros(64_000)])
    assert loudness_lufs(padded, 16_000) == pytest.approx(loudness_lufs(tone, 16_000), abs=0.6)
    assert score("loudness", padded) == pytest.approx(loudness_lufs(padded, 16_000), abs=1e-4)


@pytest.mark.parametrize("rate", [2_000, 4_000, 7_999])
def test_a_sound_of_a_low_rate_has_a_loudness(rate: int) -> None:
    # 0.69 dB is K-weighting's gain at 997 Hz; a rate under 4 kHz goes without the shelf, which has nearly all of it.
    assert score("loudness", sine(500, 2, rate, -20), rate) == pytest.approx(-23.5, abs=0.5)


def test_every_channel_is_weighed_by_one() -> None:
    six = np.tile(sine(1000, 2, 48_000, -20), (6, 1))
    assert loudness_lufs(six, 48_000) == pytest.approx(loudness_lufs(six[0], 48_000) + 10 * math.log10(6))


@pytest.mark.parametrize("shape", [(0,), (0, 100), (2, 0), (1, 1, 100)])
def test_loudness_refuses_what_is_no_sound(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"shape {re.escape(str(shape))}; give \(samples,\) or \(channels, samples\)"):
        loudness_lufs(np.zeros(shape), 48_000)
