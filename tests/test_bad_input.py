"""Bad input through the command: a message that names value, allowed values and fix, status 1, and nothing already made is touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_snapshot import snapshot
from tiny_preference_sets import picture, save_pickapic, save_two_folders
from tiny_stable_diffusion import save_original_checkpoint, save_tiny_stable_diffusion
from typer.testing import CliRunner

from pipelines.cli import app

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
TEXTS = ["a red circle", "a blue square", "two green stars", "a white circle"]


def call(*arguments: str | Path, status: int = 0) -> str:
    """What the command said, on both streams, as one line of words."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def refused(*arguments: str | Path, told: tuple[str, ...]) -> None:
    """The command ends with status 1 and a message that holds every one of `told`."""
    message = call(*arguments, status=1)
    assert "error: " in message
    for part in told:
        assert part in message, f"{part!r} is not in: {message}"


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def sections(run: Path, model: Path) -> dict[str, Any]:
    """The road until training, on a tiny model."""
    return {
        "run": str(run),
        "model": {"source": str(model), "device": "cpu"},
        "generate": {"prompts": {"texts": TEXTS}, "samples_per_prompt": 2, "steps": 1, "prompts_per_shard": 2},
        "score": {"rewards": {"sharpness": {}}},
        "pair": {"by": "sharpness.score"},
        "encode": {},
        "train": {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 1, "tracker": None, "lora": {"rank": 2}},
    }


@pytest.fixture(scope="module")
def encoded(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.yaml and a run that is complete up to encode. Do not write into it."""
    folder = tmp_path_factory.mktemp("encoded")
    config = write_config(folder / "config.yaml", sections(folder / "run", tiny_pipeline))
    call("run", config, "train=null")
    return folder


@pytest.fixture
def config(encoded: Path, tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The config of a copy of that run."""
    shutil.copytree(encoded / "run", tmp_path / "run")
    return write_config(tmp_path / "config.yaml", sections(tmp_path / "run", tiny_pipeline))


@pytest.fixture
def run(config: Path) -> Path:
    return config.parent / "run"


# The config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.stepz=3", ("'train.stepz'", "did you mean 'steps'?", "batch_size")),
        ("trainn.steps=3", ("'trainn'", "did you mean 'train'?", "evaluate")),
        ("train.objective={name: diffusion_dpo, betta: 3}", ("'betta'", "did you mean 'beta'?", "beta")),
        ("train.objective=diffusion_dop", ("'diffusion_dop'", "did you mean 'diffusion_dpo'?", "sft")),
        ("score.rewards.sharpnes={}", ("'sharpnes'", "did you mean 'sharpness'?", "shapes")),
        ("pair.rule=best", ("pair.rule", "'best'", "best_vs_worst")),
        ("pair.rule=ranked_list", ("'ranked_list'", "kind 'list'", "'diffusion_dpo' trains on pairs", "best_vs_worst")),
        ("pair.ties=keep", ("pair.ties 'keep'", "'diffusion_dpo'", "pair.ties=drop", "smpo")),
        ("train.objective=densedpo", ("'densedpo'", "spans", "pair.spans")),
        ("pair.by=sharpness.scor", ("'sharpness.scor'", "sharpness.score")),
        ("train.steps=many", ("train.steps", "'many'", "integer")),
        ("train.steps=0", ("train.steps", "got 0", "greater than or equal to 1")),
        ("train.learning_rate=-1e-5", ("train.learning_rate", "-1e-05", "greater than 0")),
        ("train.learning_rate=.nan", ("train.learning_rate", "nan", "finite")),
        ("train.precision=fp8", ("train.precision", "'fp8'", "'bf16'")),
        ("encode.size=0", ("encode.size", "0", "1")),
        ("model.dtype=float64", ("model.dtype", "'float64'", "'bfloat16'")),
        ("seed=-1", ("seed", "got -1", "greater than or equal to 0")),
        ("generate=[1, 2]", ("generate", "[1, 2]", "a section")),
    ],
)
def test_unknown_keys_wrong_types_and_ranges(config: Path, run: Path, override: str, told: tuple[str, ...]) -> None:
    before = snapshot(run)
    refused("run", config, override, "run=" + str(run), told=told)
    assert snapshot(run) == before


