"""A backbone without weights for the tests of generate and score: every picture is coloured noise of its seed, steps and guidance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from pipelines.config import Config, Model

SIDE = 16


class FakeBackbone:
    """Counts its calls; `seconds` slows each of them down."""

    modality = "image"
    token_limit = 8
    size = (SIDE, SIDE)

    def __init__(self, source: str = "fake", seconds: float = 0.0) -> None:
        self.source = source
        self.seconds = seconds
        self.calls: list[tuple[int, int, float]] = []  # batch, steps, guidance
        self.itself: FakeBackbone | None = None

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return size

    def token_count(self, prompt: str) -> int:
        return len(prompt.split()) + 2

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, int] | None = None, scheduler: str | None = None) -> list[Image]:  # fmt: skip
        time.sleep(self.seconds)
        self.calls.append((len(prompts), steps, guidance))
        height, width = size or self.size
        pictures = []
        for seed in seeds:
            draw = np.random.default_rng([seed, steps, round(100 * guidance), len(self.source)])
            colour = draw.integers(0, 200, 3)
            pictures.append((colour + draw.integers(0, 56, (height, width, 3))).astype(np.uint8))
        return [Image.from_pixels(pixels) for pixels in pictures]


class Loader:
    """Stands in for load_model, and remembers what it loaded."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.loaded: list[FakeBackbone] = []
        self.models: list[Model] = []

    def __call__(self, model: Model, **changes: Any) -> FakeBackbone:
        self.models.append(model)
        self.loaded.append(FakeBackbone(model.source, self.seconds))
        return self.loaded[-1]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    import pipelines.generate

    found = Loader()
    monkeypatch.setattr(pipelines.generate, "load_model", found)
    return found


def fake_config(run: Path, **sections: Any) -> Config:
    """A run of 6 prompts × 4 samples in three shards; the model is a hub id that nobody fetches."""
    generate = {"prompts": {"texts": [f"prompt {index}" for index in range(6)]}, "prompts_per_shard": 2, "batch_size": 4}
    generate |= sections.pop("generate", {})
    return Config.model_validate({"run": run, "seed": 5, "model": {"source": "fake/model"}, "generate": generate} | sections)


SLOW_RUN = """
import sys
sys.path[:0] = [{tests!r}]
import pipelines.generate, pipelines.score
from pathlib import Path
from fake_backbone import Loader, fake_config
from pipelines.progress import Progress

pipelines.generate.load_model = Loader(seconds={seconds})
quick = pipelines.score.score_media
def slow(*arguments, **settings):
    import time
    time.sleep({seconds})
    return quick(*arguments, **settings)
pipelines.score.score_media = slow
config = fake_config(Path({run!r}), score={{"rewards": {{"sharpness": {{}}, "contrast": {{}}}}}})
for stage in {stages!r}:
    getattr(pipelines, stage).run(config, progress=Progress(silent=True))
"""
