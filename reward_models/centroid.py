"""Spectral centroid: how bright a sound is."""

from __future__ import annotations

import numpy as np

from reward_models.waveforms import WaveformReward, mono


def centroid(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """The mean frequency in Hz of the magnitude spectrum of the channels' mean, sum(f |X(f)|) / sum(|X(f)|); 0 for silence.

    The magnitude spectrum is the mean over Hann windows of 2048 samples, a quarter apart (one shorter window where there are fewer), so
    that a loud moment counts for more than a quiet one. waveform: float (channels, samples).
    """
    signal = mono(waveform)
    width = min(2048, len(signal))
    frames = np.lib.stride_tricks.sliding_window_view(signal, width)[:: max(1, width // 4)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(width) + 0.5) / width)
    magnitude = np.mean([np.abs(np.fft.rfft(frame * window)) for frame in frames], axis=0)
    total = magnitude.sum()
    return float(np.fft.rfftfreq(width, 1 / sample_rate_hz) @ magnitude / total) if total > 0 else 0.0


class Centroid(WaveformReward):
    """Spectral centroid in Hz; no prompt, no weights. Noise raises it: a guard, hardly a goal."""

    name = "centroid"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return centroid(waveform, sample_rate_hz)
