"""The invented drawings of demo.py as what takes time: a video in which they drift, and a tune with a note for each shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

FRAMES, FPS = 16, 8.0
RATE_HZ, NOTE_SECONDS = 16_000, 0.5
NOTES_HZ = {"red": 261.6, "blue": 293.7, "green": 329.6, "yellow": 392.0, "purple": 440.0, "orange": 523.3}


class Drawn(Protocol):
    """A demo.Drawing."""

    @property
    def shapes(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def mistakes(self) -> int: ...
    @property
    def seed(self) -> int: ...
    def pixels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Drifting:
    """A drawing that goes round to the right; with mistakes it also shakes."""

    drawing: Drawn
    fps: float = FPS

    def frames(self) -> np.ndarray:
        pixels = self.drawing.pixels()
        shakes = np.random.default_rng(self.drawing.seed).integers(-3, 4, FRAMES) * min(1, self.drawing.mistakes)
        across = pixels.shape[1] / FRAMES
        return np.stack([np.roll(pixels, (int(shakes[at]), round(at * across)), (0, 1)) for at in range(FRAMES)])


@dataclass(frozen=True)
class Tune:
    """A note for each shape, its pitch from the colour; of a mistake it is a tritone off. Louder with every mistake."""

    drawing: Drawn
    sample_rate_hz: int = RATE_HZ

    def waveform(self) -> np.ndarray:
        time = np.arange(round(NOTE_SECONDS * RATE_HZ)) / RATE_HZ
        fade = np.minimum(1, time / 0.01) * np.exp(-4 * time)
        notes = []
        for place, (colour, _) in enumerate(self.drawing.shapes):
            pitch = NOTES_HZ[colour] * (2**0.5 if place < self.drawing.mistakes else 1)
            notes.append(fade * sum(np.sin(2 * np.pi * pitch * part * time) / part**2 for part in (1, 2, 3)))
        loud = 0.12 * (1 + 0.8 * self.drawing.mistakes) * np.random.default_rng(self.drawing.seed).uniform(0.8, 1.2)
        return np.clip(np.concatenate(notes) * loud, -1, 1)[None].astype(np.float32)


MEDIA: dict[str, Callable[[Any], Any]] = {"image": lambda drawing: drawing, "video": Drifting, "audio": Tune}
