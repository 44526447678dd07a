"""Loudness: how loud a sound is to the ear, in LUFS (ITU-R BS.1770-4)."""

from __future__ import annotations

import numpy as np

from diffalign.loudness import ABSOLUTE_GATE_LUFS, integrated_lufs
from reward_models.waveforms import WaveformReward


def loudness_lufs(waveform: np.ndarray, rate: int) -> float:
    """Integrated loudness by ITU-R BS.1770-4: K-weighting, blocks of 400 ms that overlap by 75 %, gates at -70 LUFS and at -10 LU.

    waveform: float (samples,) or (channels, samples) in [-1, 1], each channel weighed by 1; rate in Hz. Sounds shorter than a block, and of
    a rate that has no place for the shelf, are `integrated_lufs`'s affair. Nothing reads less than -70 LUFS, where the standard knows no
    loudness. ValueError for other shapes, or no samples.
    """
    channels = np.atleast_2d(np.asarray(waveform, dtype=np.float64))
    if channels.ndim != 2 or channels.size == 0:
        raise ValueError(f"waveform has shape {np.shape(waveform)}; give (samples,) or (channels, samples) with at least one of each")
    return max(ABSOLUTE_GATE_LUFS, integrated_lufs(channels, rate))


class Loudness(WaveformReward):
    """Integrated loudness in LUFS; no prompt, no weights."""

    name = "loudness"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return loudness_lufs(waveform, sample_rate_hz)
