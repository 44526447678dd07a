"""What every family is asked of a run of its config. `FamilyChecks` asks it too; other test files derive a class `Test…` from this one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from no_network import no_network
from tiny_preference_sets import save_two_folders
from training_checks import TrainingChecks, normal
from typer.testing import CliRunner

from diffalign.backbones import load_backbone
from pipelines.cli import app

# In float32, at a rate whose steps are more than what an error rounds to.
PLAIN = ("model.dtype=float32", "train.optimizer=adamw", "train.precision=fp32", "train.learning_rate=1e-3")


class RunChecks(TrainingChecks):
    """The config trains the tiny pipeline, and the tiles of `model.tiled_vae` are the autoencoder's.

    config   its name
    small    what a run of the config changes for the tiny pipeline
    """

    config: ClassVar[str]
    small: ClassVar[tuple[str, ...]] = ()

    def save_pairs(self, folder: Path) -> Path:
        """The pairs that a run of the config trains on, as two folders."""
        return save_two_folders(folder)

    def data(self, folder: Path) -> tuple[str, ...]:
        """What a run of the config trains on and is evaluated with, as overrides; their files lie in `folder`."""
        pairs = self.save_pairs(folder / "pairs")
        return f"pair.source={{importer: two_folders, path: {pairs}}}", "evaluate.prompts.texts=[a red circle]"

    @pytest.mark.integration
    def test_a_config_trains_it(self, folder: Path, tmp_path: Path) -> None:
        self.check_run(folder, tmp_path)

    @pytest.mark.integration
    def test_a_config_trains_it_in_its_own_precision(self, folder: Path, tmp_path: Path) -> None:
        """As it is written, but for size and number: a part of another dtype than its neighbour would show here."""
        first, second = self.trained_by_config(folder, tmp_path, "train.steps=2", "evaluate=null", "gallery=null")
        assert first["loss"] == pytest.approx(math.log(2), abs=0.02)  # the frozen copy may be the rounder one
        assert all(math.isfinite(value) for value in second.values()) and second["grad_norm"] > 0

    @pytest.mark.integration
    def test_fine_tuning_lowers_the_error(self, folder: Path, tmp_path: Path) -> None:
        """On the winners of its pairs, against the base on the same draws, by a config's own kind of training: LoRA or all weights."""
        objective = "train.objective={name: fsft, divergence: identity, beta: 1}"
        made = self.trained_by_config(folder, tmp_path, *PLAIN, objective, "train.steps=6", "evaluate=null", "gallery=null")
        assert made[0]["win_adv"] == 0 and min(step["win_adv"] for step in made[-2:]) > 0

    def check_run(self, folder: Path, tmp_path: Path, *more: str) -> None:
        """Two steps, of which the first starts at the reference; then samples of base and result. A local model needs no network."""
        few = (f"evaluate.size={list(self.size)}", "evaluate.steps=2", "evaluate.samples_per_prompt=1")
        first, second = self.trained_by_config(folder, tmp_path, *PLAIN, "train.steps=2", *few, *more)
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["win_adv"] == first["lose_adv"] == 0
        assert all(math.isfinite(value) for value in second.values()) and second["rewards/margins"] != 0
        report = json.loads((tmp_path / "run/evaluation/report.json").read_text())
        assert report["models"]["aligned"]["scores"] and (tmp_path / "run/gallery/index.html").is_file()

    def trained_by_config(self, folder: Path, tmp_path: Path, *overrides: str) -> list[dict[str, float]]:
        """The metrics of each step of the family's config on the tiny pipeline, a few pairs, small batches and no network."""
        run = tmp_path / "run"
        small = (f"encode.size={list(self.size)}", "train.warmup_steps=1", "train.batch_size=4", "train.micro_batch_size=2")
        words = (f"run={run}", f"model.source={folder}", "model.device=cpu", *small, *self.data(tmp_path), *self.small, *overrides)
        with no_network():
            result = CliRunner().invoke(app, ["run", self.config, *words])
        assert result.exit_code == 0, (result.output, result.exception)
        return [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]

    def shrink_tiles(self, vae: Any) -> None:
        """Where media cannot be larger than the autoencoder's tiles, smaller ones."""

    def test_tiles_are_the_autoencoder_s_own(self, loaded: Any, folder: Path) -> None:
        """Of a medium of several tiles too, where they tell; refused where there are none."""
        by_hand: Any = load_backbone(self.family, str(folder))
        vae = by_hand.pipeline.vae
        try:
            vae.enable_tiling()
        except (AttributeError, NotImplementedError):
            with pytest.raises(ValueError, match=r"that makes no tiles; remove model\.tiled_vae"):
                load_backbone(self.family, str(folder), tiled_vae=True)
            return
        tiled: Any = load_backbone(self.family, str(folder), tiled_vae=True)
        for each in (by_hand, tiled):
            self.shrink_tiles(each.pipeline.vae)
        side = 0 if len(self.size) == 1 else getattr(vae, "tile_sample_min_width", None) or vae.tile_sample_min_size
        wide = loaded.whole((*self.size[:-1], max(2 * self.size[-1], side + self.size[-1])))
        for size in (self.size, wide):
            media = normal(1, 3 if len(size) > 1 else 1, *size).clamp(-1, 1)
            latents = tiled.encode(media, seeds=None)
            assert torch.equal(latents, by_hand.encode(media, seeds=None)) and torch.equal(tiled.decode(latents), by_hand.decode(latents))
            whole = loaded.encode(media, seeds=None)
            assert latents.shape == whole.shape
        assert not torch.equal(latents, whole) and not torch.equal(tiled.decode(latents), loaded.decode(latents))
