"""Sounds as files the page can play, with pictures of them and gains that make the sounds of a row equally loud.

The files are FLAC: no loss, so nothing is heard that the model did not make; exact seeking, so a playhead and a switch between two
sounds stay in place (MP3 and AAC begin with silence of their coder's, which browsers cut differently); any number of channels and any
rate; and Chrome, Chromium without licensed codecs, Edge, Firefox and Safari 11 play it. It takes about half of the WAV.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from diffalign.data.modalities.audio import resample
from diffalign.data.modalities.stored import library
from diffalign.gallery import Sample
from diffalign.gallery.loudness import measure
from diffalign.gallery.scripts import finite
from diffalign.gallery.spectra import BANDS, WAVE_HEIGHT, WIDTH, mel_picture, wave_picture

if TYPE_CHECKING:
    from diffalign.gallery.stores import MediaFolder

RATES = (8_000, 96_000)  # samples per second that every browser plays
MEL_HEIGHT = 2 * BANDS  # pixels on the page
MOST_CUT = 24.0  # decibels: beside a sound that is hardly there the others stay audible


def store_audio(folder: MediaFolder, sample: Sample, where: str) -> dict[str, Any]:
    """The sound as FLAC of 16 bits, its waveform and its log-mel spectrum.

    The record: src, wave, mel, width and height (of both pictures together), seconds, rate and channels (of the source), loudness
    (LUFS) and rms (dB), null for silence, and peak, 1 being full scale. `gain` is one until `match_loudness` has seen the row.
    """
    waveform, rate = np.asarray(sample.media.waveform()), int(sample.media.sample_rate_hz)
    _check(waveform, rate, where)
    path, address = folder.new_file(".flac")
    played, played_rate = _playable(waveform, rate)
    whole = np.rint(np.clip(played.T * 32768, -32768, 32767)).astype(np.int16)
    library("soundfile", "audio").write(str(path), whole, played_rate, format="FLAC", subtype="PCM_16")
    wave, wave_address = folder.new_file(".webp")
    wave_picture(waveform).save(wave, lossless=True, method=2)
    mel, mel_address = folder.new_file(".webp")
    mel_picture(waveform, rate).save(mel, quality=85)
    level = measure(waveform, rate)
    return {
        "src": address, "wave": wave_address, "mel": mel_address, "width": WIDTH, "height": WAVE_HEIGHT + MEL_HEIGHT,
        "seconds": waveform.shape[1] / rate, "rate": rate, "channels": len(waveform),
        "loudness": finite(level.lufs), "rms": finite(level.rms), "peak": finite(level.peak), "gain": 1.0,
    }  # fmt: skip


def match_loudness(records: Iterable[dict[str, Any] | None]) -> None:
    """Set the gain of the sounds of one row so that all are as loud as the quietest: a gain up to 1, so nothing clips.

    Silence stays as it is and counts for nothing; a sound is made quieter by MOST_CUT at most. Other records are left alone.
    """
    sounds = [record for record in records if record is not None and record.get("loudness") is not None]
    quietest = min((record["loudness"] for record in sounds), default=0.0)
    for record in sounds:
        record["gain"] = finite(10 ** (-min(MOST_CUT, record["loudness"] - quietest) / 20))


def _check(waveform: np.ndarray, rate: int, where: str) -> None:
    if not np.issubdtype(waveform.dtype, np.floating) or waveform.ndim != 2 or waveform.size == 0:
        raise ValueError(
            f"{where}: waveform() returned {waveform.dtype} of shape {waveform.shape}; the gallery takes floats of shape "
            "(channels, samples), at least one sample; mono is (1, samples)"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"{where}: waveform() has {int((~np.isfinite(waveform)).sum())} samples that are not finite; its model diverged")
    if not 1 <= rate <= 655_350:
        raise ValueError(f"{where}: sample_rate_hz is {rate}; the gallery takes 1 to 655,350 samples per second")


def _playable(waveform: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """As it is, but the mean of more than two channels, and at a whole multiple or part of a rate that is out of RATES."""
    if len(waveform) > 2:
        waveform = waveform.mean(axis=0, keepdims=True)
    up, down = max(1, math.ceil(RATES[0] / rate)), max(1, math.ceil(rate / RATES[1]))
    if up == down == 1:
        return waveform, rate
    return resample(waveform.astype(np.float32), down, up), max(1, round(rate * up / down))
