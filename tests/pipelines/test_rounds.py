"""Rounds: each begins where the last one ended, on samples of its own, and all are compared with the first base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_road import save_tiny_pipeline
from tiny_timed import TEXTS, save_tiny_tango, save_tiny_wan

from diffalign.data.records import read_candidates
from diffalign.training.alignment import AlignmentTask
from diffalign.training.loop import Visit
from pipelines.config import Config
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.rounds import round_config, run
from pipelines.train_task import build_task

QUIET = Progress(silent=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


def config(folder: Path, model: Path, /, **sections: Any) -> Config:
    train = {"objective": {"name": "diffusion_dpo", "beta": 100}, "steps": 2, "batch_size": 4, "learning_rate": 1e-2, "tracker": None}
    values = {
        "run": folder,
        "seed": 3,
        "model": {"source": str(model), "device": "cpu"},
        "generate": {"prompts": {"texts": ["a red circle", "a blue circle"]}, "samples_per_prompt": 3, "steps": 2},
        "score": {"rewards": {"sharpness": {}}},
        "pair": {"by": "sharpness.score"},
        "encode": {},
        "train": train,
        "evaluate": {"prompts": {"texts": ["a green circle", "a white circle"]}, "steps": 2},
    }
    return Config.model_validate(values | sections)


def rounds(settings: Config, count: int = 2) -> list[str]:
    """Runs them in this process; which stages of which runs were asked for."""
    from importlib import import_module

    asked: list[str] = []

    def run_stage(stage: str, own: Config) -> None:
        asked.append(f"{own.run.name}/{stage}")
        import_module(f"pipelines.{stage}").run(own, progress=QUIET)

    run(settings, count, run_stage, progress=QUIET)
    return asked


@pytest.mark.parametrize(
    ("lora", "dtype", "precision"),
    [(None, "float32", "fp32"), ({"rank": 2}, "float32", "fp32"), ({"rank": 2}, "bfloat16", "bf16")],
    ids=["full", "lora", "lora beside rounded weights"],
)
def test_each_round_begins_where_the_last_one_ended(lora: Any, dtype: str, precision: str, tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model)
    train = settings.train.model_dump() | {"lora": lora, "precision": precision}  # type: ignore[union-attr]
    settings = config(tmp_path, model, model=settings.model.model_dump() | {"dtype": dtype}, train=train)
    asked = rounds(settings)
    stages = ("generate", "score", "pair", "encode", "train")
    assert asked == [f"round-{n}/{stage}" for n in (1, 2) for stage in stages] + [f"{tmp_path.name}/evaluate"]
    samples = [[candidate.media.identity() for candidate in read_candidates(tmp_path / f"round-{n}/candidates")] for n in (1, 2)]
    assert not set(samples[0]) & set(samples[1])  # another model, and other seeds
    first, second = (json.loads((tmp_path / f"round-{n}/train/final/reference.json").read_text()) for n in (1, 2))
    assert "ancestors" not in first and second["ancestors"] == [first["base"]] and second["base"] != first["base"]
    begin = json.loads((tmp_path / "round-2/train/metrics.jsonl").read_text().splitlines()[0])
    assert begin["loss"] == pytest.approx(math.log(2)) and begin["win_adv"] == begin["lose_adv"] == 0  # measured from its own beginning
    report = json.loads((tmp_path / "evaluation/report.json").read_text())
    assert (
        list(report["models"]) == ["round-1", "round-2"] and report["models"]["round-1"]["scores"]["sharpness.score"]["role"] == "trained"
    )
    # The last round's model by hand: the source with both results.
    ends = [tmp_path / f"round-{n}/train/final" for n in (1, 2)]
    last = load_model(settings.model, **({"denoiser": str(ends[1])} if lora is None else {"adapter": tuple(map(str, ends))}))
    [sample, *_] = read_candidates(tmp_path / "evaluation/round-2")
    again = last.sample([sample.prompt], [sample.seed or 0], steps=2, guidance=3.0)[0]
    assert torch.from_numpy(again.pixels().astype(int) - sample.media.pixels()).abs().max() <= 1  # type: ignore[attr-defined]


CLIPS_AND_SOUNDS = {"wan": (save_tiny_wan, TEXTS[:2], "movement"), "tango": (save_tiny_tango, TEXTS[2:], "centroid")}


@pytest.mark.parametrize("backbone", CLIPS_AND_SOUNDS)
def test_a_round_of_crpo_begins_at_ln_2_and_the_error_of_its_own_start_on_its_winners(backbone: str, tmp_path: Path) -> None:
    """By hand from the same draws: e_w of the model that the round before ended with. The first base's is another number."""
    save, texts, reward = CLIPS_AND_SOUNDS[backbone]
    settings = config(
        tmp_path / "run", save(tmp_path), model={"backbone": backbone, "source": str(tmp_path / "pipeline"), "device": "cpu"},
        generate={"prompts": {"texts": list(texts)}, "samples_per_prompt": 3, "steps": 2},
        score={"rewards": {reward: {}}}, pair={"by": f"{reward}.score"}, evaluate=None,
        train={
            "objective": {"name": "rpo", "beta": 500, "sft": 1.0, "relative": False}, "steps": 2, "batch_size": 2, "learning_rate": 1e-2,
            "tracker": None,
        },
    )  # fmt: skip
    rounds(settings)
    ends: list[Path] = []
    for number in (1, 2):
        own = round_config(settings, number, ends)
        first = json.loads((own.run / "train/metrics.jsonl").read_text().splitlines()[0])
        error = winners_error(build_task(own, own.run / "preferences", own.run / "latents"))
        assert first["loss"] == pytest.approx(math.log(2) + error, rel=1e-5)
        ends.append(own.run / "train/final")
    base = winners_error(build_task(settings.model_copy(update={"seed": own.seed}), own.run / "preferences", own.run / "latents"))
    assert abs(base - error) > 1e-3 * base
    samples = [[candidate.media.identity() for candidate in read_candidates(tmp_path / f"run/round-{n}/candidates")] for n in (1, 2)]
    assert not set(samples[0]) & set(samples[1]) and len(samples[0]) == 6


