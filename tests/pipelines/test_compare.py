"""The comparison on a tiny pipeline: what is shared, what is chosen, what is made again, and the numbers by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from kills import kill_after
from small_road import save_tiny_pipeline
from typer.testing import CliRunner

from diffalign.data.candidate_files import CandidateFiles
from diffalign.data.records import read_preferences
from diffalign.data.shards import read_rows
from pipelines import compare_jobs
from pipelines.bootstrap import bootstrap_intervals, standard_error
from pipelines.cli import app
from pipelines.compare import (
    choose,
    headline_of,
    read_words,
    rounds,
    taught,
    teacher_of,
    validation_prompts,
)
from pipelines.compare_agreement import check_agreement, check_disjoint
from pipelines.compare_ground import shared_ground
from pipelines.compare_jobs import Job, Point, make_job, points_for, train_jobs
from pipelines.compare_page import command_of, rows
from pipelines.compare_result import Contest, rivals_of
from pipelines.evaluate import load_aligned
from pipelines.evaluate_scores import read_scored
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.prompts import load_prompts
from pipelines.run_folder import lock_run

QUIET = Progress(silent=True)
HELDOUT = ["a red circle", "a green circle", "a red circle", "a white circle"]
METHODS = {
    "diffusion_dpo": {"objective": {"name": "diffusion_dpo", "beta": 100.0}, "learning_rate": 1e-3},
    "mapo": {"objective": {"name": "mapo"}, "learning_rate": 1e-3},
    "broken": {"objective": {"name": "diffusion_dpo", "beta": 100.0}, "learning_rate": 1e30},
    "pairless": {"objective": {"name": "mapo"}, "learning_rate": 1e-3},
}
FEW = ("diffusion_dpo", "mapo")
NO_PAIRS = {"rule": "all_pairs", "by": "contrast.score", "minimum_gap": 1e6}


@dataclass(frozen=True)
class Made:
    """A comparison that was made: its words, its folder, its result."""

    words: list[str]
    run: Path
    result: dict[str, Any]


def write_configs(folder: Path, model: Path, names: Sequence[str], **sections: Any) -> list[str]:
    """One config a method; `sections` replace whole ones of all."""
    folder.mkdir(exist_ok=True)
    for name in names:
        values = {
            "run": str(folder / "alone"), "seed": 3, "model": {"source": str(model), "device": "cpu"},
            "generate": {"prompts": {"texts": [f"a {colour} circle" for colour in ("red", "green", "blue")]}, "samples_per_prompt": 3,
                         "steps": 2},
            "score": {"rewards": {"contrast": {}}},
            "pair": {"rule": "all_pairs", "by": "contrast.score"},
            "encode": {},
            "train": {"steps": 3, "batch_size": 4, "tracker": None, **METHODS[name]},
            "evaluate": {"prompts": {"texts": HELDOUT}, "samples_per_prompt": 2, "steps": 2, "guidance": 2.0},
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values | sections))
    return [str(folder / f"{name}.yaml") for name in names]


def of_another_model(file: str) -> str:
    """The config beside it, of clips."""
    path = Path(file).with_stem("of_clips")
    path.write_text(Path(file).read_text().replace("model: {", "model: {backbone: wan, ").replace("model:\n", "model:\n  backbone: wan\n"))
    return str(path)


def call(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["compare", *words])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two methods, one that diverges, one without a pair, one of another model; two points, two seeds, and the checkpoints too."""
    folder = tmp_path_factory.mktemp("compare")
    files = write_configs(folder / "methods", model, [*FEW, "broken"])
    files += [*write_configs(folder / "methods", model, ["pairless"], pair=NO_PAIRS), of_another_model(files[0])]
    settings = ["seeds=2", "workers=2", "grid=[[1, 1], [1, 20]]", "validation.texts=[a blue circle, a green]", "curve=2"]
    words = [*files, f"run={folder / 'run'}", *settings]
    call(*words)
    return Made(words, folder / "run", json.loads((folder / "run/compare.json").read_text()))


