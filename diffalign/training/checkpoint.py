"""Exact state of a run in safetensors and JSON: no pickle, atomic, and the reference's identity beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffalign.training.settings import FREE


def trainable(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by "module.parameter", in a fixed order."""
    return {
        f"{key}.{name}": parameter
        for key, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _flatten(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, rest = {}, {}
    for index, state in optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
            else:
                rest[f"{index}.{key}"] = value
    return tensors, rest


def _unflatten(tensors: dict[str, Tensor], rest: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}


def write(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, averages: dict[str, Tensor],
          facts: dict[str, Any], buffer: dict[str, Tensor], write_weights: Callable[[Path], None]) -> None:  # fmt: skip
    """Writes one checkpoint; it appears whole or not at all.

    folder/            the weights as users load them (`write_weights` puts them there, in the diffusers layout)
    folder/resume/     trained parameters, optimiser state, averages (and what else follows the parameters), the task's buffer, facts.json
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "resume").mkdir(parents=True)
    write_weights(partial)
    tensors, rest = _flatten(optimizer.state_dict())
    save_file(
        {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}, partial / "resume/parameters.safetensors"
    )
    save_file(tensors, partial / "resume/optimizer.safetensors")
    if averages:
        save_file({name: average.cpu().contiguous() for name, average in averages.items()}, partial / "resume/averages.safetensors")
    if buffer:
        save_file({name: value.cpu().contiguous() for name, value in buffer.items()}, partial / "resume/buffer.safetensors")
    (partial / "resume/facts.json").write_text(json.dumps({**facts, "optimizer": rest}, indent=1))
    # On disk before it has its name: the older checkpoint's state is deleted next, and a power cut must not take both.
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    """The file's content, or the folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in folder that can be resumed, or None."""
    found = [path.parent.parent for path in folder.glob("step_*/resume/facts.json")]
    return max(found, key=_step, default=None)


def forget_resume_state(folder: Path, keep: Path) -> None:
    """Deletes the optimiser state of all checkpoints but `keep`: their weights stay."""
    for path in folder.glob("step_*/resume"):
        if path.parent != keep:
            shutil.rmtree(path)


def forget_older(folder: Path, count: int) -> None:
    """Deletes all checkpoints but the newest `count`, each under another name first: killed in between, it leaves no half of one."""
    for path in folder.glob(".step_*.partial"):  # what a kill left
        shutil.rmtree(path)
    for path in sorted(folder.glob("step_*"), key=_step)[:-count]:
        gone = path.with_name(f".{path.name}.partial")
        path.replace(gone)
        shutil.rmtree(gone)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as "outer.inner" → value, values as JSON gives them back, so that a difference can be named by its key."""
    found: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(values)).items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


@contextmanager
def _damage_is_clear(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged ({error}); put it back, or train again from the start with --redo") from error


def read(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, averages: dict[str, Tensor],
         identity: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    """Restores what `write` wrote, bit for bit, and returns its facts. ValueError where it is of another model or reference, or damaged."""
    resume = folder / "resume"
    with _damage_is_clear(resume):
        facts = json.loads((resume / "facts.json").read_text(encoding="utf-8"))
    stored_identity, own = _leaves(facts["identity"]), _leaves(identity)
    for name in FREE:  # earlier releases held fewer of them to be free
        stored_identity.pop(f"settings.{name}", None)
    differences = [
        f"{key}: checkpoint has {stored_identity.get(key)!r}, this run {own.get(key)!r}"
        for key in dict.fromkeys([*own, *stored_identity])
        if stored_identity.get(key) != own.get(key)
    ]
    if differences:
        raise ValueError(
            f"{folder} is a checkpoint of another run ({'; '.join(differences)}); train into another run folder, or use --redo"
        )
    with _damage_is_clear(resume):
        stored, state = load_file(resume / "parameters.safetensors"), load_file(resume / "optimizer.safetensors")
        stored_averages = load_file(resume / "averages.safetensors") if averages else {}
    if set(stored) != set(parameters) or any(stored[name].shape != parameter.shape for name, parameter in parameters.items()):
        raise ValueError(f"{folder} holds other parameters than this model trains (another model, or another LoRA rank); use --redo")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
        for name, average in stored_averages.items():
            averages[name].copy_(average)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(_unflatten(state, facts["optimizer"], groups))
    return facts


def read_buffer(folder: Path) -> dict[str, Tensor]:
    """The task's buffer as `write` got it; nothing where it was empty. ValueError where it is damaged."""
    path = folder / "resume/buffer.safetensors"
    with _damage_is_clear(path):
        return load_file(path) if path.exists() else {}
