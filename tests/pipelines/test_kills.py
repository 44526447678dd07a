"""A stage that was killed and run again holds what an uninterrupted one holds, and made nothing twice. generate and score: in their own
tests; train: tests/training/test_resume.py."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from fake_backbone import Loader, fake_config
from kills import kill_after

import pipelines.pair
from pipelines import STAGES
from pipelines.config import Config
from pipelines.progress import Progress

QUIET = Progress(silent=True)

SLOWLY = """
import sys, time
from importlib import import_module
from pipelines.config import load_config
from pipelines.progress import Progress
import pipelines.pair

stage, config, seconds, *names = sys.argv[1:]
pipelines.pair.PREFERENCES_PER_SHARD = 4
for name in names:
    module, _, function = name.rpartition(".")
    def slow(*arguments, quick=getattr(import_module(module), function), **settings):
        time.sleep(float(seconds))
        return quick(*arguments, **settings)
    setattr(import_module(module), function, slow)
import_module(f"pipelines.{stage}").run(load_config(config), progress=Progress(silent=True))
"""


@dataclass(frozen=True)
class Case:
    """A stage before its run, what to slow down in it, and the file after which it is in the middle of its work."""

    stage: str
    prepare: Callable[[Path, pytest.MonkeyPatch], Config]
    slow: tuple[str, ...]
    begun: str


def scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    import pipelines.generate
    import pipelines.score

    monkeypatch.setattr(pipelines.generate, "load_model", Loader())
    config = fake_config(folder / "prepared", score={"rewards": ["sharpness"]}, pair={"by": "sharpness.score", "rule": "all_pairs"})
    pipelines.generate.run(config, progress=QUIET)
    pipelines.score.run(config, progress=QUIET)
    return config


def set_to_import(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    from test_pair import imported, write_pickapic

    write_pickapic(folder / "set.parquet", 16)
    config = imported(folder)
    config.run.mkdir()
    return config


def paired(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    from small_road import save_tiny_pipeline
    from test_encode import make_run

    return make_run(folder, save_tiny_pipeline(folder / "model"), candidates_per_shard=2)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    from small_road import save_tiny_pipeline
    from test_evaluate import finish_training, with_evaluate

    config = with_evaluate(folder, save_tiny_pipeline(folder / "model"))
    finish_training(config)
    return config


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    from test_gallery import whole_run

    return whole_run(folder)


CASES = {
    "pair": Case("pair", scored, ("diffalign.data.records.write_preferences",), "preferences/shard-*"),
    "import": Case("pair", set_to_import, tuple(f"diffalign.data.records.write_{kind}" for kind in ("candidates", "preferences")),
                   "candidates/shard-*"),
    "encode": Case("encode", paired, tuple(f"diffalign.data.latents.write_{kind}_shard" for kind in ("latents", "embeds")),
                   "latents/shard-*"),
    "evaluate": Case("evaluate", trained, ("pipelines.evaluate.sample_requests", "pipelines.score.score_media"),
                     "evaluation/base/shard-*"),
    "gallery": Case("gallery", evaluated, ("pipelines.gallery.gap_of",), ".gallery.partial/media"),
}  # fmt: skip


class Kills:
    """A prepared run, its uninterrupted copy, and copies of it to kill."""

    def __init__(self, case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipelines.pair, "PREFERENCES_PER_SHARD", 4)
        self.case, self.folder = case, folder
        self.prepared = case.prepare(folder, monkeypatch)
        self.whole = self.copy("whole")
        self.run(self.whole)

    def copy(self, name: str) -> Config:
        config = self.prepared.model_copy(update={"run": self.folder / name})
        shutil.copytree(self.prepared.run, config.run)
        return config

    def run(self, config: Config) -> None:
        import_module(f"pipelines.{self.case.stage}").run(config, progress=QUIET)

    def kill(self, config: Config, seconds: float, begun: str, delay: float) -> bool:
        file = config.run.with_suffix(".yaml")
        file.write_text(config.to_yaml(), encoding="utf-8")
        return kill_after(SLOWLY, self.case.stage, file, seconds, *self.case.slow, folder=config.run, wait_for=begun, delay=delay)

    def resume_and_compare(self, config: Config) -> None:
        done = {path: path.stat().st_mtime_ns for path in config.run.rglob("[!.]*.parquet")}
        self.run(config)
        assert all(path.stat().st_mtime_ns == written for path, written in done.items())
        files = [contents(each.run) for each in (config, self.whole)]
        assert files[0] == files[1]
        assert not [path for path in config.run.rglob(".*") if path.name != ".lock"]  # nothing half written is left


def contents(run: Path) -> dict[str, bytes]:
    paths = (path for path in run.rglob("*") if path.is_file() and path.name not in ("stage.json", ".lock"))
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", ["pair", "import", "gallery"])  # the others need torch in the process that is killed, and seconds for it
def test_a_killed_stage_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = Kills(CASES[name], tmp_path, monkeypatch)
    config = kills.copy("killed")
    assert kills.kill(config, 0.2, CASES[name].begun, 0.1)
    assert contents(config.run) != contents(kills.whole.run)
    kills.resume_and_compare(config)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_stage_killed_at_random_moments_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills, draw, alive = Kills(CASES[name], tmp_path, monkeypatch), random.Random(name), 0
    folder = STAGES["generate" if name == "import" else CASES[name].stage].folder
    for number in range(10):
        config = kills.copy(str(number))
        alive += kills.kill(config, 0.05, f"{folder}/stage.json", draw.uniform(0, 1.0))
        kills.resume_and_compare(config)
        shutil.rmtree(config.run)
    assert alive >= 5