def test_missing_and_unreadable_configs(tmp_path: Path) -> None:
    refused("run", "quickstrat", told=("'quickstrat'", "did you mean 'quickstart'?", "sd15_diffusion_dpo"))
    refused("run", tmp_path / "no.yaml", told=(str(tmp_path / "no.yaml"), "give the path of a YAML file"))
    refused("run", tmp_path, told=("is a folder", "quickstart"))
    (tmp_path / "broken.yaml").write_text("run: [1, 2", encoding="utf-8")
    refused("run", tmp_path / "broken.yaml", told=("broken.yaml", "not readable YAML"))
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    refused("run", tmp_path / "list.yaml", told=("list.yaml", "not a mapping", "run:"))
    (tmp_path / "bytes.yaml").write_bytes(b"run: \x81\x82")
    refused("run", tmp_path / "bytes.yaml", told=("bytes.yaml", "not readable YAML"))


# Prompts


def test_prompts(config: Path, run: Path, tmp_path: Path) -> None:
    before = snapshot(run)
    new = f"run={tmp_path / 'new'}"
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    refused("generate", config, new, "generate.prompts={texts: []}", told=("holds no prompts", "give at least one"))
    refused("generate", config, new, f"generate.prompts={{file: {tmp_path}/empty.txt}}", told=("empty.txt", "holds no prompts"))
    refused("generate", config, new, f"generate.prompts={{file: {tmp_path}/no.txt}}", told=("no.txt", "does not exist", "check the path"))
    refused("generate", config, new, "generate.prompts={texts: [a, ' ']}", told=("prompt 2", "blank", "remove it"))
    refused("generate", config, new, "generate.prompts={file: prompts.pdf}", told=("'prompts.pdf'", ".txt, .jsonl, .json, .csv"))
    long = "a red circle and a blue square and two green stars and a white circle"
    refused(
        "generate",
        config,
        new,
        f"generate.prompts={{texts: [{long}]}}",
        told=("longer than the 8 tokens", long[:40], "long_prompts: truncate"),
    )
    assert not list((tmp_path / "new").rglob("shard-*"))
    call("generate", config, new, f"generate.prompts={{texts: [{long}]}}", "generate.long_prompts=truncate")
    assert snapshot(run) == before


# The model


def test_models(config: Path, tmp_path: Path, tiny_pipeline: Path) -> None:
    new = f"run={tmp_path / 'new'}"
    refused("generate", config, new, "model.source=bundled:shape", told=("'bundled:shape'", "there are: "))
    refused("generate", config, new, "model.backbone=stable_difusion", told=("'stable_difusion'", "did you mean 'stable_diffusion'?"))
    refused("generate", config, new, "model.source=./no/model", told=("'./no/model'", "diffusers folder", ".safetensors", "hub id"))
    refused("generate", config, new, "model.source=nobody/nothing", told=("'nobody/nothing'", "diffusers folder", "hub id"))
    (tmp_path / "empty").mkdir()
    refused("generate", config, new, f"model.source={tmp_path / 'empty'}", told=(str(tmp_path / "empty"), "model_index.json"))
    shutil.copytree(tiny_pipeline, tmp_path / "cut")
    weights = tmp_path / "cut/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused("generate", config, new, f"model.source={tmp_path / 'cut'}", told=(str(tmp_path / "cut"), "damaged"))
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    refused("generate", config, new, f"model.source={tmp_path / 'old.ckpt'}", told=("old.ckpt", "pickle", "convert to .safetensors"))
    refused("generate", config, new, f"model.adapter={tmp_path / 'no_lora'}", told=("no_lora", "does not exist", "hub id"))


