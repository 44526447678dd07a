"""RMS level: how strong a sound is, without regard to how the ear weighs it."""

from __future__ import annotations

import math

import numpy as np

from reward_models.waveforms import WaveformReward, mono

FLOOR_DB = -120.0


def rms(waveform: np.ndarray) -> float:
    """10 log10 of the mean square of the channels' mean, in dB of full scale: a square wave of ±1 reads 0, a full-scale sine -3.01.

    waveform: float (channels, samples). Digital silence reads `FLOOR_DB`, and nothing reads less.
    """
    mean_square = float((mono(waveform) ** 2).mean())
    return max(FLOOR_DB, 10 * math.log10(mean_square)) if mean_square > 0 else FLOOR_DB


class Rms(WaveformReward):
    """RMS level in dBFS; no prompt, no weights."""

    name = "rms"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return rms(waveform)
