"""How loud a sound is: integrated loudness of ITU-R BS.1770-4 (LUFS), root mean square and peak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS, OVERLAP = 0.4, 0.75
OFFSET = -0.691  # LU: makes a 997 Hz sine of full scale in one channel −3.01 LUFS
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS; LU below the mean of what passed the first


@dataclass(frozen=True)
class Loudness:
    """lufs  integrated loudness; rms  decibels of full scale over all channels; peak  largest absolute value, 1 is full scale.

    Both levels are −inf for silence; what lies below −70 LUFS throughout counts as silence.
    """

    lufs: float
    rms: float
    peak: float


def measure(waveform: np.ndarray, rate: int) -> Loudness:
    """Of float (channels, samples) at `rate` samples per second; a sound shorter than a block of 0.4 s is one block."""
    waveform = waveform.astype(np.float64)
    return Loudness(integrated(waveform, rate), _decibels(float(np.mean(waveform**2))), float(np.abs(waveform).max()))


def integrated(waveform: np.ndarray, rate: int) -> float:
    """Integrated loudness in LUFS of float (channels, samples), all channels weighing one; −inf for silence.

    Departs from BS.1770-4 where that says nothing: sounds shorter than one block, and rates under 4 kHz, which have no place for the
    high shelf and go without.
    """
    from scipy.signal import lfilter

    weighted = waveform.astype(np.float64)
    for numerator, denominator in _k_weighting(rate):
        weighted = lfilter(numerator, denominator, weighted, axis=1)
    length = min(weighted.shape[1], round(BLOCK_SECONDS * rate))
    step = max(1, round(length * (1 - OVERLAP)))
    total = np.concatenate([[0.0], np.cumsum((weighted**2).sum(axis=0))])
    starts = np.arange(0, weighted.shape[1] - length + 1, step)
    powers = np.maximum((total[starts + length] - total[starts]) / length, 0.0)
    powers = powers[powers > 10 ** ((ABSOLUTE_GATE - OFFSET) / 10)]
    if not powers.size:
        return -math.inf
    powers = powers[powers > powers.mean() * 10 ** (RELATIVE_GATE / 10)]
    return OFFSET + _decibels(float(powers.mean()))


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


def _k_weighting(rate: int) -> list[tuple[list[float], list[float]]]:
    """(numerator, denominator) of the high shelf and the high pass, from their analogue form, for any rate (libebur128)."""
    filters: list[tuple[list[float], list[float]]] = []
    if rate >= 4000:
        k, q, high = math.tan(math.pi * 1681.974450955533 / rate), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
        band, scale = high**0.4996667741545416, 1 + k / q + k * k
        numerator = [(high + band * k / q + k * k) / scale, 2 * (k * k - high) / scale, (high - band * k / q + k * k) / scale]
        filters.append((numerator, _poles(k, q)))
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    return [*filters, ([1.0, -2.0, 1.0], _poles(k, q))]


def _poles(k: float, q: float) -> list[float]:
    scale = 1 + k / q + k * k
    return [1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale]
