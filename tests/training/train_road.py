"""Run folders made up to the stage encode out of the tiny road, for tests of the stage train."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import load_config
from pipelines.stage import open_stage


def config_file(run: Path, pipeline: Path, **train: Any) -> Path:
    """A config beside the run folder: the tiny pipeline, 6 steps of 4 pairs."""
    values = {
        "run": str(run), "seed": 3, "model": {"source": str(pipeline), "device": "cpu"}, "pair": {"by": "shapes.overall"}, "encode": {},
        "train": {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "tracker": None,
                  "objective": {"name": "diffusion_dpo", "beta": 100.0}, **train},
    }  # fmt: skip
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def until_encode(run: Path, pipeline: Path, road: Path) -> None:
    """The stages pair and encode, complete, with what the fixture `tiny_road` holds."""
    config = load_config(config_file(run, pipeline))
    for stage, folder in (("pair", "preferences"), ("encode", "latents")):
        with open_stage(config, stage, settings={}) as opened:
            shutil.copytree(road / folder, opened.path, dirs_exist_ok=True)
            opened.finish({})