def times(run: Path) -> dict[Path, int]:
    """When each file of the run was written, without locks, and records that every opening may write."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "stage.json")]
    return {path: path.stat().st_mtime_ns for path in files if run / "compare.json" != path and path.parent != run}


def report_of(made: Made, part: str) -> dict[str, Any]:
    return json.loads((made.run / part / "evaluation/report.json").read_text())["models"]


@pytest.mark.integration
def test_a_second_time_makes_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"something was made again: {arguments}")

    monkeypatch.setattr(compare_jobs, "_start", refuse)
    monkeypatch.setattr("pipelines.evaluate.sample_requests", refuse)
    before = times(made.run)
    call(*made.words)
    assert before == times(made.run)
    assert json.loads((made.run / "compare.json").read_text()) == made.result


@pytest.mark.integration
def test_the_data_are_made_once_and_are_the_same_for_all(made: Made) -> None:
    [pairs] = {folder for folder in (made.run / "pairs").iterdir() if (folder / "latents").is_dir()}
    for job in (made.run / "jobs").iterdir():
        assert (job / "candidates").resolve() == (made.run / "data/candidates").resolve()
        assert (job / "latents").resolve() == (pairs / "latents").resolve()
    assert len(list((made.run / "jobs").iterdir())) == 3 * 2 + 2 * 2


@pytest.mark.integration
def test_checkpoints_stay_for_the_curve_alone(made: Made) -> None:
    kept = [job.name for job in (made.run / "jobs").iterdir() if (job / "train/checkpoints").is_dir() and (job / "train/final").is_dir()]
    assert len(kept) == 4 and all("-seed4-" in name or "-seed5-" in name for name in kept)


@pytest.mark.integration
def test_a_method_that_fails_leaves_the_others(made: Made) -> None:
    methods = made.result["methods"]
    assert set(methods) == {*METHODS, "of_clips"} and "scores" not in methods["broken"] and "learning_rate" not in methods["broken"]
    assert len(methods["broken"]["failures"]) == 2 and "not finite" in next(iter(methods["broken"]["failures"].values()))
    assert all(point["mean"] is None and point["failure"] for point in methods["broken"]["grid"])
    assert not methods["broken"]["failures"].keys() & report_of(made, "heldout").keys()
    page = (made.run / "README.md").read_text()
    assert page.count("- `broken`, `diffusion_dpo-") == 2
    assert [row[0] for row in rows(made.result)] == sorted(FEW, key=lambda name: -methods[name]["scores"]["contrast.score"]["change"])
    assert all((made.run / name).is_file() and f"]({name})" in page for name in ("methods.png", "curve.png"))


@pytest.mark.integration
def test_a_method_without_a_pair_leaves_the_others(made: Made, model: Path, tmp_path: Path) -> None:
    found = made.result["methods"]["pairless"]
    sentence = found["failures"]["pairless"]
    assert found["grid"] == [] and "scores" not in found and sentence.startswith("all pairs were filtered out; minimum_gap=1000000.0")
    assert f"- `pairless`: {sentence}" in (made.run / "README.md").read_text()
    files = write_configs(tmp_path, model, ["pairless"], pair=NO_PAIRS)
    words = [word for word in made.words if not word.endswith(".yaml")]
    told = " ".join(call(*files, *words, status=1).stderr.split())
    assert "of none of 1 methods could the pairs and latents be made; the first, pairless: all pairs were filtered out" in told


@pytest.mark.integration
def test_a_killed_comparison_takes_its_trainings_along(model: Path, tmp_path: Path) -> None:
    long = {"steps": 40, "batch_size": 4, "tracker": None, **METHODS["mapo"]}
    [file] = write_configs(tmp_path / "methods", model, ["mapo"], train=long)
    words = [file, f"run={tmp_path / 'run'}", "seeds=1", "grid=[[1, 1]]"]
    code = "import sys; from pipelines.cli import app; app(['compare', *sys.argv[1:]])"
    assert kill_after(code, *words, folder=tmp_path / "run/jobs", wait_for="*/train/metrics.jsonl", delay=0)
    [job] = (tmp_path / "run/jobs").iterdir()
    with lock_run(job, patience_seconds=60):  # ours when the training has ended
        assert not (job / "train/final").exists()
    call(*words)
    assert (job / "train/final").is_dir() and json.loads((tmp_path / "run/compare.json").read_text())["methods"]["mapo"]["scores"]


@pytest.mark.integration
def test_the_better_point_of_the_grid_is_chosen(made: Made) -> None:
    tried = report_of(made, "validation")
    for method in ("diffusion_dpo", "mapo"):
        found = made.result["methods"][method]
        means = {name: model["scores"]["contrast.score"]["aligned"] for name, model in tried.items() if name.startswith(f"{method}-")}
        best = max(means, key=means.__getitem__)
        assert len(set(means.values())) == 2 and sorted(means.values()) == sorted(point["mean"] for point in found["grid"])
        assert found["learning_rate"] == pytest.approx({"1": 1e-3, "20": 2e-2}[best.split("-lr")[1].split("-")[0]])
        assert found["beta"] == {"diffusion_dpo": 100.0, "mapo": None}[method]


@pytest.mark.integration
def test_the_numbers_by_hand(made: Made) -> None:
    prompts = load_prompts(read_words(made.words)[0][0].evaluate.prompts, 3)
    folder = made.run / "heldout/evaluation"
    judged = report_of(made, "heldout")
    base = read_scored(folder, "base", prompts, 2)["contrast.score"]
    per_prompt = {}
    for method in ("diffusion_dpo", "mapo"):
        found = made.result["methods"][method]
        names = [name for name in judged if name.startswith(f"{method}-") and ".step" not in name]
        assert len(names) == 2 and list(found["seeds"]) == ["4", "5"]  # the grid had seed 3
        changes = [judged[name]["scores"]["contrast.score"]["change"] for name in names]
        change = found["scores"]["contrast.score"]
        assert change["change"] == pytest.approx(np.mean(changes))
        assert [each["contrast.score"] for each in found["seeds"].values()] == pytest.approx(changes)
        aligned = [read_scored(folder, name, prompts, 2)["contrast.score"] for name in names]
        wins = np.mean([np.mean((each > base) + 0.5 * (each == base)) for each in aligned])
        assert change["win_rate"] == pytest.approx(wins)
        per_prompt[method] = np.stack([(each - base).mean(1) for each in aligned], 1)  # (P, seeds)
        low, high = bootstrap_intervals(per_prompt[method][..., None], np.array(HELDOUT), seed=3)[:, 0]
        assert (change["low"], change["high"]) == pytest.approx((low, high))
        records = [json.loads((made.run / "jobs" / name / "train/stage.json").read_text()) for name in names]
        assert found["seconds"] == pytest.approx(np.mean([record["seconds"] for record in records]))
        speeds = [(made.run / "jobs" / name / "train/speed.jsonl").read_text().splitlines() for name in names]
        middle = [sorted(json.loads(line)["seconds"] for line in lines)[1] for lines in speeds]  # of three steps
        assert found["seconds_per_step"] == pytest.approx(np.mean(middle))
        # 4 pairs a step: 8 samples through the policy and back, and of diffusion_dpo through its reference too.
        assert (found["forwards_per_step"], found["backwards_per_step"]) == ({"diffusion_dpo": 16, "mapo": 8}[method], 8)
        assert found["cost"] == pytest.approx({"diffusion_dpo": 1, "mapo": 24 / 32}[method])
        assert found["groups"] == records[0]["summary"]["groups"] == 9
        own = {"grid": [[1, 1], [1, 20]], "seeds": [4, 5], "steps": 3, "batch_size": 4}
        assert own.items() <= found["ground"].items() and found["ground"]["validation"]["texts"] == ["a blue circle", "a green"]
    assert made.result["clusters"] == 3 and made.result["prompts"] == 4
    ground = made.result["ground"]
    assert ground["seed"] == 3 and ground["evaluate"]["prompts"]["texts"] == HELDOUT and ground["evaluate"]["guidance"] == 2.0
    assert ground["generate"]["samples_per_prompt"] == 3 and "batch_size" not in ground["generate"] and set(ground["score"]["rewards"])
    against = made.result["methods"]["mapo"]["against"]["contrast.score"]
    difference = per_prompt["mapo"] - per_prompt["diffusion_dpo"]
    assert against["change"] == pytest.approx(difference.mean())
    low, high = bootstrap_intervals(difference[..., None], np.array(HELDOUT), seed=3)[:, 0]
    assert (against["low"], against["high"]) == pytest.approx((low, high))
    assert list(against["seeds"].values()) == pytest.approx(difference.mean(0)) and list(against["seeds"]) == ["4", "5"]
    assert against["prompt_error"] == pytest.approx(standard_error(difference.mean(1), np.array(HELDOUT), seed=3))
    assert {made.result["methods"][name]["reference"] for name in ("diffusion_dpo", "mapo")} == {"initial"}
    assert 0 <= made.result["methods"]["diffusion_dpo"]["rewards/accuracies"] <= 1 and "frechet" not in made.result["methods"]["mapo"]
    assert "against" not in made.result["methods"]["diffusion_dpo"]


@pytest.mark.integration
def test_drift_is_from_the_base_on_the_pairs_of_the_rival_with_and_without_a_reference(made: Made) -> None:
    """By hand: x_t, ε and target of sixteen draws through both models of each seed, over all nine pairs."""
    config = read_words(made.words)[0][0].config
    pairs = next((made.run / "pairs").glob("*/preferences/shard-*.parquet")).parents[1]
    rows, candidates = list(read_preferences(pairs / "preferences")), CandidateFiles(pairs / "candidates")
    base = load_model(config.model)

    def errors(weights: Path | None, side: int) -> torch.Tensor:
        of = base if weights is None else load_aligned(config, [weights], base.identity())
        shown = [candidates[row.samples[side]] for row in rows]
        pictures = torch.from_numpy(np.stack([each.media.tensor((16, 16), None) for each in shown]))
        latents, embeds = base.encode(pictures, seeds=None).float(), base.embed([each.prompt for each in shown])
        found = []
        for draw in range(16):
            generator = torch.Generator().manual_seed(draw)
            at = (draw + torch.rand(1, generator=generator)) / 16
            epsilon = torch.randn(latents.shape[1:], generator=generator).expand_as(latents)
            t = base.process.timestep(at, tuple(latents.shape[2:])).expand(len(rows))
            with torch.no_grad():
                predicted = of.predict(of.denoiser, base.process.noise(latents, epsilon, t), t, embeds)
            found.append((predicted - base.process.target(latents, epsilon, t)).square().mean())
        return torch.stack(found).mean()

    for method in ("diffusion_dpo", "mapo"):
        jobs = [name for name in report_of(made, "heldout") if name.startswith(f"{method}-") and ".step" not in name]
        weights = [made.run / "jobs" / name / "train/final" for name in jobs]
        fell = np.mean([float(errors(None, 0) - errors(each, 0)) for each in weights])
        rose = np.mean([float(errors(each, 1) - errors(None, 1)) for each in weights])
        found = made.result["methods"][method]
        assert found["drift_pairs"] == 9 and len(jobs) == 2
        assert found["win_adv"] == pytest.approx(fell, rel=1e-3, abs=1e-7) and fell != 0
        assert found["lose_adv"] == pytest.approx(rose, rel=1e-3, abs=1e-7) and rose != 0


@pytest.mark.integration
def test_drift_on_the_pairs_of_another_rival_is_measured_again(made: Made) -> None:
    [file, *_] = sorted(path for path in made.run.glob("jobs/*/drift.json") if "mapo" in path.parent.name)
    before = json.loads(file.read_text())
    file.write_text(json.dumps({"pairs_of": "others", "means": {**before["means"], "win_adv": 1.0}}))
    call(*made.words)
    after = json.loads(file.read_text())
    assert after["pairs_of"] == before["pairs_of"] and after["means"] == pytest.approx(before["means"])


@pytest.mark.integration
def test_the_fidelity_of_each_seed_is_kept(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the heldout samples, as evaluate measured it: here a stand-in, as of pictures there is none."""

    def measured(evaluation: Path, world: str, models: Sequence[str], *rest: Any) -> dict[str, Any]:
        each = {name: {"aligned": float(place), "change": 0.0, "low": 0.0, "high": 0.0} for place, name in enumerate(models) if place}
        return {"world": world, "base": 0.5, "floor": 0.1, "samples": 4, "features": 1, "models": each}

    monkeypatch.setattr("pipelines.evaluate.check_fidelity", lambda *arguments: None)
    monkeypatch.setattr("pipelines.evaluate.fidelity", measured)
    page = tmp_path / "README.md"
    call(*made.words, "evaluate.fidelity=tones", f"out={page}")
    report = json.loads((made.run / "heldout/evaluation/report.json").read_text())["fidelity"]["models"]
    for name, method in json.loads(page.with_name("compare.json").read_text())["methods"].items():
        if "scores" in method:
            seeds = {
                seed: next(
                    of["aligned"]
                    for job, of in report.items()
                    if job.startswith(f"{name}-") and f"seed{seed}-" in job and "step" not in job
                )
                for seed in method["seeds"]
            }
            assert method["frechet"] == {"world": "tones", "base": 0.5, "floor": 0.1, "seeds": seeds} and len(set(seeds.values())) == 2
    call(*made.words)  # as it was, for those that read it next


