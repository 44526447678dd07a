"""The loop: a batch is a batch however it is split, what it reduces, the averages, the precisions, and how it stops."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from training_runs import FAST, make_task, metrics, weights

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.tensors import Loss, Outputs
from diffalign.training import checkpoint
from diffalign.training.loop import PATIENCE, DivergedError, train
from diffalign.training.lora import Lora
from diffalign.training.reference import ReferenceSettings
from diffalign.training.settings import Settings
from diffalign.training.visits import split

# Adam divides by √v: a large ε keeps gradients near 0 from turning their rounding into whole steps.
SMOOTH = FAST | {"batch_size": 8, "adam_epsilon": 1e-2}


def assert_close_runs(one: Path, two: Path, tolerance: float = 1e-5) -> None:
    """Metrics and resulting weights agree to float32 rounding."""
    first, second = metrics(one), metrics(two)
    assert len(first) == len(second) == 6
    for a, b in zip(first, second):
        assert set(a) == set(b)
        for name in a:
            # A margin or reward is β/2 = 50 times a difference of errors near 1, whose rounding is 1e-7 and more after some steps.
            rounding = 1e-4 if any(word in name for word in ("margins", "wanted", "logit")) else 2e-6
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=rounding), (a["step"], name)
    for path in (one / "final").rglob("*.safetensors"):
        a, b = load_file(path), load_file(two / "final" / path.relative_to(one / "final"))
        for name in a:
            assert (a[name] - b[name]).abs().max() < tolerance, name


INITIAL, AVERAGE, POLICY = ReferenceSettings(), ReferenceSettings(name="ema", decay=0.5), ReferenceSettings(name="on_policy")


@pytest.mark.parametrize("reference", [INITIAL, AVERAGE, POLICY], ids=lambda reference: reference.name)
@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_eight_at_once_are_two_four_times(
    lora: Lora | None, reference: ReferenceSettings, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path
) -> None:
    for micro in (None, 2):
        task = make_task(tiny_pipeline, tiny_road, lora=lora, reference=reference)
        train(task, Settings(**SMOOTH, micro_batch_size=micro), tmp_path / str(micro))
    assert_close_runs(tmp_path / "None", tmp_path / "2")


def launch(processes: int, pipeline: Path, road: Path, folder: Path, **options: object) -> None:
    """Starts the processes as a launcher does, by their environment; the launcher itself is tested with the stage train."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
    }  # fmt: skip
    script = Path(__file__).with_name("training_runs.py")
    command = [sys.executable, str(script), str(pipeline), str(road), str(folder), json.dumps(options)]
    started = []
    for rank in map(str, range(processes)):
        environment = shared | {"RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            _, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.integration
@pytest.mark.parametrize("reference", [INITIAL, AVERAGE], ids=lambda reference: reference.name)
def test_two_processes_are_one(reference: ReferenceSettings, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """On gloo, with a tracker, which must not end the process group before the run has ended."""
    settings = SMOOTH | {"tracker": "tensorboard", "micro_batch_size": 2}
    launch(2, tiny_pipeline, tiny_road, tmp_path / "two", settings=settings, lora={"rank": 2}, reference=reference.model_dump())
    train(make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2), reference=reference), Settings(**settings), tmp_path / "one")
    assert_close_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_one_two_and_four_processes_agree(lora: dict | None, processes: int, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    launch(processes, tiny_pipeline, tiny_road, tmp_path / "many", settings=SMOOTH, lora=lora)
    train(make_task(tiny_pipeline, tiny_road, lora=Lora(**lora) if lora else None), Settings(**SMOOTH), tmp_path / "one")
    assert_close_runs(tmp_path / "one", tmp_path / "many")


@pytest.mark.integration
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("objective", "order", "metric"),
    [("diffusion_kto", "shuffle", "rewards/wanted"), ("diffusion_dpo", {"name": "curriculum", "stages": 3}, "rewards/margins")],
    ids=["auc", "curriculum"],
)
def test_what_needs_the_whole_batch_or_its_order_is_the_same_on_many_processes(
    objective: str, order: Any, metric: str, processes: int, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path
) -> None:
    """The AUC of samples judged one by one compares those of all processes; a curriculum's pool is cut over them."""
    settings = SMOOTH | {"order": order}
    launch(processes, tiny_pipeline, tiny_road, tmp_path / "many", objective=objective, settings=settings)
    train(make_task(tiny_pipeline, tiny_road, objective=objective), Settings(**settings), tmp_path / "one")
    assert_close_runs(tmp_path / "one", tmp_path / "many")
    assert all({"rewards/accuracies", metric} <= set(step) for step in metrics(tmp_path / "many"))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert split(Settings(batch_size=32), 4) == (8, 1)
    assert split(Settings(batch_size=32, micro_batch_size=4), 2) == (4, 4)
    with pytest.raises(
        ValueError, match="batch_size 32 is not a multiple of micro_batch_size 5 × 2 processes; set batch_size to a multiple of 10"
    ):
        split(Settings(batch_size=32, micro_batch_size=5), 2)
    with pytest.raises(ValueError, match="batch_size 2 is not a multiple of micro_batch_size 1 × 4 processes"):
        split(Settings(batch_size=2), 4)


