"""A run that was stopped or killed and resumed is the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import FAST, assert_same_run, make_task, metrics

from diffalign.training import checkpoint
from diffalign.training.alignment import Sampling
from diffalign.training.loop import train
from diffalign.training.lora import Lora
from diffalign.training.reference import ReferenceSettings
from diffalign.training.settings import Settings

INITIAL, AVERAGE, STAGE = ReferenceSettings(), ReferenceSettings(name="ema", decay=0.5), ReferenceSettings(name="previous_stage")
STAGES = {"order": {"name": "curriculum", "stages": 3, "cumulative": False}}
VARIANTS = {
    "full": ({"ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 2}, None, INITIAL),
    "lora": ({"ema_decay": 0.9, "schedule": "linear"}, Lora(rank=2, dropout=0.3), INITIAL),
    "adafactor": ({"optimizer": "adafactor"}, None, INITIAL),
    "bf16": ({"precision": "bf16", "gradient_checkpointing": True}, Lora(rank=2), INITIAL),
    "average": ({"ema_decay": 0.9}, None, AVERAGE),
    "average, lora": ({"precision": "bf16"}, Lora(rank=2, dropout=0.3), AVERAGE),
    "on policy": ({}, Lora(rank=2, dropout=0.3), ReferenceSettings(name="on_policy")),
    "previous stage": (STAGES, None, STAGE),
    "previous stage, lora": (STAGES, Lora(rank=2), STAGE),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_resumes_to_the_same_bits(variant: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    changes, lora, reference = VARIANTS[variant]
    settings = Settings(**{**FAST, **changes})
    sampling = Sampling(prompt_dropout=0.3, flip=0.5)

    def run(folder: Path, stop_after: int | None = None) -> None:
        task = make_task(tiny_pipeline, tiny_road, lora=lora, sampling=sampling, reference=reference, settings=settings)
        train(task, settings, folder, stop_after=stop_after)

    run(tmp_path / "whole")
    for stop in (1, 3, None):
        run(tmp_path / "parts", stop)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert [line["step"] for line in metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    run(tmp_path / "parts")  # a finished run has nothing to do
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_lines_after_the_last_checkpoint_are_written_again(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """What a kill leaves: lines beyond the newest checkpoint, a torn line, and, before the first checkpoint, lines without any."""
    settings = Settings(**FAST)
    train(make_task(tiny_pipeline, tiny_road), settings, tmp_path / "whole")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo')
    train(make_task(tiny_pipeline, tiny_road), settings, parts, stop_after=2)
    assert [line["step"] for line in metrics(parts)] == [1, 2]
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9}\n{"step": 4, "lo')
    (parts / "checkpoints/.step_000004.partial/resume").mkdir(parents=True)
    train(make_task(tiny_pipeline, tiny_road), settings, parts)
    assert_same_run(tmp_path / "whole", parts)


def _start(pipeline: Path, road: Path, folder: Path, **options: object) -> subprocess.Popen:
    script = Path(__file__).with_name("training_runs.py")
    command = [sys.executable, str(script), str(pipeline), str(road), str(folder), json.dumps(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("reference", [INITIAL, AVERAGE], ids=lambda reference: reference.name)
def test_a_killed_run_resumes_to_the_same_bits(reference: ReferenceSettings, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """SIGKILL in another process after its third step; resumed in this one."""
    process = _start(tiny_pipeline, tiny_road, tmp_path / "killed", slow=0.2, reference=reference.model_dump())
    assert process.stdout is not None
    with process.stdout:
        for _ in range(4):  # one line for where it starts, then one a step
            assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/final").exists()
    assert len(metrics(tmp_path / "killed")) >= 3
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("killed", "whole"):
            train(make_task(tiny_pipeline, tiny_road, reference=reference), Settings(**FAST), tmp_path / name)
    finally:
        torch.set_num_threads(threads)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_checkpoints_hold_safetensors_and_json_alone(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    train(make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2)), Settings(**FAST, ema_decay=0.9), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl"}
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000002", "step_000004", "step_000006"]
    assert [path.parent.name for path in tmp_path.rglob("resume")] == ["step_000006"]  # only the newest keeps its optimiser state
    assert not (tmp_path / "final/resume").exists() and (tmp_path / "final/pytorch_lora_weights.safetensors").exists()
    assert json.loads((tmp_path / "final/reference.json").read_text())["kind"] == "lora"


def test_a_checkpoint_of_another_run_is_refused(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    settings = Settings(**FAST)
    train(make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2)), settings, tmp_path, stop_after=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"settings\.learning_rate: checkpoint has 0\.001, this run 0\.002.*--redo"):
        train(make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2)), settings.model_copy(update={"learning_rate": 2e-3}), tmp_path)
    with pytest.raises(ValueError, match="another LoRA rank"):
        train(make_task(tiny_pipeline, tiny_road, lora=Lora(rank=3)), settings, tmp_path)
    with pytest.raises(ValueError, match="kind: checkpoint has 'lora', this run 'full'"):
        train(make_task(tiny_pipeline, tiny_road), settings, tmp_path)
    other = make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2))
    other.identity["base"] = "0123456789abcdef"
    with pytest.raises(ValueError, match="base: checkpoint has"):
        train(other, settings, tmp_path)
    fewer = make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2))
    del fewer.identity["kind"]
    with pytest.raises(ValueError, match="kind: checkpoint has 'lora', this run None"):
        train(fewer, settings, tmp_path)
    # What does not change the numbers may change: how often a line is shown, the tracker, the split into micro-batches.
    train(
        make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2)),
        settings.model_copy(update={"log_every": 1, "micro_batch_size": 2}),
        tmp_path,
        stop_after=1,
    )
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)


def test_another_split_of_a_batch_with_dropout_is_another_run(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """A dropout mask is drawn for a whole forward, so groups per forward are a part of what is computed."""
    settings = Settings(**FAST)
    lora = Lora(rank=2, dropout=0.2)
    train(make_task(tiny_pipeline, tiny_road, lora=lora), settings, tmp_path, stop_after=2)
    with pytest.raises(ValueError, match="groups per forward: checkpoint has 4, this run 2"):
        train(make_task(tiny_pipeline, tiny_road, lora=lora), settings.model_copy(update={"micro_batch_size": 2}), tmp_path)


def test_a_log_that_lost_its_end_is_not_continued(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    settings = Settings(**FAST)
    train(make_task(tiny_pipeline, tiny_road), settings, tmp_path, stop_after=2)
    (tmp_path / "metrics.jsonl").write_text((tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match=r"metrics\.jsonl has 1 lines and the checkpoint is of step 2: its end was lost.*--redo"):
        train(make_task(tiny_pipeline, tiny_road), settings, tmp_path)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_checkpoints_at_other_steps_are_the_same_run(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """Also of one begun when that was a setting of the run."""
    settings = Settings(**FAST)
    train(make_task(tiny_pipeline, tiny_road), settings, tmp_path / "whole")
    train(make_task(tiny_pipeline, tiny_road), settings, tmp_path / "parts", stop_after=2)
    file = tmp_path / "parts/checkpoints/step_000002/resume/facts.json"
    facts = json.loads(file.read_text())
    assert "checkpoint_every" not in facts["identity"]["settings"]
    facts["identity"]["settings"]["checkpoint_every"] = 2
    file.write_text(json.dumps(facts))
    train(make_task(tiny_pipeline, tiny_road), settings.model_copy(update={"checkpoint_every": 5}), tmp_path / "parts")
    assert kept(tmp_path / "parts") == ["step_000002", "step_000005", "step_000006"]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_older_checkpoints_go_when_a_new_one_is_there(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    whole, few = Settings(**FAST), Settings(**FAST | {"checkpoint_every": 1, "keep_checkpoints": 2})
    train(make_task(tiny_pipeline, tiny_road), whole, tmp_path / "whole")
    train(make_task(tiny_pipeline, tiny_road), whole, tmp_path / "parts", stop_after=3)
    assert kept(tmp_path / "parts") == ["step_000002", "step_000003"]
    (tmp_path / "parts/checkpoints/.step_000001.partial").mkdir()  # as a kill leaves it
    for stop, found in ((1, ["step_000003", "step_000004"]), (None, ["step_000005", "step_000006"])):
        train(make_task(tiny_pipeline, tiny_road), few, tmp_path / "parts", stop_after=stop)
        assert kept(tmp_path / "parts") == found
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("done", [0, 1])
def test_killed_while_older_checkpoints_go_there_is_no_half_of_one(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `done` folders, and a part of the next: what is called a checkpoint is whole, and the next deletion takes the rest."""
    for step in range(1, 5):
        (tmp_path / f"step_{step:06d}/unet").mkdir(parents=True)
        (tmp_path / f"step_{step:06d}/unet/weights.safetensors").touch()
    (tmp_path / "step_000004/resume").mkdir()
    (tmp_path / "step_000004/resume/facts.json").touch()
    delete, deleted = shutil.rmtree, []

    def killed(path: Path) -> None:
        if len(deleted) == done:
            (path / "unet/weights.safetensors").unlink()
            raise KeyboardInterrupt
        delete(path)
        deleted.append(path)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.forget_older(tmp_path, 1)
    left = list(tmp_path.glob("step_*"))
    assert len(left) == 3 - done and all((path / "unet/weights.safetensors").exists() for path in left)
    assert checkpoint.latest(tmp_path) == tmp_path / "step_000004"
    monkeypatch.undo()
    checkpoint.forget_older(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000004"]


@pytest.mark.parametrize("name", ["facts.json", "parameters.safetensors", "optimizer.safetensors", "averages.safetensors"])
def test_a_damaged_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    parameters = {"linear.weight": torch.nn.Parameter(torch.ones(2, 2))}
    optimizer = torch.optim.AdamW(parameters.values())
    parameters["linear.weight"].grad = torch.ones(2, 2)
    optimizer.step()
    averages = {key: value.detach().clone() for key, value in parameters.items()}
    checkpoint.write(tmp_path / "step_1", parameters, optimizer, averages, {"step": 1, "identity": {}}, {}, lambda folder: None)
    assert checkpoint.read(tmp_path / "step_1", parameters, optimizer, averages, {})["step"] == 1
    path = tmp_path / "step_1/resume" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"step_1/resume is damaged .*put it back, or train again from the start with --redo"):
        checkpoint.read(tmp_path / "step_1", parameters, optimizer, averages, {})