@pytest.mark.integration
def test_the_curve_ends_at_the_mean_of_the_seeds(made: Made) -> None:
    for method in ("diffusion_dpo", "mapo"):
        found = made.result["methods"][method]
        assert list(found["steps"]) == ["1", "2", "3"]
        seeds = [change["contrast.score"] for change in found["seeds"].values()]
        assert found["steps"]["3"]["contrast.score"] == pytest.approx(sum(seeds) / 2)
        values = [change["contrast.score"] for change in found["steps"].values()]
        reached = [step for step in (1, 2, 3) if min(values[step - 1 :]) >= made.result["target"]]
        assert found["steps_to_target"] == (reached[0] if reached else None) and found["curve_seeds"] == 2


@pytest.mark.integration
def test_one_method_more_makes_its_own_only(made: Made, tmp_path: Path, model: Path) -> None:
    train = {"steps": 3, "batch_size": 4, "tracker": None, "objective": {"name": "sft"}, "learning_rate": 1e-3}
    [file] = write_configs(tmp_path, model, ["mapo"], train=train)
    words = [word for word in made.words if not word.endswith(".yaml") and word != "curve=2"]
    before = times(made.run)
    Path(file).rename(tmp_path / "more.yaml")
    call(str(tmp_path / "more.yaml"), *words)
    after = times(made.run)
    changed = {path.relative_to(made.run).as_posix() for path in after if after[path] != before.get(path)}
    assert not before.keys() - after.keys()
    assert all("/sft-" in path or path.endswith("evaluation/report.json") for path in changed)
    assert any(path.startswith("heldout/evaluation/sft-") for path in changed)