def test_single_files(config: Path, tmp_path: Path) -> None:
    folder = save_tiny_stable_diffusion(tmp_path / "sd")
    file = save_original_checkpoint(folder, tmp_path / "alone.safetensors")
    new = f"run={tmp_path / 'new'}"
    refused("generate", config, new, f"model.source={file}", told=("alone.safetensors", "diffusers folder"))
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "part.safetensors")
    refused(
        "generate",
        config,
        new,
        f"model.source={folder / 'part.safetensors'}",
        told=("part.safetensors", "without the weights of a CLIPTextModel", "a file of the whole model"),
    )
    (folder / "cut.safetensors").write_bytes(file.read_bytes()[:5000])
    refused("generate", config, new, f"model.source={folder / 'cut.safetensors'}", told=("cut.safetensors", "damaged"))


def test_no_gpu(config: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        refused(
            "generate", config, f"run={tmp_path / 'new'}", "model.device=cuda", told=("'cuda'", "sees no CUDA device", "model.device=cpu")
        )
        refused("train", config, "train.precision=fp16", told=("'fp16'", "needs a GPU", "'bf16'"))


# Preference sets


def bomb(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it has width × height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a picture", ("chosen/3",)),
        (b"", ("chosen/3", "empty")),
        (picture(1)[:200], ("chosen/3",)),
        (bomb(60_000, 60_000), ("chosen/3", "more than 64,000,000 pixels", "scale it down or drop the row")),
    ],
    ids=["no picture", "empty", "truncated", "decompression bomb"],
)
def test_bad_pictures_are_counted_or_refused(tmp_path: Path, tiny_pipeline: Path, content: bytes, told: tuple[str, ...]) -> None:
    pairs = save_two_folders(tmp_path / "pairs")
    (pairs / "chosen/3.png").write_bytes(content)
    source = {"importer": "two_folders", "path": str(pairs), "max_broken": 0}
    config = write_config(
        tmp_path / "config.yaml",
        {"run": str(tmp_path / "run"), "model": {"source": str(tiny_pipeline)}, "pair": {"source": source, "same_size": False}},
    )
    refused("pair", config, told=("1 of 4 rows are broken", "max_broken=0", "raise max_broken", *told))
    said = call("pair", config, "pair.source.max_broken=1")
    assert "5 kept" in said and "1 broken" in said and all(part in said for part in told)


def test_sets_that_cannot_be_read(tmp_path: Path, tiny_pipeline: Path) -> None:
    config = write_config(tmp_path / "config.yaml", {"run": str(tmp_path / "run"), "model": {"source": str(tiny_pipeline)}})

    def pair(**source: Any) -> str:
        return "pair={source: " + json.dumps(source) + "}"

    refused("pair", config, pair(importer="pickapik", path="x"), told=("'pickapik'", "did you mean 'pickapic'?", "two_folders"))
    refused("pair", config, pair(importer="pickapic", path=str(tmp_path / "no/where")), told=("no/where", "check the path"))
    refused("pair", config, pair(importer="two_folders", path=str(tmp_path / "no")), told=(str(tmp_path / "no"), "'chosen'", "'rejected'"))
    refused("pair", config, pair(importer="pickapic", path="x", max_sample=3), told=("'max_sample'", "did you mean 'max_samples'?"))
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and then nothing")
    refused("pair", config, pair(importer="pickapic", path=str(tmp_path / "set.parquet")), told=("set.parquet", "fetch it again"))
    content = next(save_pickapic(tmp_path / "whole").glob("*.parquet")).read_bytes()
    (tmp_path / "set.parquet").write_bytes(content[:4] + bytes(2000) + content[2004:])  # the footer is whole
    refused(
        "pair", config, pair(importer="pickapic", path=str(tmp_path / "set.parquet")), told=("set.parquet", "damaged", "fetch it again")
    )
    (tmp_path / "table.csv").write_text("prompt,chosen\na,b\n", encoding="utf-8")
    refused("pair", config, pair(importer="table", path=str(tmp_path / "table.csv")), told=("rejected", "found prompt, chosen", "settings"))
    (tmp_path / "urls.csv").write_text("prompt,chosen,rejected\na,https://example.org/a.png,b.png\n", encoding="utf-8")
    refused(
        "pair",
        config,
        pair(importer="table", path=str(tmp_path / "urls.csv")),
        told=("https://example.org/a.png", "never fetched", "relative"),
    )
    assert not list((tmp_path / "run").rglob("shard-*"))


