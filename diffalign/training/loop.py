"""The training loop: one straight function for alignment and for pretraining. It alone reduces a loss.

What is trained, and what a batch is, a `Task` says. Everything random is a function of (seed, group, draw), so a killed run resumes to
the same bits, and one process or eight, accumulation or none, train on the same numbers; a dropout mask alone is one of the forward.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from diffalign.training import checkpoint
from diffalign.training.optimizer import build_optimizer, learning_rate_factor
from diffalign.training.randomness import seed_of
from diffalign.training.settings import FREE, Settings
from diffalign.training.tracker import start_tracker
from diffalign.training.visits import Visit, Visits
from diffalign.training.work import Work

PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
PATIENCE = timedelta(hours=12)  # of processes for the first one, which may write tens of GB; NCCL's own is 10 minutes
WHOLE = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)  # every process has all of the model


@dataclass(frozen=True)
class Measured:
    """Losses of the groups of a micro-batch: value (b,) with gradient, weight (b,), and more numbers for metrics.

    numbers  each (b·n,), n draws of a group one after another
    work  what it took; nothing where the task does not count it
    """

    value: Tensor
    weight: Tensor
    numbers: dict[str, Tensor]
    work: Work = field(default_factory=Work)


class Task(Protocol):
    """What a run trains. `modules` maps a name to a module whose parameters with requires_grad are trained.

    difficulty   of each group, larger is harder; None where nothing says so, and then no curriculum is possible
    state        tensors beside the parameters that updates change: a checkpoint keeps them, and a resume fills them in place
    """

    modules: dict[str, nn.Module]
    group_count: int
    identity: dict[str, Any]

    @property
    def difficulty(self) -> Sequence[float] | None: ...

    @property
    def state(self) -> dict[str, Tensor]: ...

    def measure(self, visits: list[Visit]) -> Measured: ...

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        """Metrics of one optimiser step from the gathered numbers of its whole batch, each (B,). Before the update, on every process.

        Raises ValueError where the first step does not show what its maths says.
        """
        ...

    def update(self, step: int) -> None:
        """Called after each update of the parameters, and not on resume: changes `state` as that asks."""
        ...

    def follow(self, step: int, metrics: dict[str, float]) -> None:
        """Called after each update, and on resume with the step and metrics of the checkpoint: what the next step depends on."""
        ...

    def buffer(self) -> dict[str, Tensor]:
        """Data made while training that the next step reads and that could not be made again: checkpoints keep it."""
        ...

    def refill(self, buffer: dict[str, Tensor]) -> None:
        """Called on resume, after `follow`, with the buffer of the checkpoint. ValueError where something is missing."""
        ...

    def warnings(self, history: list[dict[str, float]]) -> dict[str, str]:
        """Sentences to say, by kind; each kind is said once and then counted."""
        ...

    def describe(self, visit: Visit) -> str: ...

    def write(self, folder: Path) -> None:
        """Writes the modules as users load them."""
        ...


class DivergedError(RuntimeError):
    """The loss or its gradient is not finite."""


def train(task: Task, settings: Settings, folder: Path, *, advance: Callable[[int], None] = lambda steps: None,
          logger: logging.Logger | None = None, config: Mapping[str, Any] | None = None,
          stop_after: int | None = None) -> Path:  # fmt: skip
    """Trains to `settings.steps`, resuming from the newest checkpoint in folder; returns folder/final, the weights as users load them.

    Writes folder/metrics.jsonl (one line a step, the same bits after any resume), folder/speed.jsonl (seconds and work), and
    folder/checkpoints/step_N.
    advance(steps) reports progress; the logger gets a line of diagnostics every `log_every` steps.
    config is what the tracker is told of the run, as JSON values; None: the settings.
    stop_after ends the call after that many steps of this call, with a checkpoint (for tests).
    Raises DivergedError on a loss that is not finite; the last good checkpoint stays. ValueError where the device cannot do the precision.
    """
    log = logger or logging.getLogger(__name__)
    accelerator = open_accelerator(task, settings, folder)
    plan = Visits(settings, task.group_count, task.difficulty, accelerator.num_processes)
    parameters = checkpoint.trainable(task.modules)
    optimizer = build_optimizer(list(parameters.values()), settings)
    averages = {name: parameter.detach().clone() for name, parameter in parameters.items()} if settings.ema_decay else {}
    identity = {**task.identity, "settings": settings.model_dump(mode="json", exclude=FREE)}
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for module in task.modules.values() for layer in module.modules()):
        identity["groups per forward"] = plan.micro  # a dropout mask is drawn for a whole forward: another split is another run

    checkpoints = folder / "checkpoints"
    newest, start = checkpoint.latest(checkpoints), 0
    history: list[dict[str, float]] = []
    facts: dict[str, Any] = {}
    if newest is not None:
        facts = checkpoint.read(newest, parameters, optimizer, averages | task.state, identity)
        start = facts["step"]
        task.follow(start, facts["metrics"])
        task.refill(checkpoint.read_buffer(newest))
        log.info(f"resuming from step {start}")
    if accelerator.is_main_process:  # also from step 0: a run killed before its first checkpoint left lines
        history = _truncate(folder / "metrics.jsonl", start)
        if start and not history:
            lost = f"{folder / 'metrics.jsonl'} is lost, and with it the first {start} steps of the log"
            raise ValueError(f"{lost}; put it back, or train again with --redo")
        _truncate(folder / "speed.jsonl", start)
    if start < settings.steps:
        names = list(task.modules)
        *prepared, optimizer = accelerator.prepare(*(task.modules[name] for name in names), optimizer)
        task.modules = dict(zip(names, prepared))
        if newest is not None and accelerator.scaler is not None and facts.get("scaler"):
            accelerator.scaler.load_state_dict(facts["scaler"])
    if settings.tracker and accelerator.is_main_process:
        start_tracker(accelerator, settings, folder, settings.model_dump(mode="json") if config is None else config)
    advance(start)

    said: dict[str, int] = {}
    every = settings.checkpoint_every or max(1, math.ceil(settings.steps / 4))
    last = settings.steps if stop_after is None else min(settings.steps, start + stop_after)
    for module in task.modules.values():
        module.train()
    for step in range(start, last):
        began = time.perf_counter()
        factor = learning_rate_factor(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        collected: list[dict[str, Tensor]] = []
        work = Work()
        visits = plan.at(step)
        for part in range(plan.accumulation):
            first = plan.first(part, accelerator.process_index)
            mine = visits[first : first + plan.micro]
            torch.manual_seed(seed_of(settings.seed, "dropout", step, first))
            with ExitStack() as stack:
                if part + 1 < plan.accumulation:
                    for module in task.modules.values():
                        stack.enter_context(accelerator.no_sync(module))
                with accelerator.autocast():
                    measured = task.measure(mine)
                if not torch.isfinite(measured.value).all():
                    bad = [task.describe(visit) for visit, value in zip(mine, measured.value.tolist()) if not math.isfinite(value)]
                    raise DivergedError(_diverged("loss", step, bad, checkpoints, settings))
                total = (measured.value * measured.weight).sum() / settings.batch_size
                accelerator.backward(total * accelerator.num_processes)
            collected.append(measured.numbers)
            work.add(measured.work)
        norm = _clip(accelerator, list(parameters.values()), settings)
        # Under fp16 an overflow is expected: the step is skipped and the scale halved. At a scale of 1 it is no overflow any more.
        if not math.isfinite(norm) and (accelerator.scaler is None or accelerator.scaler.get_scale() <= 1):
            raise DivergedError(_diverged("gradient norm", step, [task.describe(visit) for visit in visits[:4]], checkpoints, settings))
        numbers = _gather(accelerator, collected)
        metrics = {"step": step + 1, **task.summarise(numbers), "lr": settings.learning_rate * factor}
        if math.isfinite(norm):  # JSON has no infinity
            metrics["grad_norm"] = norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, average in averages.items():
            average.lerp_(parameters[name].detach(), 1 - min(settings.ema_decay or 0, (1 + step) / (10 + step)))
        task.update(step + 1)
        task.follow(step + 1, metrics)
        history.append(metrics)

        if accelerator.is_main_process:
            _append(folder / "metrics.jsonl", metrics)
            seconds = time.perf_counter() - began
            speed = {"step": step + 1, "seconds": seconds, "groups_per_second": settings.batch_size / seconds}
            passes = {name: count * accelerator.num_processes for name, count in asdict(work).items() if work.forwards}
            _append(folder / "speed.jsonl", speed | passes)
            if settings.tracker:
                accelerator.log({key: value for key, value in metrics.items() if key != "step"}, step=step + 1)
            if (step + 1) % settings.log_every == 0:
                log.info(_line(metrics, settings.steps))
            for kind, sentence in task.warnings(history).items():
                if kind not in said:
                    log.warning(f"step {step + 1}: {sentence}")
                said[kind] = said.get(kind, 0) + 1
        advance(1)
        if (step + 1) % every == 0 or step + 1 == last:
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                target = checkpoints / f"step_{step + 1:06d}"
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                facts = {"step": step + 1, "metrics": metrics, "identity": identity, "scaler": scaler}
                kept = averages | task.state
                checkpoint.write(
                    target, parameters, _inner(optimizer), kept, facts, task.buffer(),
                    lambda path: _write_weights(task, parameters, averages, path),
                )  # fmt: skip
                checkpoint.forget_resume_state(checkpoints, keep=target)
                if settings.keep_checkpoints is not None:
                    checkpoint.forget_older(checkpoints, settings.keep_checkpoints)
            accelerator.wait_for_everyone()
    for kind, count in said.items():
        if count > 1:
            log.warning(f"{kind}: seen in {count} steps")
    for tracker in accelerator.trackers:  # not `end_training`, which also ends the process group that we still need
        tracker.finish()
    final = folder / "final"
    if last == settings.steps and accelerator.is_main_process:
        _publish(checkpoints / f"step_{settings.steps:06d}", final)
    accelerator.wait_for_everyone()
    task.modules = {name: accelerator.unwrap_model(module, keep_fp32_wrapper=False) for name, module in task.modules.items()}
    return final


def open_accelerator(task: Task, settings: Settings, folder: Path) -> Accelerator:
    """Accelerate on the device that the modules are on.

    ValueError where it works on another one or in another way than with a whole model in each process, or cannot do the precision.
    """
    device = next(parameter.device for module in task.modules.values() for parameter in module.parameters())
    if settings.precision == "fp16" and device.type == "cpu":
        raise ValueError("precision 'fp16' needs a GPU, and the model is on the CPU; use precision 'bf16' or 'fp32' there")
    # The state is one per process; a second training with another precision would be refused.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=PRECISION[settings.precision], log_with=settings.tracker, project_dir=folder, cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )  # fmt: skip
    if accelerator.distributed_type not in WHOLE:
        # Clipping, averages and checkpoints hold the parameters from before `prepare`, which FSDP and DeepSpeed put others in the place of.
        raise ValueError(
            f"accelerate is set to {accelerator.distributed_type.value}; a run takes {', '.join(way.value for way in WHOLE)}, each process "
            f"with the whole model: choose no FSDP, DeepSpeed or the like in `accelerate config`; for memory, train.lora or model.quantise"
        )
    if accelerator.device.type != device.type:
        raise ValueError(
            f"the model is on {device}, accelerate works on {accelerator.device}; load the model there, or set ACCELERATE_USE_CPU=1"
        )
    return accelerator


def _clip(accelerator: Accelerator, parameters: list[nn.Parameter], settings: Settings) -> float:
    limit = settings.clip_norm if settings.clip_norm is not None else math.inf
    return float(accelerator.clip_grad_norm_(parameters, limit))


def _gather(accelerator: Accelerator, collected: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Numbers of the whole batch on every process, float32 on the CPU, in one collective."""
    names = list(collected[0])
    stacked = torch.cat([torch.stack([part[name].detach().float() for name in names]) for part in collected], 1)
    gathered = accelerator.gather(stacked.T.contiguous()).T.cpu() if accelerator.num_processes > 1 else stacked.cpu()
    return dict(zip(names, gathered))


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)


def _append(path: Path, line: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _truncate(path: Path, steps: int) -> list[dict[str, float]]:
    """Cuts a log back to its first `steps` lines: what a killed run wrote after its last checkpoint is written again."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()[:steps]
    if len(lines) < steps:
        raise ValueError(f"{path} has {len(lines)} lines and the checkpoint is of step {steps}: its end was lost; train again with --redo")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line + "\n" for line in lines))
    partial.replace(path)
    return [json.loads(line) for line in lines]


def _write_weights(task: Task, parameters: dict[str, nn.Parameter], averages: dict[str, Tensor], folder: Path) -> None:
    """Writes the moving averages where there are any, else the weights as they are."""
    kept = {name: parameters[name].detach().clone() for name in averages}
    with torch.no_grad():
        for name, average in averages.items():
            parameters[name].copy_(average)
        task.write(folder)
        for name, value in kept.items():
            parameters[name].copy_(value)


def _publish(source: Path, final: Path) -> None:
    """folder/final: the last checkpoint's weights, without its optimiser state; swapped in whole."""
    import shutil

    partial = final.with_name(".final.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("resume"))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)


def _diverged(what: str, step: int, groups: list[str], checkpoints: Path, settings: Settings) -> str:
    newest = checkpoint.latest(checkpoints)
    kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was written yet"
    return (
        f"{what} is not finite at step {step + 1}, in groups {', '.join(groups[:8])}; {kept}. "
        f"Train again, with --redo or in another run folder (run=...): lower learning_rate (now {settings.learning_rate:g}) or beta, "
        f"or use precision: fp32 (now {settings.precision})"
    )


def _line(metrics: dict[str, float], steps: int) -> str:
    shown = ("loss", "rewards/accuracies", "rewards/margins", "win_adv", "lose_adv", "grad_norm", "lr")
    numbers = "  ".join(f"{name.split('/')[-1]} {metrics[name]:.3g}" for name in shown if name in metrics)
    return f"step {metrics['step']}/{steps}: {numbers}"