@pytest.mark.integration
def test_methods_that_come_to_the_same_are_trained_once(made: Made, tmp_path: Path, model: Path) -> None:
    [file] = write_configs(tmp_path, model, ["mapo"])
    words = [word for word in made.words if not word.endswith(".yaml") and word != "curve=2"]
    before = times(made.run)
    Path(file).rename(tmp_path / "same.yaml")
    call(str(tmp_path / "same.yaml"), *words)
    assert times(made.run).keys() == before.keys()
    same = json.loads((made.run / "compare.json").read_text())["methods"]["same"]
    assert same["scores"] == made.result["methods"]["mapo"]["scores"]


@pytest.mark.integration
def test_methods_of_an_earlier_comparison_are_not_made_again(made: Made, tmp_path: Path) -> None:
    (tmp_path / "earlier.json").write_text(json.dumps(made.result))
    settings = [word for word in made.words if not word.endswith(".yaml")]
    call(made.words[0], *settings, f"earlier={tmp_path / 'earlier.json'}", f"out={tmp_path / 'page/README.md'}")
    joined = json.loads((tmp_path / "page/compare.json").read_text())
    assert joined["methods"] == made.result["methods"] and len(joined["made"]) == 2
    assert (tmp_path / "page/README.md").read_text().count("# at commit ") == 2
    refused = call(made.words[0], *settings, f"earlier={made.run / 'nowhere.json'}", status=1)
    assert "nowhere.json" in refused.output


