"""Scores that are one number per sound: the mix to one channel, and how the rewards that need no weights read a sound."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.statistic import Statistic


class Waveform(Protocol):
    """A sound that a reward can measure: samples float32 (channels, samples) in [-1, 1], and how many there are in a second."""

    @property
    def sample_rate_hz(self) -> int: ...

    def waveform(self) -> np.ndarray: ...


def mono(waveform: np.ndarray) -> np.ndarray:
    """The mean of the channels of a waveform (channels, samples), float64 (samples,); ValueError for another shape or no samples."""
    if waveform.ndim != 2 or waveform.size == 0:
        raise ValueError(f"waveform has shape {waveform.shape}; give (channels, samples) with at least one of each")
    return waveform.mean(axis=0, dtype=np.float64)


class WaveformReward(Statistic):
    """A statistic of one sound's samples. A subclass gives `name` and `measure`."""

    modalities = frozenset({"audio"})

    @abstractmethod
    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        """The score of a waveform, float (channels, samples) in [-1, 1]."""

    def score(self, medium: Media) -> float:
        sound = cast("Waveform", medium)
        return self.measure(sound.waveform(), sound.sample_rate_hz)
