"""Videos of 5 and 9 frames, sounds of 4096 and 8192 samples in one set: the whole road, called as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_timed import TEXTS, save_tiny_tango, save_tiny_wan
from typer.testing import CliRunner

from diffalign.data.latents import LatentCache
from diffalign.data.records import read_candidates, read_preferences
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.model import shown_size

pytestmark = pytest.mark.integration

ROADS: dict[str, tuple[Callable[[Path], Path], list[list[int]], str, tuple[str, ...]]] = {
    "wan": (save_tiny_wan, [[9, 16, 16], [5, 16, 16]], "movement", TEXTS[:2]),
    "tango": (save_tiny_tango, [[8192], [4096]], "centroid", TEXTS[2:]),
}


def config_of(backbone: str, folder: Path) -> dict[str, Any]:
    save, sizes, reward, prompts = ROADS[backbone]
    return {
        "run": str(folder / "run"),
        "model": {"backbone": backbone, "source": str(save(folder)), "device": "cpu"},
        "generate": {"prompts": {"texts": list(prompts)}, "samples_per_prompt": 4, "steps": 2, "size": sizes},
        "score": {"rewards": {reward: {}}},
        "pair": {"rule": "all_pairs", "by": f"{reward}.score", "same_size": False},
        "encode": {},
        "train": {
            "objective": {"name": "ldpo", "beta": 100.0}, "steps": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-4,
            "tracker": None,
        },
        "evaluate": {"prompts": {"texts": list(prompts)}, "steps": 2, "samples_per_prompt": 2, "size": sizes},
        "gallery": {},
    }  # fmt: skip


def call(config: dict[str, Any], folder: Path, status: int = 0) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.mark.parametrize("backbone", ROADS)
def test_lengths_that_differ_go_the_whole_road(backbone: str, tmp_path: Path) -> None:
    config = config_of(backbone, tmp_path)
    call(config, tmp_path)
    run, sizes = tmp_path / "run", config["generate"]["size"]
    made = {each.candidate_id: each for each in read_candidates(run / "candidates")}
    for name, each in made.items():  # sample k has the k-th size, in turn
        assert each.media.shape_of(each.media.columns, None) == tuple(sizes[int(name[-2:]) % 2])
    pairs = [preference.samples for preference in read_preferences(run / "preferences")]
    cache = LatentCache(run / "latents")
    lengths = {sample: cache.shape(sample)[1] for pair in pairs for sample in pair}
    assert any(lengths[first] != lengths[second] for first, second in pairs) and len(set(lengths.values())) == 2
    steps = [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2] and steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    report = json.loads((run / "evaluation/report.json").read_text())
    assert report["samples_per_prompt"] == 2 and report["settings"]["size"] == sizes
    of_all, parts = report["models"]["aligned"]["scores"], report["models"]["aligned"]["tags"]["size"]
    assert set(parts) == {shown_size(tuple(size)) for size in sizes}
    for name, score in of_all.items():  # as many of each length
        for side in ("base", "aligned"):
            assert score[side] == pytest.approx(sum(part["scores"][name][side] for part in parts.values()) / 2)
    assert (run / "gallery/index.html").is_file()


@pytest.mark.parametrize("name", ["ldpo_motion", "ldpo_tones"])
def test_configs_of_unequal_lengths_pair_and_evaluate_what_they_make(name: str) -> None:
    config = load_config(f"lengths/{name}")
    assert config.generate is not None and config.pair is not None and config.evaluate is not None and config.train is not None
    assert len(config.generate.size) == 2 and config.evaluate.size == config.generate.size and not config.pair.same_size
    assert config.train.objective["name"] == "ldpo" and config.encode is not None and config.encode.size is None


@pytest.mark.parametrize("name", ["ldpo_motion", "ldpo_tones"])
def test_configs_of_unequal_lengths_run_to_the_gallery(name: str, tmp_path: Path) -> None:
    """On the bundled models as they stand, but few prompts and steps."""
    run = tmp_path / "run"
    smaller = (
        "generate.prompts.count=2", "generate.samples_per_prompt=2", "generate.steps=1", "train.steps=2", "train.batch_size=2",
        "train.warmup_steps=0", "train.tracker=null", "evaluate.prompts.count=2", "evaluate.steps=1", "evaluate.fidelity=null",
        "model.device=cpu", f"pair.by={name.removeprefix('ldpo_')}.score",  # nothing holds after one step
    )  # fmt: skip
    result = CliRunner().invoke(app, ["run", f"lengths/{name}", f"run={run}", *smaller])
    assert result.exit_code == 0, (result.output, result.exception)
    config = load_config(f"lengths/{name}")
    sizes = [tuple(size) for size in config.generate.size]  # type: ignore[union-attr]
    made = {each.candidate_id: each.media.shape_of(each.media.columns, None) for each in read_candidates(run / "candidates")}
    assert set(made.values()) == set(sizes)
    assert any(made[first] != made[second] for first, second in (pair.samples for pair in read_preferences(run / "preferences")))
    report = json.loads((run / "evaluation/report.json").read_text())
    assert set(report["models"]["aligned"]["tags"]["size"]) == {shown_size(size) for size in sizes}
    header = (run / "gallery/data/gallery.js").read_text().removeprefix('galleryData("gallery",').rstrip("\n);")
    assert dict(json.loads(header)["compare"]["settings"])["size"] == ", ".join(map(shown_size, sizes))


def test_an_objective_for_equal_lengths_refuses_them_with_the_fix(tmp_path: Path) -> None:
    config = config_of("wan", tmp_path)
    config["train"]["objective"] = {"name": "diffusion_dpo", "beta": 100.0}
    told = " ".join(call(config, tmp_path, status=1).stderr.split())
    assert "latents of different shapes" in told and "encode.size" in told
