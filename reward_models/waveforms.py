"""Scores that are one number per sound: the mix to one channel, and what the rewards of sound that need no weights share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from diffalign.data.modalities import Media
from reward_models.contract import check_call


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


class WaveformReward(ABC):
    """A statistic of one sound's samples as a reward: no prompt, no weights. A subclass gives `name` and `measure`."""

    name: str
    modalities = frozenset({"audio"})
    dimensions = ("score",)
    groupwise = False

    @property
    def revision(self) -> str:
        return "1"

    @abstractmethod
    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        """The score of a waveform, float (channels, samples) in [-1, 1]."""

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per sound}. Prompts are ignored."""
        check_call(self, prompts, media)
        sounds = cast("Sequence[Waveform]", media)
        return {"score": [float(self.measure(sound.waveform(), sound.sample_rate_hz)) for sound in sounds]}