@pytest.fixture
def files(tmp_path: Path, model: Path) -> list[str]:
    return write_configs(tmp_path / "methods", model, [*FEW, "broken"])


@pytest.mark.parametrize(
    ("named", "more", "told"),
    [
        ([0], {"target": 0.1}, "the earlier comparison has target 0.1 and this one 0.05"),
        ([1], {}, "compared with 'diffusion_dpo', which is not among these: name its config too"),
        ([0], {"ground": {"seed": 4}}, "has seed 4 and this one 3"),
        ([0], {"methods": None}, "no compare.json of this version"),
    ],
)
def test_an_earlier_comparison_is_looked_at_before_anything_is_trained(
    named: list[int], more: dict[str, Any], told: str, files: list[str], tmp_path: Path
) -> None:
    ground = shared_ground(read_words(files)[0][0], own_data=False) | more.get("ground", {})
    earlier = {"made": [], "methods": {}, "scores": [], "against": "diffusion_dpo", "target": 0.05, "own_data": False, "ground": ground}
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps({key: value for key, value in {**earlier, **more, "ground": ground}.items() if value is not None}))
    words = [*(files[place] for place in named), f"run={tmp_path / 'run'}", f"earlier={file}", "validation.texts=[a green]"]
    assert told in " ".join(call(*words, status=1).output.split()) and not (tmp_path / "run").exists()


def test_words_are_configs_settings_and_overrides(files: list[str]) -> None:
    roads, settings = read_words([*files[:2], "seeds=5", "train.steps=7", "seed=11", "betas=[1, 2]"])
    assert [road.name for road in roads] == ["diffusion_dpo", "mapo"] and all(road.train.steps == 7 and road.seed == 11 for road in roads)
    assert settings.seeds == 5 and list(settings.points) == [(beta, rate) for beta in (1.0, 2.0) for rate in (0.5, 1.0, 2.0)]


def test_each_makes_variants_of_every_config(files: list[str]) -> None:
    words = ["each.pair.flip_share=[0, 0.1]", "each.train.order=[shuffle, {name: curriculum, stages: 2}]"]
    roads, _ = read_words([*files[:2], *words, "train.steps=7"])
    orders = ["-order=shuffle", "-order=curriculum,stages=2"]
    assert [road.variant for road in roads[:4]] == [f"-flip_share={share}{order}" for share in ("0", "0.1") for order in orders]
    assert [road.name for road in roads[3:5]] == [f"diffusion_dpo{roads[3].variant}", f"mapo{roads[0].variant}"]
    assert [road.pair.flip_share for road in roads] == [0, 0, 0.1, 0.1] * 2 and all(road.train.steps == 7 for road in roads)
    assert roads[1].train.order.stages == 2  # type: ignore[union-attr]


