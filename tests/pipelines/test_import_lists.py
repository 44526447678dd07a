"""Ranked lists and votes of public sets, from their files to the batches that objectives see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_road import save_tiny_pipeline
from tiny_media import png

from diffalign.data.latents import LatentCache
from diffalign.data.records import read_preferences
from diffalign.training.groups import CachedGroups
from pipelines import encode, pair
from pipelines.config import Config
from pipelines.progress import Progress

QUIET = Progress(silent=True)
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


def until_encode(folder: Path, model: Path, rows: list[dict[str, Any]], importer: str, **section: Any) -> Config:
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number, 16))
    (folder / "set.json").write_text(json.dumps(rows))
    source = {"importer": importer, "path": str(folder / "set.json"), **section.pop("source", {})}
    config = Config.model_validate(
        {"run": folder / "run", "model": {"source": str(model), "device": "cpu"}, "pair": {"source": source, **section}, "encode": {}}
    )
    pair.run(config, progress=QUIET)
    encode.run(config, progress=QUIET)
    return config


def test_lists_of_unequal_length_become_batches_with_their_win_shares(tmp_path: Path, model: Path) -> None:
    rows = [
        {"prompt": "a red circle", "image_path": [f"{n}.png" for n in (0, 1, 2, 3, 4)], "rank": [2, 1, 5, 4, 3]},
        {"prompt": "a blue circle", "image_path": [f"{n}.png" for n in (2, 0, 4)], "rank": [3, 1, 2]},
    ]
    config = until_encode(tmp_path, model, rows, "hpdv2", length=3)
    preferences, cache = read_preferences(config.run / "preferences"), LatentCache(config.run / "latents")
    assert [[sample[-1] for sample in row.samples] for row in preferences] == [["1", "4", "2"], ["1", "2", "0"]]
    batch = CachedGroups(cache, preferences, "lists").fetch([0, 1], dropped=[False] * 2, flipped=[False] * 2)
    assert batch.scores is not None and batch.scores.tolist() == [[[1.0], [0.5], [0.0]]] * 2
    for row, latents in zip(preferences, batch.latents, strict=True):
        torch.testing.assert_close(latents, cache.latents(list(row.samples)))


def test_votes_reach_the_objective_unanimous_ones_too(tmp_path: Path, model: Path) -> None:
    sides = {"path1": "0.png", "path2": "1.png", "model1": "a", "model2": "a", "source": "real"}
    rows = [
        {"prompt": f"a {colour} circle", **sides, "confidence": 1.0, "choice_dist": votes}
        for colour, votes in (("red", [9, 0]), ("green", [3, 1]), ("blue", [1, 4]))
    ]
    config = until_encode(tmp_path, model, rows, "hpdv3", source={"probability": "choice_dist"})
    preferences = read_preferences(config.run / "preferences")
    groups = CachedGroups(LatentCache(config.run / "latents"), preferences, "pairs", reads=["scores or win_probability"])
    batch = groups.fetch([0, 1, 2], dropped=[False] * 3, flipped=[False] * 3)
    assert batch.win_probability is not None and batch.win_probability.tolist() == pytest.approx([1.0, 0.75, 0.8])
    assert [row.samples[0][-1] for row in preferences] == ["1"] * 3, "path1 is preferred, wherever its votes stand"
