"""The configs for real models, called as a user calls them, on a tiny Stable Diffusion and preference sets in the public layouts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from no_network import no_network
from run_snapshot import snapshot
from tiny_pipelines import save_sdxl
from tiny_preference_sets import save_pickapic, save_suffix_folder, save_table, save_two_folders
from tiny_stable_diffusion import save_single_file, save_tiny_stable_diffusion
from typer.testing import CliRunner

from pipelines.cli import app

pytestmark = pytest.mark.integration

# A real model's sizes → the tiny one's; two steps of four pairs, two a forward. Everything else is as the file says.
TINY = (
    "model.device=cpu", "encode.size=32", "train.steps=2", "train.warmup_steps=1", "train.batch_size=4", "train.micro_batch_size=2",
    "evaluate.size=[32, 32]", "evaluate.steps=2", "evaluate.samples_per_prompt=1",
)  # fmt: skip
UNTIL_TRAIN = ("evaluate=null", "gallery=null")


@pytest.fixture(scope="module")
def version_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def version_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "sd21", version=2)


@pytest.fixture(scope="module")
def pickapic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pickapic(tmp_path_factory.mktemp("sets") / "pickapic_v2")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A local source needs nobody."""
    with no_network():
        yield


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]


def summary_of(run: Path, folder: str) -> dict[str, Any]:
    record = json.loads((run / folder / "stage.json").read_text())
    assert record["complete"]
    return record["summary"]


def assert_trained(run: Path) -> None:
    """Two steps, of which the first started at the reference, and finite numbers throughout."""
    first, second = metrics_of(run)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["rewards/accuracies"] == 0.5
    assert first["win_adv"] == first["lose_adv"] == 0
    assert all(math.isfinite(value) for value in second.values())
    assert second["rewards/margins"] != 0


def assert_plain_diffusers_agrees(run: Path, pipeline: Any) -> None:
    """The aligned samples of the evaluation are what `pipeline`, the result in plain diffusers, gives for the recorded prompt and seed."""
    import torch

    from diffalign.data.records import read_candidates

    pipeline.set_progress_bar_config(disable=True)
    for candidate in list(read_candidates(run / "evaluation/aligned"))[:2]:
        generator = torch.Generator().manual_seed(candidate.seed)
        [own] = pipeline(
            candidate.prompt, height=32, width=32, num_inference_steps=2, guidance_scale=7.5, generator=generator, output_type="np"
        ).images
        difference = np.abs(np.rint(own * 255).astype(int) - candidate.media.pixels())
        assert difference.max() <= 1  # one in a batch of eight against one alone: rounding