def test_row_weights_scale_the_gradient(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    norms = {}
    for weight in (0.0, 1.0, 3.0):
        task = make_task(tiny_pipeline, tiny_road)
        task.groups.preferences = [replace(row, weight=weight) for row in task.groups.preferences]
        train(task, Settings(**FAST, clip_norm=None), tmp_path / str(weight), stop_after=1)
        norms[weight] = metrics(tmp_path / str(weight))[0]["grad_norm"]
    assert norms[0.0] == 0 < norms[1.0]
    assert norms[3.0] == pytest.approx(3 * norms[1.0], rel=1e-4)


def test_the_averages_are_their_formula(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """a ← d·a + (1 − d)·w with d = min(decay, (1 + n)/(10 + n)) after n updates; the result holds a, the run goes on from w."""
    settings = Settings(**FAST | {"steps": 3, "checkpoint_every": 1, "ema_decay": 0.15})
    average = weights(make_task(tiny_pipeline, tiny_road))
    for step, decay in enumerate((1 / 10, 0.15, 0.15)):
        task = make_task(tiny_pipeline, tiny_road)
        train(task, settings, tmp_path, stop_after=1)
        now = weights(task)
        average = {name: decay * value + (1 - decay) * now[name] for name, value in average.items()}
        saved = load_file(tmp_path / f"checkpoints/step_{step + 1:06d}/unet/diffusion_pytorch_model.safetensors")
        for name, value in average.items():
            assert torch.allclose(saved[name], value, atol=1e-6), name
    assert max(float((average[name] - now[name]).abs().max()) for name in now) > 1e-5


def test_gradient_checkpointing_gives_the_same_gradient(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    for checkpointing in (False, True):
        task = make_task(tiny_pipeline, tiny_road)
        if checkpointing:
            task.modules["denoiser"].enable_gradient_checkpointing()  # type: ignore[operator]
        train(task, Settings(**SMOOTH), tmp_path / str(checkpointing))
    assert_close_runs(tmp_path / "False", tmp_path / "True", tolerance=1e-6)


def test_under_bf16_errors_and_objective_are_float32(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2))
    seen = []

    def objective(outputs: Outputs) -> Loss:
        seen.append((outputs.error.dtype, outputs.reference_error.dtype, torch.is_autocast_enabled("cpu"), outputs.policy.detach()))
        return diffusion_dpo(outputs, beta=100.0)

    task.objective = objective
    train(task, Settings(**FAST, precision="bf16"), tmp_path, stop_after=2)
    assert [entry[:3] for entry in seen] == [(torch.float32, torch.float32, False)] * 3  # the first step also looks at the reference
    rounded = seen[0][3].to(torch.bfloat16).to(seen[0][3].dtype)
    assert torch.equal(rounded, seen[0][3])  # the forward itself did run in bf16
    assert all(parameter.dtype == torch.float32 for parameter in checkpoint.trainable(task.modules).values())
    # Another precision in the same process is another run, not a refusal.
    train(make_task(tiny_pipeline, tiny_road), Settings(**FAST), tmp_path / "fp32", stop_after=1)


def test_fp16_on_a_cpu_is_refused(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision 'fp16' needs a GPU, and the model is on the CPU; use precision 'bf16' or 'fp32' there"):
        train(make_task(tiny_pipeline, tiny_road), Settings(**FAST, precision="fp16"), tmp_path)


@pytest.mark.parametrize("way", [DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM])
def test_a_model_in_parts_is_refused(
    way: DistributedType, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: way))
    with pytest.raises(ValueError, match=rf"accelerate is set to {way.value}; a run takes NO, MULTI_GPU, MULTI_CPU, .*choose no FSDP"):
        train(make_task(tiny_pipeline, tiny_road), Settings(**FAST), tmp_path)


@pytest.mark.integration
def test_processes_wait_for_hours_for_the_first(tmp_path: Path) -> None:
    """In the process group itself, of the loop and of the stage, which opens it before: a checkpoint may take longer than 10 minutes."""
    code = """
import sys, torch.distributed
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from torch import nn
from diffalign.training.loop import PATIENCE, Settings, open_accelerator
import pipelines.train
if sys.argv[1] == "loop":
    open_accelerator(SimpleNamespace(modules={"one": nn.Linear(1, 1)}), Settings(tracker=None), Path(sys.argv[2]))
else:
    pipelines.train.section_of = lambda config: None  # which the stage stumbles over behind the group's opening
    with suppress(AttributeError):
        pipelines.train.run(SimpleNamespace(model=SimpleNamespace(device="cpu")), progress=None)
group = torch.distributed.group.WORLD
assert group._get_backend(torch.device("cpu")).options._timeout == PATIENCE, group
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    environment = os.environ | alone | {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for which in ("loop", "stage"):
        done = subprocess.run(
            [sys.executable, "-c", code, which, str(tmp_path)], env=environment, check=False, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert timedelta(hours=1) < PATIENCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_and_resumes(
    precision: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and Adam's moments after a resume, to 2 % of how far they moved (a GPU's sums are not exact); the loss scale exactly."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)  # the other tests stay on the CPU
    settings = Settings(**FAST, precision=precision)  # type: ignore[arg-type]

    def run(folder: Path, stop_after: int | None = None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], object]:
        task = make_task(tiny_pipeline, tiny_road, lora=Lora(rank=2))
        start = {name: value.cpu() for name, value in weights(task).items()}
        task.modules["denoiser"].to("cuda")
        train(task, settings, folder, stop_after=stop_after)
        newest = checkpoint.latest(folder / "checkpoints")
        assert newest is not None
        moved = {name: value.cpu() - start[name] for name, value in weights(task).items()}
        return moved, load_file(newest / "resume/optimizer.safetensors"), json.loads((newest / "resume/facts.json").read_text())["scaler"]

    whole, whole_moments, whole_scaler = run(tmp_path / "whole")
    run(tmp_path / "parts", 3)
    parts, parts_moments, parts_scaler = run(tmp_path / "parts")
    assert whole_scaler == parts_scaler
    for one, two in ((whole, parts), (whole_moments, parts_moments)):
        for name, value in one.items():
            assert (value - two[name]).norm() <= 0.02 * value.norm() + 1e-8, name


def _not_finite_at(step: int, kind: str):
    """An objective that breaks at one call: its value, or only its gradient."""
    calls = 0

    def objective(outputs: Outputs) -> Loss:
        nonlocal calls
        calls += torch.is_grad_enabled()  # not the look at the reference before the first step
        loss = diffusion_dpo(outputs, beta=100.0)
        if calls != step:
            return loss
        if kind == "gradient norm":
            return Loss(loss.value + (loss.margin - loss.margin.detach()).abs().sqrt(), loss.margin)
        return Loss(torch.where(torch.arange(len(loss.value)) == 1, torch.nan, loss.value), loss.margin)

    return objective


@pytest.mark.parametrize("kind", ["loss", "gradient norm"])
def test_a_run_that_diverges_stops_and_keeps_its_last_checkpoint(kind: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road)
    task.objective = _not_finite_at(4, kind)
    with pytest.raises(DivergedError) as stopped:
        train(task, Settings(**FAST), tmp_path)
    message = str(stopped.value)
    assert message.startswith(f"{kind} is not finite at step 4, in groups g")
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/step_000002'}" in message
    assert "with --redo or in another run folder (run=...): lower learning_rate (now 0.001) or beta" in message
    if kind == "loss":  # the one group whose loss it was, by id and prompt
        from diffalign.training.randomness import Order

        group, _ = Order(12, 0).at(3 * 4 + 1)
        assert f"in groups {task.groups.describe(group)};" in message
    assert not (tmp_path / "final").exists()
    train(make_task(tiny_pipeline, tiny_road), Settings(**FAST), tmp_path)  # the checkpoint is good
    train(make_task(tiny_pipeline, tiny_road), Settings(**FAST), tmp_path / "whole")
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_first_step_that_diverges_says_that_there_is_no_checkpoint(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road)
    task.objective = _not_finite_at(1, "loss")
    with pytest.raises(DivergedError, match=r"not finite at step 1, .*no checkpoint was written yet"):
        train(task, Settings(**FAST), tmp_path)


def test_a_warning_is_said_once_and_then_counted(
    tiny_pipeline: Path, tiny_road: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(tiny_pipeline, tiny_road)
    task.warnings = lambda history: {"kind": "a sentence"} if len(history) > 2 else {}  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        train(task, Settings(**FAST), tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["step 3: a sentence", "kind: seen in 4 steps"]


def test_metrics_reach_the_tracker(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(make_task(tiny_pipeline, tiny_road), Settings(**FAST | {"tracker": "tensorboard"}), tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for step in (5, 999_999, 1_000_000):
        (tmp_path / f"step_{step:06d}/resume").mkdir(parents=True)
        (tmp_path / f"step_{step:06d}/resume/facts.json").write_text("{}")
    assert checkpoint.latest(tmp_path) == tmp_path / "step_1000000"
