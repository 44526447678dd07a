"""The verifier of the tones world as a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from diffalign.data.modalities import Media
from diffalign.data.modalities.audio import Audio, resample
from reward_models.contract import check_call

from .captions import parse
from .read import MIN_SAMPLES
from .render import MIN_SAMPLES as SHORTEST
from .render import SAMPLE_RATE_HZ, SAMPLES, render
from .verify import DIMENSIONS, verify

if TYPE_CHECKING:
    from reward_models.waveforms import Waveform


@dataclass(frozen=True)
class Tones:
    """Scores sounds against captions of the tones world, without weights. The dimensions: see `verify`."""

    name = "tones"
    revision = "4"
    modalities = frozenset({"audio"})
    dimensions = DIMENSIONS
    groupwise = False

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per item, in order.

        prompts: captions. media: sounds; channels are mixed by their mean, another rate than 16 kHz is resampled. ValueError for a caption
        that does not parse, an item that is no sound or shorter than half a second, or lists of different lengths.
        """
        check_call(self, prompts, media)
        scenes = [parse(prompt) for prompt in prompts]
        sounds = cast("Sequence[Waveform]", media)
        results = [verify(scene, _at_16_khz(sound, index)) for index, (scene, sound) in enumerate(zip(scenes, sounds, strict=True))]
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}


def medium(caption: str, seed: int, size: tuple[int, ...] | None = None, rate: float | None = None) -> Audio:
    """The sound of a caption; deterministic in its arguments. ValueError for a caption that does not parse.

    size, rate  as long as (samples,) at `rate` a second (None: 16 kHz), and a second at least; without a size, three seconds
    """
    samples = SAMPLES if size is None else max(SHORTEST, -(-size[0] * SAMPLE_RATE_HZ // round(rate or SAMPLE_RATE_HZ)))
    return Audio.from_waveform(render(caption, seed, samples)[None], SAMPLE_RATE_HZ)


def _at_16_khz(sound: Waveform, index: int) -> np.ndarray:
    """The mean of the channels of a sound at 16 kHz, float32 (samples,)."""
    mono = sound.waveform().mean(axis=0, dtype=np.float64).astype(np.float32)
    seconds = len(mono) / sound.sample_rate_hz
    if seconds < MIN_SAMPLES / SAMPLE_RATE_HZ:
        raise ValueError(f"item {index} lasts {seconds:.3f} s, too short for an event; give {MIN_SAMPLES / SAMPLE_RATE_HZ} s or more")
    return mono if sound.sample_rate_hz == SAMPLE_RATE_HZ else resample(mono[None], sound.sample_rate_hz, SAMPLE_RATE_HZ)[0]