def test_pickapic_full_fine_tuning(version_1: Path, pickapic: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    run = tmp_path / "run"
    told = call("run", "sd15_diffusion_dpo", f"run={run}", f"model.source={version_1}", f"pair.source.path={pickapic}", *TINY)
    assert "gallery:" in told
    assert summary_of(run, "candidates")["report"] == {
        "max_broken": 100, "read": 10, "kept": 10, "tied": 2, "skipped": 0, "broken": 0, "reasons": [], "modality": "image"
    }  # fmt: skip
    pairs = summary_of(run, "preferences")
    assert (pairs["pairs_kept"], pairs["ties"], pairs["across_sources"]) == (8, 2, 8)
    assert summary_of(run, "latents")["shapes"] == {"4x16x16": 16}
    assert_trained(run)
    report = json.loads((run / "evaluation/report.json").read_text())
    rewards = ("sharpness", "saturation", "contrast", "brightness", "jpeg_size")
    assert set(report["models"]["aligned"]["scores"]) == {f"{name}.score" for name in rewards}
    assert (run / "gallery/index.html").is_file()
    unet = UNet2DConditionModel.from_pretrained(run / "train/final/unet")
    assert_plain_diffusers_agrees(run, StableDiffusionPipeline.from_pretrained(version_1, unet=unet, safety_checker=None))

    before = snapshot(run)
    call("run", run / "config.yaml")  # the resolved config reruns the run, and there is nothing left to do
    assert snapshot(run) == before


def test_pickapic_lora(version_1: Path, pickapic: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    run = tmp_path / "run"
    call(
        "run", "sd15_diffusion_dpo", f"run={run}", f"model.source={version_1}", f"pair.source.path={pickapic}", "train.lora.rank=4",
        "pair.source.max_samples=6", "gallery=null", *TINY,
    )  # fmt: skip
    assert summary_of(run, "preferences")["pairs_kept"] == 5
    assert_trained(run)
    pipeline = StableDiffusionPipeline.from_pretrained(version_1, safety_checker=None)
    pipeline.load_lora_weights(run / "train/final", weight_name="pytorch_lora_weights.safetensors")
    assert_plain_diffusers_agrees(run, pipeline)


@pytest.mark.parametrize("config", ["sd15_smpo", "sd15_inpo", "sdxl_smpo", "sdxl_inpo"])
def test_inverted_noise_on_pickapic(config: str, version_1: Path, pickapic: Path, tmp_path: Path) -> None:
    """SmPO with scores of a reward without weights in PickScore's place."""
    run = tmp_path / "run"
    source = version_1 if config.startswith("sd15") else save_sdxl(tmp_path / "sdxl")
    own = ("score.rewards={sharpness: {}}", "train.scores=[sharpness.score]", "train.objective.low=0", "train.objective.high=1000")
    call("run", config, f"run={run}", f"model.source={source}", f"pair.source.path={pickapic}", *TINY, "evaluate=null", "gallery=null",
         *(own if config.endswith("smpo") else ()))  # fmt: skip
    assert_trained(run)


def test_one_file_of_weights_trains_as_its_folder(version_1: Path, pickapic: Path, tmp_path: Path) -> None:
    sources = {"folder": version_1, "file": save_single_file(version_1, tmp_path / "single")}
    for name, source in sources.items():
        call(
            "run",
            "sd15_diffusion_dpo",
            f"run={tmp_path / name}",
            f"model.source={source}",
            f"pair.source.path={pickapic}",
            *TINY,
            *UNTIL_TRAIN,
        )
    assert_trained(tmp_path / "file")
    assert metrics_of(tmp_path / "file") == metrics_of(tmp_path / "folder")


def test_version_2_predicts_v(version_2: Path, pickapic: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    run = tmp_path / "run"
    call("run", "sd15_diffusion_dpo", f"run={run}", f"model.source={version_2}", f"pair.source.path={pickapic}", *TINY)
    assert_trained(run)
    unet = UNet2DConditionModel.from_pretrained(run / "train/final/unet")
    pipeline = StableDiffusionPipeline.from_pretrained(version_2, unet=unet, safety_checker=None)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert_plain_diffusers_agrees(run, pipeline)


def test_own_pairs_in_every_layout(version_1: Path, tmp_path: Path) -> None:
    """Two folders run the whole road; suffixed files and a table of the same pictures train as well."""
    call("run", "own_pairs_lora", f"run={tmp_path / 'folders'}", f"model.source={version_1}",
         f"pair.source.path={save_two_folders(tmp_path / 'pairs')}", *TINY)  # fmt: skip
    assert summary_of(tmp_path / "folders", "preferences")["pairs_kept"] == 6
    assert_trained(tmp_path / "folders")
    assert (tmp_path / "folders/train/final/pytorch_lora_weights.safetensors").is_file()
    assert (tmp_path / "folders/gallery/index.html").is_file()
    others = {"suffix_folder": save_suffix_folder(tmp_path / "suffixes"), "table": save_table(tmp_path / "table")}
    for importer, path in others.items():
        source = f"pair.source={{importer: {importer}, path: {path}}}"
        call("run", "own_pairs_lora", f"run={tmp_path / importer}", f"model.source={version_1}", source, *TINY, *UNTIL_TRAIN)
        assert summary_of(tmp_path / importer, "preferences")["pairs_kept"] == 6
        assert_trained(tmp_path / importer)