# The road


def test_everything_filtered_out_names_the_rule(config: Path, run: Path) -> None:
    before = comparable(run / "preferences")
    shutil.rmtree(run / "preferences")
    kept = snapshot(run)
    refused("pair", config, "pair.minimum_gap=1e9", told=("minimum_gap=1000000000.0 dropped most", "Gaps observed", "Lower minimum_gap"))
    assert kept.items() <= snapshot(run).items()
    call("pair", config)  # nothing was made, so the corrected setting is welcome
    assert comparable(run / "preferences") == before
    assert "nothing to do" in call("encode", config) or "complete" in call("encode", config)  # it was made from equal preferences


def test_an_imported_set_filtered_out_names_the_rule(tmp_path: Path, tiny_pipeline: Path) -> None:
    source = {"importer": "pickapic", "path": str(save_pickapic(tmp_path / "set", count=6))}
    values = {"run": str(tmp_path / "run"), "model": {"source": str(tiny_pipeline)}, "pair": {"source": source}}
    config = write_config(tmp_path / "config.yaml", values)
    refused("pair", config, told=("same_source", "set same_source to false"))
    candidates = snapshot(tmp_path / "run/candidates")
    call("pair", config, "pair.same_source=false", "pair.same_size=false")
    assert snapshot(tmp_path / "run/candidates") == candidates


@pytest.mark.parametrize(("stage", "needed"), [("score", "generate"), ("pair", "generate"), ("encode", "pair"), ("train", "pair")])
def test_a_stage_before_its_input_names_the_command(config: Path, tmp_path: Path, stage: str, needed: str) -> None:
    refused(stage, config, f"run={tmp_path / 'new'}", told=(f"first: diffalign {needed} CONFIG", "has not run"))


@pytest.mark.parametrize(
    ("stage", "override", "told"),
    [
        ("generate", "generate.steps=2", ("steps", "[1]", "[2]")),
        ("generate", "seed=5", ("seed: was 0, is now 5",)),
        ("pair", "pair.rule=random", ("rule", "best_vs_worst", "random")),
        ("encode", "encode.dtype=float16", ("dtype", "float32", "float16")),
    ],
)
def test_a_changed_config_is_refused_with_the_difference(config: Path, run: Path, stage: str, override: str, told: tuple[str, ...]) -> None:
    before = snapshot(run)
    refused(stage, config, override, told=("made with another configuration", *told, "--redo", "run=..."))
    assert snapshot(run) == before


def test_another_model_in_the_same_run_is_refused(config: Path, run: Path, tmp_path: Path, tiny_pipeline: Path) -> None:
    call("train", config)
    other = other_weights(tiny_pipeline, tmp_path / "other")
    before = snapshot(run)
    refused("train", config, f"model.source={other}", told=("made with another configuration", "model: was", "--redo"))
    evaluate = ["evaluate.prompts={texts: [a red circle]}", "evaluate.steps=1", f"evaluate.models={{theirs: {run / 'train/final'}}}"]
    refused(
        "evaluate", config, f"run={tmp_path / 'new'}", "train=null", f"model.source={other}", *evaluate,
        told=("was trained from", str(tiny_pipeline), str(other), "set model.source"),
    )  # fmt: skip
    refused(
        "evaluate", config, "evaluate.models={theirs: no/checkpoint}", *evaluate[:2], told=("'no/checkpoint'", "evaluate.models.theirs")
    )
    assert snapshot(run) == before