@pytest.mark.long
def test_twenty_random_kills(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """20 × `python -m pipelines.cli train`, killed at a random moment of its steps, run again to the end: prints how many matched."""
    import random

    from train_road import config_file, until_encode

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def command(run: Path, index: int) -> list[str]:
        adapter = ["train.lora.rank=2", "train.lora.dropout=0.2"] if index % 2 else []
        return [
            sys.executable,
            "-m",
            "pipelines.cli",
            "train",
            str(config_file(run, tiny_pipeline)),
            "train.steps=40",
            "train.checkpoint_every=7",
            *adapter,
        ]

    def finish(run: Path, index: int) -> None:
        result = subprocess.run(command(run, index), env=environment, check=False, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr

    wholes = []
    for index in range(2):
        until_encode(tmp_path / f"whole{index}", tiny_pipeline, tiny_road)
        finish(tmp_path / f"whole{index}", index)
        wholes.append(tmp_path / f"whole{index}/train")
    matched, at = 0, []
    draw = random.Random(0)
    for index in range(20):
        run = tmp_path / f"run{index}"
        until_encode(run, tiny_pipeline, tiny_road)
        process = subprocess.Popen(command(run, index), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = run / "train/metrics.jsonl"
        while not log.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 2.5))
        process.kill()
        process.wait()
        at.append(len(log.read_text().splitlines()) if log.exists() else 0)
        finish(run, index)
        assert_same_run(wholes[index % 2], run / "train")
        matched += 1
        shutil.rmtree(run)
    print(f"{matched} of 20 killed runs resumed to the same bits; killed after steps {sorted(at)}")
    assert matched == 20
