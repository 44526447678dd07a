"""Silence: how much of a clip sounds at all."""

from __future__ import annotations

import numpy as np

from reward_models.waveforms import WaveformReward, mono

FRAME_SECONDS = 0.020
THRESHOLD_DB = -60.0  # dBFS RMS


def silence(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """The share of 20 ms frames of the channels' mean whose RMS is over -60 dBFS: higher is less silence; a silent clip has 0.

    waveform: float (channels, samples). What is left over at the end, shorter than a frame, is not counted unless it is all there is.
    """
    signal = mono(waveform)
    width = min(len(signal), max(1, round(FRAME_SECONDS * sample_rate_hz)))
    frames = signal[: len(signal) // width * width].reshape(-1, width)
    return float(((frames**2).mean(axis=1) > 10 ** (THRESHOLD_DB / 10)).mean())


class Silence(WaveformReward):
    """Share of 20 ms frames over -60 dBFS, so that higher is less silence; no prompt, no weights."""

    name = "silence"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return silence(waveform, sample_rate_hz)