def other_weights(pipeline: Path, target: Path) -> Path:
    """The same pipeline with another number in its denoiser."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(pipeline, target)
    path = target / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1
    save_file(tensors, path, {"format": "pt"})
    return target


# Misfortunes


def test_a_loss_that_is_not_finite_names_its_batch_and_keeps_the_checkpoint(
    config: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffalign.objectives.diffusion_dpo as module

    honest, calls = module.diffusion_dpo, []

    def broken(outputs: Any, *, beta: float = 5000.0) -> Any:
        calls.append(1)
        loss = honest(outputs, beta=beta)
        return type(loss)(loss.value * (float("nan") if len(calls) == 4 else 1.0), loss.margin)  # the first step asks twice

    monkeypatch.setattr(module, "diffusion_dpo", broken)
    earlier = snapshot(run)
    refused("train", config, told=("not finite at step 3", "'a ", "step_000002", "learning_rate (now 0.001)"))
    kept = snapshot(run)
    assert earlier.items() <= kept.items() and (run / "train/checkpoints/step_000002/resume").is_dir()
    call("train", config)  # the checkpoint is good: training goes on from it
    assert len((run / "train/metrics.jsonl").read_text().splitlines()) == 4


def full_disk_in(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], None]:
    """After `count` more flushes to disk, or files of weights, the disk is full; returns what ends that."""
    import safetensors.torch

    flush, save, left = os.fsync, safetensors.torch.serialize_file, [count]

    def spend() -> bool:
        left[0] -= 1
        return left[0] < 0

    def fsync(number: int) -> None:
        if spend():
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(number)

    def serialize_file(*arguments: Any, **options: Any) -> None:
        if spend():  # the words of safetensors 0.8 on a full tmpfs
            raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(*arguments, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(safetensors.torch, "serialize_file", serialize_file)

    def more_space() -> None:
        left[0] = 10**9

    return more_space


def test_a_full_disk_loses_nothing(encoded: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever write hits it, the road goes on with the same command and ends with the same files."""
    call("train", config)
    whole, new = tmp_path / "run", tmp_path / "new"
    arguments = ("run", config, f"run={new}")
    refusals = 0
    for count in (1, 3, 5, 7, 9, 12, 15, 20):
        with monkeypatch.context() as patch:
            full_disk_in(patch, count)
            result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exit_code == 0:
            break
        assert result.exit_code == 1 and "the disk is full" in result.output, result.output
        assert "free some space and run the same command again" in " ".join(result.output.split())
        refusals += 1
    assert refusals >= 3
    call(*arguments)
    for name in ("candidates", "scores", "preferences", "latents", "train/final"):
        assert comparable(new / name) == comparable(whole / name), name
    assert (new / "train/metrics.jsonl").read_bytes() == (whole / "train/metrics.jsonl").read_bytes()


def comparable(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in snapshot(folder).items() if not name.endswith("stage.json")}


def test_an_interrupt_leaves_a_resumable_run(config: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffalign.training.loop as loop

    shutil.copytree(run, tmp_path / "whole")
    call("train", config, f"run={tmp_path / 'whole'}")
    honest, steps = loop._append, []

    def interrupted(path: Path, line: dict[str, float]) -> None:
        honest(path, line)
        steps.append(line["step"])
        if len(steps) == 5:  # two lines a step: in the third
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_append", interrupted)
    assert "resume with the same command" in call("train", config, status=130)
    assert not (run / "train/final").exists()
    said = call("train", config)
    assert "resuming from step 2" in said
    assert comparable(run / "train/final") == comparable(tmp_path / "whole/train/final")
    assert (run / "train/metrics.jsonl").read_bytes() == (tmp_path / "whole/train/metrics.jsonl").read_bytes()


def test_two_runs_in_one_folder(config: Path, run: Path) -> None:
    code = (
        "import sys, pathlib; from pipelines.run_folder import lock_run\n"
        f"with lock_run(pathlib.Path({str(run)!r})): print('locked', flush=True); sys.stdin.read()"
    )
    before = snapshot(run)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        refused("train", config, told=("another run works in", str(run), f"pid {other.pid}", "run=..."))
        assert snapshot(run) == before
    finally:
        other.communicate("", timeout=60)
    call("train", config)


def test_damaged_files_of_the_run(config: Path, run: Path) -> None:
    latents = next((run / "latents").glob("shard-*.safetensors"))
    content = latents.read_bytes()
    latents.write_bytes(content[: len(content) // 2])
    refused("train", config, told=(latents.name, "--redo"))
    latents.write_bytes(content)
    call("train", config)
    record = run / "train/stage.json"
    record.write_text("{", encoding="utf-8")
    refused("train", config, told=("stage.json", "not readable", "--redo"))