def test_a_variant_is_compared_with_the_same_variant() -> None:
    def rivals(against: str, *names: tuple[str, str]) -> dict[str, str | None]:
        contests = [Contest(name + variant, variant, name, [], {}, None, []) for name, variant in names]
        return {name: rival.method if rival else None for name, rival in rivals_of(contests, against).items()}

    both = rivals("diffusion_dpo", ("diffusion_dpo", "-a=1"), ("diffusion_dpo", "-a=2"), ("mapo", "-a=2"))
    assert both["mapo-a=2"] == "diffusion_dpo-a=2"
    assert rivals("diffusion_dpo", ("diffusion_dpo", ""), ("mapo", "-a=2"))["mapo-a=2"] == "diffusion_dpo"
    assert rivals("mapo-a=1", ("mapo", "-a=1"), ("mapo", "-a=2"))["mapo-a=2"] == "mapo-a=1"
    assert rivals("sft", ("mapo", "")) == {"mapo": None}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seeds=2"], "nothing to compare; give config files"),
        (["{0}", "{0}"], "2 configs are called 'diffusion_dpo'"),
        (["{0}", "sedes=2"], "unknown key 'sedes' (did you mean 'seeds'?)"),
        (["{0}", "each.seed=3"], "cannot read 'each.seed=3'; give a key and a list of its values"),
        (["{0}", "each=[3]"], "cannot read 'each=[3]'"),
        (["{0}", "each.train.flip=[0.5, 0.5]"], "two values have one name"),
        (["{0}", "each.train.stepz=[1]"], "stepz"),
        (["{0}", "seeds=0"], "seeds: got 0"),
        (["{0}", "encode=null", "train=null"], "has no section encode, train"),
        (["{0}"], "evaluate.prompts is of no world"),
        (["{0}", "validation.texts=[a blue circle, a white circle]"], "1 of 2 validation prompts mean the same as a held-out one"),
    ],
)  # fmt: skip
def test_bad_words(words: list[str], told: str, files: list[str], tmp_path: Path) -> None:
    assert told in call(*(word.format(*files) for word in words), f"run={tmp_path / 'run'}", status=1).stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"seed": 4}, "differ in seed: 3 and 4"),
        ({"encode": {"posterior": "mean"}}, "differ in encode.posterior: 'sample' and 'mean'"),
        ({"evaluate": {"prompts": {"texts": HELDOUT}, "samples_per_prompt": 2, "steps": 9, "guidance": 2.0}}, "evaluate.steps: 2 and 9"),
        ({"generate": {"prompts": {"texts": ["a red circle"]}, "steps": 2, "samples_per_prompt": 3}}, "or say own_data=true"),
    ],
)  # fmt: skip
def test_configs_that_disagree(section: dict[str, Any], told: str, tmp_path: Path, model: Path) -> None:
    ours, theirs = write_configs(tmp_path / "a", model, ["mapo"]), write_configs(tmp_path / "b", model, ["diffusion_dpo"], **section)
    with pytest.raises(ValueError, match="mapo and diffusion_dpo differ in") as refused:
        check_agreement(read_words([*ours, *theirs])[0])
    assert told in str(refused.value)


@pytest.mark.integration
def test_a_method_of_another_modality_is_left_out_with_the_reason(made: Made) -> None:
    left_out = made.result["methods"]["of_clips"]
    assert left_out["failures"] == {"of_clips": "it trains on video and diffusion_dpo on image; compare it with others of its own model"}
    assert "scores" not in left_out and not list((made.run / "jobs").glob("of_clips*"))


@pytest.mark.integration
def test_with_data_of_its_own_a_method_trains_on_its_own_samples(tmp_path: Path, model: Path) -> None:
    files = write_configs(tmp_path / "methods", model, FEW)
    other = yaml.safe_load(Path(files[1]).read_text())
    other["generate"]["steps"] = 3
    Path(files[1]).write_text(yaml.safe_dump(other))
    words = [*files, f"run={tmp_path / 'run'}", "seeds=1", "grid=[[1, 1]]", "own_data=true"]
    call(*words)
    [shared], [own] = (list((tmp_path / "run").glob(name)) for name in ("data", "data-*"))
    trained = [next((tmp_path / "run/jobs").glob(f"{name}-*")) for name in FEW]
    assert [(job / "candidates").resolve().parent for job in trained] == [shared, own]
    steps = [{row["steps"] for row in read_rows(job / "candidates", ["steps"])} for job in trained]
    assert steps == [{2}, {3}]
    page = (tmp_path / "run/README.md").read_text()
    assert "the same for all, how candidates are made is not. β and learning rate were not chosen from a grid." in " ".join(page.split())
    assert len(list((tmp_path / "run/jobs").iterdir())) == 2 and not (tmp_path / "run/validation").exists()  # nothing to choose


def test_validation_and_held_out_prompts_of_a_world_share_no_scene(files: list[str]) -> None:
    words = [*files, "evaluate.prompts={world: shapes, split: heldout, count: 400}", "validation_count=300"]
    roads, settings = read_words(words)
    validation, heldout = load_prompts(validation_prompts(settings, roads[0]), 3), load_prompts(roads[0].evaluate.prompts, 3)
    assert len(validation) == 300 and len(heldout) == 400
    check_disjoint(validation, heldout)
    scenes = {prompt.scene: prompt.text for prompt in heldout}
    same = next(prompt for prompt in heldout if prompt.text != scenes[prompt.scene])  # one scene in two wordings
    other = next(prompt for prompt in heldout if prompt.scene == same.scene and prompt.text != same.text)
    with pytest.raises(ValueError, match="1 of 1 validation prompts mean the same"):
        check_disjoint([other], [same])


def test_points_begin_with_the_configs_own() -> None:
    grid = [(0.3, 0.5), (0.3, 1.0), (1.0, 0.5), (1.0, 1.0)]
    assert points_for({"beta": 100.0}, grid)[0] == Point() and len(points_for({"beta": 100.0}, grid)) == 4
    assert points_for({"name": "sft"}, grid) == [Point(1.0, 1.0), Point(1.0, 0.5)]


