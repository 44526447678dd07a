"""The tracker of a run: TensorBoard, Weights & Biases or another of accelerate's, with the run's name and its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from diffalign.training.settings import Settings

# By which argument each tracker is told a run's name, where its runs have one. TensorBoard's are named by their folder.
RUN_NAME = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name", "clearml": "task_name"}
FOLDER = "tracker"  # in the training's own, of what writes into a folder: a run that goes on writes beside what it wrote


def start_tracker(accelerator: Accelerator, settings: Settings, folder: Path, config: Mapping[str, Any]) -> None:
    """Opens `settings.tracker`, if any, and gives it the run's configuration as hyperparameters.

    folder   of the training; its name is the run's, unless `settings.tracker_run` says another
    config   JSON values, nested as they are; see `hyperparameters`
    """
    if settings.tracker is None:
        return
    name = settings.tracker_run or folder.resolve().name
    options = {settings.tracker: {RUN_NAME[settings.tracker]: name}} if settings.tracker in RUN_NAME else {}
    project = FOLDER if settings.tracker == "tensorboard" else settings.tracker_project
    accelerator.init_trackers(project, config=hyperparameters(config), init_kwargs=options)


def hyperparameters(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested JSON values as "outer.inner" → a scalar, which all trackers take; lists, what is empty and null are JSON text."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= hyperparameters(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
    return found
