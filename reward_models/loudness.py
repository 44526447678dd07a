"""Loudness: how loud a sound is to the ear, in LUFS (ITU-R BS.1770-4)."""

from __future__ import annotations

import numpy as np

from diffalign.loudness import ABSOLUTE_GATE_LUFS, integrated_lufs
from reward_models.waveforms import WaveformReward


def loudness_lufs(waveform: np.ndarray, rate: int) -> float:
    """Integrated loudness by ITU-R BS.1770-4: K-weighting, blocks of 400 ms that overlap by 75 %, gates at -70 LUFS and at -10 LU.

    waveform: float (samples,) or (channels, samples), one or two channels in [-1, 1], each weighed by 1; rate in Hz. What is shorter than a
    block is one block. Nothing reads less than -70 LUFS, where the standard knows no loudness. ValueError for other shapes, or a rate under
    8 kHz, where the shelf has no room.
    """
    channels = np.atleast_2d(np.asarray(waveform, dtype=np.float64))
    if channels.ndim != 2 or channels.shape[0] not in (1, 2) or channels.shape[1] == 0:
        raise ValueError(f"waveform has shape {np.shape(waveform)}; give (samples,) or (channels, samples) with one or two channels")
    if rate < 8000:
        raise ValueError(f"rate {rate!r} Hz is too low for K-weighting; resample to 8000 Hz or more")
    return max(ABSOLUTE_GATE_LUFS, integrated_lufs(channels, rate))


class Loudness(WaveformReward):
    """Integrated loudness in LUFS; no prompt, no weights."""

    name = "loudness"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return loudness_lufs(waveform, sample_rate_hz)