def jobs_of(files: Sequence[str], folder: Path) -> list[Job]:
    road = read_words(files[:1])[0][0]
    return [make_job(folder, road, folder / "pairs/same", point, 3) for point in (Point(), Point(3.0, 0.5), Point(1.0, 2.0))]


def test_a_point_scales_beta_and_rate_and_names_its_job(files: list[str], tmp_path: Path) -> None:
    own, other, _ = jobs_of(files, tmp_path)
    assert (own.train.objective["beta"], own.train.learning_rate) == (100.0, 1e-3)
    assert (other.train.objective["beta"], other.train.learning_rate, other.train.seed) == (300.0, 5e-4, 3)
    assert other.name.startswith("diffusion_dpo-beta3-lr0.5-seed3-") and other.name != own.name
    longer = read_words([files[0], "train.steps=4"])[0][0]
    assert make_job(tmp_path, longer, tmp_path / "pairs/same", Point(), 3).name != own.name
    ahead = read_words([files[0], "train.reference_errors=ahead"])[0][0]  # has no predictions to share
    without = make_job(tmp_path, ahead, tmp_path / "pairs/same", Point(), 3).train
    assert own.train.reference_cache == tmp_path / "reference" and type(without).model_validate(without.model_dump()) == without


def test_the_greatest_mean_is_chosen_and_of_equals_the_first(files: list[str], tmp_path: Path) -> None:
    jobs = jobs_of(files, tmp_path)
    names = [job.name for job in jobs]
    assert choose(jobs, {names[0]: 0.1, names[1]: 0.3, names[2]: 0.2}) is jobs[1]
    assert choose(jobs, {names[1]: 0.3, names[2]: 0.3}) is jobs[1]
    assert choose(jobs, {}) is None


def test_failures_are_kept_and_kills_tried_again(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, started = jobs_of(files, tmp_path), []
    say = "print('step 1'); print('error: it diverged\\n  at step 2'); raise SystemExit(1)"
    codes = [say, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "raise KeyError('a bug')"]

    def start(job: Job, workers: int) -> subprocess.Popen[bytes]:
        started.append(job.name)
        with (job.config.run / "train.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", codes[jobs.index(job)]], stdout=log, stderr=subprocess.STDOUT)

    monkeypatch.setattr(compare_jobs, "_start", start)
    train_jobs(jobs, workers=2, retry=False, progress=QUIET)
    assert [job.failure for job in jobs] == [
        "it diverged\n  at step 2", "stopped (exit status -9); compare again to resume it", "KeyError: 'a bug'",
    ]  # fmt: skip
    train_jobs(jobs, workers=2, retry=False, progress=QUIET)
    assert started[3:] == [jobs[1].name]
    train_jobs(jobs, workers=2, retry=True, progress=QUIET)
    assert sorted(started[4:]) == sorted(job.name for job in jobs)


def test_the_methods_of_a_training_are_named_when_it_ends(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job is called as its objective, which many methods have."""

    def start(job: Job, workers: int) -> subprocess.Popen[bytes]:
        (job.config.run / "train.log").write_text("error: it diverged\n")
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], stdin=subprocess.PIPE)

    monkeypatch.setattr(compare_jobs, "_start", start)
    [first, other, _] = jobs_of(files, tmp_path)
    train_jobs([first, replace(first, method="flow_dpo"), other], workers=1, retry=False, progress=Progress())
    told = "".join(capsys.readouterr().err.split())
    assert f"compare:diffusion_dpo,flow_dpo:{first.name}:itdiverged" in told and f"compare:diffusion_dpo:{other.name}:" in told


def with_teacher(folder: Path, model: Path, teacher: str = "diffusion_dpo") -> list[str]:
    """tgdpo, taught by another method's own run, before it in the order of the command."""
    [file] = write_configs(folder, model, ["diffusion_dpo"], run=str(folder / "diffusion_dpo"))
    values = yaml.safe_load(Path(file).read_text())
    values["train"] |= {"objective": {"name": "tgdpo", "beta": 100.0}, "teacher": str(folder / teacher / "train/final")}
    pupil = folder / "tgdpo.yaml"
    pupil.write_text(yaml.safe_dump(values | {"run": str(folder / "tgdpo")}))
    return [str(pupil), file]


def test_a_pupil_comes_after_its_teacher_and_takes_its_chosen_training_of_the_seed(tmp_path: Path, model: Path) -> None:
    pupil, teacher = roads = read_words(with_teacher(tmp_path, model))[0]
    assert teacher_of(pupil, roads) is teacher and teacher_of(teacher, roads) is None
    assert rounds(roads) == [[teacher], [pupil]] and rounds([pupil]) == [[pupil]]
    grid = [make_job(tmp_path, teacher, tmp_path / "pairs/same", point, 3) for point in (Point(), Point(3.0))]
    final = [make_job(tmp_path, teacher, tmp_path / "pairs/same", Point(3.0), seed) for seed in (4, 5)]
    found = {"diffusion_dpo": Contest("diffusion_dpo", "", "diffusion_dpo", grid, {}, grid[1], final)}
    for seed, job in ((3, grid[1]), (4, final[0]), (5, final[1])):
        assert taught(pupil, seed, roads, found).train.teacher == job.weights
    assert taught(teacher, 4, roads, found) is teacher and taught(pupil, 4, [pupil], {}) is pupil
    found = {"diffusion_dpo": Contest("diffusion_dpo", "", "diffusion_dpo", grid, {}, None, [])}  # all failed: there are no weights
    assert taught(pupil, 3, roads, found).train.teacher == grid[0].weights
    with pytest.raises(ValueError, match="tgdpo has the seed 4, and its teacher diffusion_dpo was not trained with it"):
        taught(pupil, 4, roads, found)


def test_a_method_that_teaches_itself_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"tgdpo have each other as teachers; change train\.teacher"):
        rounds(read_words(with_teacher(tmp_path, model, "tgdpo"))[0])


