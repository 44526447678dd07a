"""How loud a sound is to the ear: integrated loudness of ITU-R BS.1770-4."""

from __future__ import annotations

import math

import numpy as np

ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
BLOCK_SECONDS, HOP_SECONDS = 0.4, 0.1
_OFFSET = -0.691  # the standard's: K-weighting has a gain of 0.691 dB at 997 Hz

# The two filters of K-weighting as analogue prototypes, from which the standard's coefficients for 48 kHz come: a shelf and a high-pass.
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
_SHELF_MIDDLE = 0.4996667741545416  # exponent of the shelf's gain at its middle
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773


def integrated_lufs(waveform: np.ndarray, rate: int) -> float:
    """LUFS: K-weighting, blocks of 400 ms that overlap by 75 %, gates at −70 LUFS and at −10 LU; −inf where nothing passes the first.

    waveform: float (channels, samples) in [−1, 1], each channel weighed by 1; rate in Hz. What is shorter than a block is one block, and
    a rate under 4 kHz, which has no place for the shelf, goes without: the standard says nothing of either.
    """
    energy = _block_energy(_k_weighted(np.asarray(waveform, dtype=np.float64), rate), rate)
    energy = energy[_lufs(energy) > ABSOLUTE_GATE_LUFS]
    if energy.size:
        energy = energy[_lufs(energy) > _lufs(energy.mean()) + RELATIVE_GATE_LU]
    return float(_lufs(energy.mean())) if energy.size else -math.inf


def _lufs(energy: np.ndarray | float) -> np.ndarray:
    return _OFFSET + 10 * np.log10(np.maximum(energy, 1e-12))


def _k_weighted(channels: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import lfilter

    filters = (_shelf(rate), _high_pass(rate)) if rate >= 4000 else (_high_pass(rate),)
    for numerator, denominator in filters:
        channels = np.asarray(lfilter(numerator, denominator, channels, axis=-1))
    return channels


def _shelf(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The high shelf that stands for the head, +4 dB: numerator and denominator at a rate in Hz, by the bilinear transform."""
    warped = math.tan(math.pi * _SHELF_HZ / rate)
    high = 10 ** (_SHELF_DB / 20)
    middle = high**_SHELF_MIDDLE
    numerator = [high + middle * warped / _SHELF_Q + warped**2, 2 * (warped**2 - high), high - middle * warped / _SHELF_Q + warped**2]
    return _normalised(numerator, warped, _SHELF_Q)


def _high_pass(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The high-pass of the standard (its RLB curve), with the gain that its numerator, 1, -2, 1, has at 48 kHz."""
    numerator, denominator = _normalised([1.0, -2.0, 1.0], math.tan(math.pi * _HIGH_PASS_HZ / rate), _HIGH_PASS_Q)
    at_48_khz, _ = _normalised([1.0, -2.0, 1.0], math.tan(math.pi * _HIGH_PASS_HZ / 48_000), _HIGH_PASS_Q)
    return numerator / at_48_khz[0], denominator


def _normalised(numerator: list[float], warped: float, quality: float) -> tuple[np.ndarray, np.ndarray]:
    first = 1 + warped / quality + warped**2
    denominator = np.array([first, 2 * (warped**2 - 1), 1 - warped / quality + warped**2])
    return np.array(numerator) / first, denominator / first


def _block_energy(channels: np.ndarray, rate: int) -> np.ndarray:
    """The mean squares of every block (blocks,), summed over channels."""
    width = min(channels.shape[1], round(BLOCK_SECONDS * rate))
    starts = np.arange(0, channels.shape[1] - width + 1, max(1, round(HOP_SECONDS * rate)))
    sums = np.concatenate([[0.0], np.cumsum((channels**2).sum(axis=0))])
    return np.maximum(sums[starts + width] - sums[starts], 0.0) / width
