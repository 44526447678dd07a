"""Sounds as files and pictures, their loudness by numbers, and gains that never clip."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from diffalign.data.modalities.audio import resample
from diffalign.gallery import Column, Comparison, Row, Sample
from diffalign.gallery.loudness import measure
from diffalign.gallery.sounds import match_loudness
from diffalign.gallery.spectra import BANDS, WAVE_HEIGHT, WIDTH, log_mel, mel_picture, wave_picture
from diffalign.gallery.write import write_gallery
from diffalign.loudness import integrated_lufs as integrated


@dataclass(frozen=True)
class Sound:
    taken: np.ndarray
    sample_rate_hz: int = 16_000

    def waveform(self) -> np.ndarray:
        return self.taken


def sine(level: float, *, rate: int = 48_000, hertz: float = 997.0, seconds: float = 2.0, channels: int = 1) -> np.ndarray:
    return np.tile(level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate), (channels, 1))


def records(tmp_path: Path, *sounds: Any) -> tuple[Path, list[dict[str, Any]]]:
    columns = [Column(f"c{at}") for at in range(len(sounds))]
    row = Row("p", 0, tuple(None if sound is None else Sample(sound, {}, "", "audio") for sound in sounds))
    folder = write_gallery(tmp_path / "gallery", Comparison(columns, [row]), title="t").parent
    text = (folder / "data/compare/0000.js").read_text("ascii")
    return folder, json.loads(text.removeprefix('galleryData("compare/0000",').removesuffix(");\n"))[0]


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize(("channels", "expected"), [(1, -3.01), (2, 0.0)])
def test_a_sine_of_full_scale_is_as_loud_as_the_standard_says(rate: int, channels: int, expected: float) -> None:
    assert integrated(sine(1.0, rate=rate, channels=channels), rate) == pytest.approx(expected, abs=0.1)
    assert integrated(sine(0.1, rate=rate, channels=channels), rate) == pytest.approx(expected - 20, abs=0.1)


def test_levels_by_hand() -> None:
    level = measure(sine(0.5), 48_000)
    assert level.peak == pytest.approx(0.5, abs=1e-4) and level.rms == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=1e-3)
    silent = measure(np.zeros((1, 100)), 48_000)
    assert (silent.lufs, silent.rms, silent.peak) == (-math.inf, -math.inf, 0.0)
    # EBU Tech 3341: a gap of silence is gated away, so it does not make a sound quieter.
    with_gap = np.concatenate([sine(0.1, seconds=8), np.zeros((1, 8 * 48_000))], axis=1)
    assert integrated(with_gap, 48_000) == pytest.approx(integrated(sine(0.1, seconds=8), 48_000), abs=0.2)
    # Low tones count less, high ones more: the weighting's values at 48 kHz.
    assert integrated(sine(0.1, hertz=40), 48_000) < integrated(sine(0.1), 48_000) - 4
    assert integrated(sine(0.1, hertz=6000), 48_000) == pytest.approx(integrated(sine(0.1), 48_000) + 3.3, abs=0.3)
    assert integrated(sine(0.1, seconds=0.05), 48_000) == pytest.approx(-23, abs=1.5)  # shorter than a block


def test_gains_make_a_row_as_loud_as_its_quietest_and_never_clip() -> None:
    row: list[dict[str, Any] | None] = [
        {"kind": "audio", "loudness": -20.0, "gain": 1.0}, {"kind": "audio", "loudness": -26.0, "gain": 1.0}, None,
        {"kind": "audio", "loudness": None, "gain": 1.0}, {"kind": "image"}, {"kind": "audio", "loudness": -14.0, "gain": 1.0},
    ]  # fmt: skip
    match_loudness(row)
    assert [record.get("gain") if record else None for record in row] == [
        pytest.approx(10 ** (-6 / 20), rel=1e-5), 1.0, None, 1.0, None, pytest.approx(10 ** (-12 / 20), rel=1e-5)
    ]  # fmt: skip
    hardly_there: list[dict[str, Any] | None] = [{"loudness": -69.0}, {"loudness": -10.0}]
    match_loudness(hardly_there)
    assert [record["gain"] for record in hardly_there if record] == [1.0, pytest.approx(10 ** (-24 / 20), rel=1e-5)]
    match_loudness([])


def test_a_row_of_sounds_is_stored_without_loss_and_matched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 8000))
    folder, [loud, quiet, none, still] = records(tmp_path, Sound(noise), Sound(noise / 4), None, Sound(np.zeros((1, 8000), np.float32)))
    samples, rate = soundfile.read(folder / loud["src"], dtype="int16")
    assert rate == 16_000 and np.array_equal(samples.T, np.rint(noise * 32768))
    assert (loud["seconds"], loud["rate"], loud["channels"], loud["kind"]) == (0.5, 16_000, 2, "audio")
    assert loud["loudness"] - quiet["loudness"] == pytest.approx(20 * math.log10(4), abs=1e-3)
    assert (loud["gain"], quiet["gain"]) == (pytest.approx(0.25, abs=1e-4), 1.0) and none is None
    assert (still["loudness"], still["rms"], still["peak"], still["gain"]) == (None, None, 0.0, 1.0)
    for record in (loud, still):
        with Image.open(folder / record["wave"]) as wave, Image.open(folder / record["mel"]) as mel:
            assert (wave.size, mel.size) == ((WIDTH, WAVE_HEIGHT), (WIDTH, BANDS))
        assert (record["width"], record["height"]) == (WIDTH, WAVE_HEIGHT + 2 * BANDS)


@pytest.mark.parametrize(
    ("rate", "channels", "file_rate", "samples"), [(1000, 1, 8000, 8000), (192_000, 3, 96_000, 96_000), (8000, 2, 8000, 8000)]
)
def test_what_browsers_do_not_play_is_stored_at_a_rate_they_do(
    tmp_path: Path, rate: int, channels: int, file_rate: int, samples: int
) -> None:
    wave = sine(0.5, rate=rate, hertz=100, seconds=1, channels=channels)
    folder, [record] = records(tmp_path, Sound(wave, rate))
    played, found = soundfile.read(folder / record["src"], always_2d=True)
    assert (found, played.shape) == (file_rate, (samples, min(channels, 2) if channels < 3 else 1))
    assert (record["rate"], record["channels"], record["seconds"]) == (rate, channels, 1.0)
    assert np.abs(played[samples // 4 : samples // 2]).max() == pytest.approx(0.5, abs=0.01)
    expected = wave[:1].astype(np.float32) if rate == file_rate else resample(wave[:1].astype(np.float32), rate, file_rate)
    assert np.abs(played[:, 0] - expected[0]).max() < 1 / 32768


def test_the_spectrum_shows_a_tone_where_and_when_it_is() -> None:
    silence_then_tone = np.concatenate([np.zeros((1, 16_000)), sine(1.0, rate=16_000, hertz=1000, seconds=1)], axis=1)
    level = log_mel(silence_then_tone, 16_000)
    assert level.shape == (BANDS, WIDTH)
    assert level[:, : WIDTH // 2 - 10].max() < -90
    highest = 2595 * math.log10(1 + 8000 / 700)
    band = round(2595 * math.log10(1 + 1000 / 700) / highest * (BANDS + 1)) - 1
    assert abs(int(level[:, -WIDTH // 4].argmax()) - band) <= 1
    assert level[:, WIDTH // 2 + 10 : -10].max(axis=0) == pytest.approx(0, abs=3)  # decibels of full scale
    picture = np.asarray(mel_picture(silence_then_tone, 16_000)).astype(int)
    assert picture[:, :100].max() <= 6  # silence is black
    brightest = picture.sum(axis=2)[:, -WIDTH // 4].argmax()
    assert abs(BANDS - 1 - int(brightest) - band) <= 1  # low below, high above


def test_the_waveform_is_drawn_from_its_samples() -> None:
    step = np.concatenate([np.full(480, 0.25), np.full(480, -0.5)])[None]
    solid = np.asarray(wave_picture(step))[..., 3] > 0
    tops = [int(solid[:, column].argmax()) for column in (10, 400)]
    bottoms = [WAVE_HEIGHT - 1 - int(solid[::-1, column].argmax()) for column in (10, 400)]
    assert tops[0] == pytest.approx(WAVE_HEIGHT / 4, abs=1) and bottoms[1] == pytest.approx(WAVE_HEIGHT - 1, abs=1)
    silent = np.asarray(wave_picture(np.zeros((1, 7))))[..., 3] > 0  # fewer samples than columns
    assert silent.sum(axis=0).tolist() == [2] * WIDTH


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (
            Sound(np.zeros((1, 8), np.int16)),
            "waveform() returned int16 of shape (1, 8); the gallery takes floats of shape (channels, samples)",
        ),
        (Sound(np.zeros(8)), "waveform() returned float64 of shape (8,)"),
        (Sound(np.zeros((1, 0))), "waveform() returned float64 of shape (1, 0)"),
        (Sound(np.array([[0.0, float("nan")]])), "waveform() has 1 samples that are not finite; its model diverged"),
        (Sound(np.zeros((1, 8)), 0), "sample_rate_hz is 0; the gallery takes 1 to 655,350 samples per second"),
    ],
)
def test_what_is_no_sound_is_refused_and_named(tmp_path: Path, sound: Sound, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape("row 0 ('p', seed 0), column 'c0': " + message)):
        records(tmp_path, sound)
    assert list(tmp_path.iterdir()) == []