@pytest.mark.integration
def test_a_pupil_in_a_comparison(tmp_path: Path, model: Path) -> None:
    files = with_teacher(tmp_path / "methods", model)
    settings = ["seeds=1", "grid=[[1, 1], [1, 2]]", "validation.texts=[a blue circle, a green]"]
    call(*files, f"run={tmp_path / 'run'}", *settings)
    result = json.loads((tmp_path / "run/compare.json").read_text())["methods"]
    assert list(result) == ["tgdpo", "diffusion_dpo"] and all(list(each["seeds"]) == ["4"] for each in result.values())
    factor = round(result["diffusion_dpo"]["learning_rate"] / 1e-3)
    for seed, count in ((3, 2), (4, 1)):
        pupils = list((tmp_path / "run/jobs").glob(f"tgdpo-*-seed{seed}-*"))
        [teacher] = (tmp_path / "run/jobs").glob(f"diffusion_dpo-*-lr{factor}-seed{seed}-*")
        taught = {yaml.safe_load((pupil / "config.yaml").read_text())["train"]["teacher"] for pupil in pupils}
        assert len(pupils) == count and taught == {str(teacher / "train/final")}


def test_a_curve_is_over_all_seeds_that_have_their_checkpoints(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of(files, tmp_path)
    for job, steps in zip(jobs, ((1, 2, 3), (), (2, 3)), strict=True):
        for step in steps:
            (job.config.run / f"train/checkpoints/step_{step:06d}").mkdir(parents=True)
    monkeypatch.setattr(Job, "is_done", True)
    found = Contest("diffusion_dpo", "", "diffusion_dpo", [], {}, jobs[0], jobs).checkpoints
    assert list(found) == [2, 3] and list(found[3]) == [f"{jobs[0].name}.step3", f"{jobs[2].name}.step3"]
    assert found[2][f"{jobs[2].name}.step2"] == jobs[2].config.run / "train/checkpoints/step_000002"


def test_a_curve_s_checkpoints_are_all_kept(files: list[str], tmp_path: Path) -> None:
    """Whatever a config says for a run of its own; and where they are written has always been a part of a job's name."""
    own, *_ = jobs_of(files, tmp_path)
    few, often = (read_words([files[0], f"train.{setting}=1"])[0][0] for setting in ("keep_checkpoints", "checkpoint_every"))
    made = make_job(tmp_path, few, tmp_path / "pairs/same", Point(), 3)
    assert made.train.keep_checkpoints is None and made.name == own.name
    assert make_job(tmp_path, often, tmp_path / "pairs/same", Point(), 3).name != own.name


def test_headline_scores() -> None:
    report = {"models": {"a": {"scores": {"shapes.overall": {}, "shapes.score": {}, "contrast.score": {}, "clip.similarity": {}}}}}
    assert headline_of(None, ["shapes.count"], report) == ("shapes.overall", "shapes.score")
    assert headline_of(None, ["clip.similarity"], report) == ("clip.similarity", "clip.similarity")
    assert headline_of("contrast.score", ["shapes.score"], report) == ("shapes.overall", "contrast.score")
    with pytest.raises(ValueError, match=r"select 'shapes.scores' is not among the evaluated scores; choose one of: shapes\.overall"):
        headline_of("shapes.scores", ["shapes.score"], report)
    with pytest.raises(ValueError, match=r"give select=\.\.\."):
        headline_of(None, [], report)


def test_the_command_on_the_page(files: list[str]) -> None:
    folder = Path(files[0]).parent.as_posix()
    assert command_of([*files, "grid=[[1, 1]]"]) == f"diffalign compare {folder}/*.yaml 'grid=[[1, 1]]'"
    assert command_of(files[:2]) == f"diffalign compare {files[0]} {files[1]}"