def winners_error(task: AlignmentTask) -> float:
    """The mean squared error on index 0 of every group's first draw."""
    batch, noised, timestep = task.draw([Visit(group, 0) for group in range(task.group_count)])
    with torch.no_grad():
        predicted = task.backbone.predict(task.backbone.denoiser, noised.sample[:, 0], timestep, batch.embeds)
    return float((predicted - noised.target[:, 0]).square().mean())


def written(folder: Path) -> dict[Path, int]:
    """When each file was, but for the lock."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_call_that_was_stopped_goes_on(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model)
    rounds(settings, 1)
    before = written(tmp_path / "round-1")
    rounds(settings, 2)
    assert before == written(tmp_path / "round-1")
    assert list(json.loads((tmp_path / "evaluation/report.json").read_text())["models"]) == ["round-1", "round-2"]


def test_a_road_with_gaps_is_refused(tmp_path: Path, model: Path) -> None:
    settings = config(tmp_path, model, score=None, pair=None)
    with pytest.raises(ValueError, match="no section score, pair; a round needs generate, score, pair, encode, train"):
        rounds(settings)
    with pytest.raises(ValueError, match="0 rounds are none"):
        rounds(config(tmp_path, model), 0)


def test_another_base_s_rounds_are_refused(tmp_path: Path, model: Path) -> None:
    rounds(config(tmp_path / "one", model), 2)
    other = save_tiny_pipeline(tmp_path / "other", seed=1)
    evaluate = {"prompts": {"texts": ["a green circle"]}, "steps": 2, "models": {"last": str(tmp_path / "one/round-2/train/final")}}
    settings = config(tmp_path / "two", other, evaluate=evaluate, train=None, pair=None)
    from pipelines.evaluate import run as evaluate_run

    with pytest.raises(ValueError, match="was trained from"):
        evaluate_run(settings, progress=QUIET)
