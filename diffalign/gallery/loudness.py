"""What the page says of a sound's level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from diffalign.loudness import integrated_lufs


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
    return Loudness(integrated_lufs(waveform, rate), _decibels(float(np.mean(waveform**2))), float(np.abs(waveform).max()))


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf
