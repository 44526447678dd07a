"""What a tracker is told of a run: project, name and settings, again when the run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from train_road import config_file, until_encode
from training_runs import FAST, make_task, metrics

from diffalign.training.loop import train
from diffalign.training.settings import Settings
from diffalign.training.tracker import hyperparameters
from pipelines import train as stage
from pipelines.config import load_config
from pipelines.progress import Progress


class FakeWandb:
    """wandb's module, as accelerate calls it."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.logged: list[int] = []
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.told.append(values))

    def init(self, **options: Any) -> FakeWandb:
        self.begun.append(options)
        return self

    def log(self, values: dict[str, float], step: int, **options: Any) -> None:
        self.logged.append(step)

    def finish(self) -> None: ...


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    from accelerate import tracking
    from accelerate.utils import LoggerType

    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.WANDB])
    return fake


def test_a_run_has_its_folder_s_name_and_its_whole_config(wandb: FakeWandb, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    until_encode(tmp_path / "mine", tiny_pipeline, tiny_road)
    config = load_config(config_file(tmp_path / "mine", tiny_pipeline, tracker="wandb"))
    stage.run(config, progress=Progress(silent=True))
    assert wandb.begun == [{"project": "diffalign", "name": "mine"}] and wandb.logged == [1, 2, 3, 4, 5, 6]
    [told] = wandb.told
    assert all(isinstance(value, bool | int | float | str) for value in told.values())
    assert told["model.source"] == str(tiny_pipeline) and told["train.learning_rate"] == 1e-3 and told["train.steps"] == 6
    assert told["train.objective.name"] == "diffusion_dpo" and told["train.adam_betas"] == "[0.9, 0.999]"


def test_a_run_that_goes_on_tells_again_and_may_have_another_name(
    wandb: FakeWandb, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path
) -> None:
    named = {"tracker": "wandb", "tracker_project": "sd15"}
    for stop, name in ((2, "first"), (None, "second")):
        train(make_task(tiny_pipeline, tiny_road), Settings.model_validate(FAST | named | {"tracker_run": name}), tmp_path, stop_after=stop)
    assert wandb.begun == [{"project": "sd15", "name": "first"}, {"project": "sd15", "name": "second"}]
    assert wandb.logged == [1, 2, 3, 4, 5, 6] == [line["step"] for line in metrics(tmp_path)]
    assert [told["tracker_run"] for told in wandb.told] == ["first", "second"]


def test_tensorboard_has_hyperparameters_and_goes_on(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = Settings.model_validate(FAST | {"tracker": "tensorboard"})
    for stop in (2, None):
        train(make_task(tiny_pipeline, tiny_road), settings, tmp_path, stop_after=stop)
    events = EventAccumulator(str(tmp_path / "tracker")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    kept = [EventAccumulator(str(file.parent)).Reload() for file in (tmp_path / "tracker").glob("*/events*")]
    assert any("_hparams_/session_start_info" in each.summary_metadata for each in kept)
    assert len(list(tmp_path.rglob("hparams.yml"))) == 2


def test_settings_are_flat_and_scalars() -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard.summary import hparams

    values = {"run": "a", "train": {"lora": {"rank": 4, "targets": ["to_q"]}, "clip_norm": None, "stabilisers": {}}, "on": True}
    found = hyperparameters(values)
    assert found == {
        "run": "a", "train.lora.rank": 4, "train.lora.targets": '["to_q"]', "train.clip_norm": "null", "train.stabilisers": "{}", "on": True
    }  # fmt: skip
    hparams(found, {})  # takes no other types
