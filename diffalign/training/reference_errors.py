"""The reference's error on every visit of a run, from the untrained denoiser before the first step: training then holds no reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffalign.training import checkpoint
from diffalign.training.alignment import AlignmentTask, Networks, forward
from diffalign.training.loop import open_accelerator
from diffalign.training.reference import OnPolicy
from diffalign.training.settings import Settings
from diffalign.training.visits import Visit, Visits, by_shape, every_draw

FOLDER = "reference_errors"
PARTS = 100  # files at most: what a kill takes is less than one


@dataclass(frozen=True)
class ReferenceErrors:
    """errors (visits · draws, K) float32, the draws of a visit side by side; the first is of the visit at place `begin`."""

    errors: Tensor
    begin: int
    draws: int

    def of(self, visits: Sequence[Visit]) -> Tensor:
        """(B, K), on the CPU, of visits with their draws as `repeat`."""
        return self.errors[self._rows(visits)]

    def put(self, visits: Sequence[Visit], errors: Tensor) -> None:
        self.errors[self._rows(visits)] = errors.to(self.errors)

    def _rows(self, visits: Sequence[Visit]) -> list[int]:
        return [(visit.place - self.begin) * self.draws + visit.repeat for visit in visits]


def errors_ahead(task: AlignmentTask, settings: Settings, folder: Path, made_of: Mapping[str, Any], *,
                 advance: Callable[[int], None] = lambda steps: None) -> ReferenceErrors:  # fmt: skip
    """Of all steps that the objective trains, on every process, read from folder/reference_errors or, before training, made there.

    task  not trained yet, so that its denoiser is the reference. Forwards are those of `loop.train`: a frozen copy has the same bits. An
          inversion by the reference is made here too, and its predictions are what `task.cache` has then
    made_of  what the errors depend on beside the base: settings and inputs, as JSON. A part that was made of others is made again
    advance(steps)  reports progress
    ValueError where training has begun and a part is lost.
    """
    accelerator = open_accelerator(task, settings, folder)
    plan = Visits(settings, task.group_count, task.difficulty, accelerator.num_processes)
    size = ceil((settings.steps - task.sft_steps) / PARTS)
    parts = [range(first, min(first + size, settings.steps)) for first in range(task.sft_steps, settings.steps, size)]
    files = [folder / FOLDER / f"steps_{part.start:06d}.safetensors" for part in parts]
    identity = blake2b(json.dumps({**task.identity, **made_of}, sort_keys=True).encode(), digest_size=16).hexdigest()
    kept = [_read(file, identity) if accelerator.is_main_process else None for file in files]
    [missing] = broadcast_object_list([[number for number, errors in enumerate(kept) if errors is None]])
    if missing and checkpoint.latest(folder / "checkpoints") is not None:
        raise ValueError(
            f"{len(missing)} of {len(files)} files of {folder / FOLDER} are lost, damaged or of another model, the first: "
            f"{files[missing[0]].name}, and the training that reads them has begun; put them back, or train again with --redo"
        )
    found = []
    for number, part in enumerate(parts):
        table = torch.zeros(len(part) * settings.batch_size * task.draws, task.groups.size, device=accelerator.device)
        made = ReferenceErrors(table, part.start * settings.batch_size, task.draws)
        if (errors := kept[number]) is not None:
            table.copy_(errors)
        for step in part if number in missing else ():
            for first in (plan.first(turn, accelerator.process_index) for turn in range(plan.accumulation)):
                with accelerator.autocast():
                    _measure(task, plan.at(step)[first : first + plan.micro], made)
            advance(1)
        found.append(accelerator.reduce(table, "sum").cpu())  # of each row one process has the error, and the others have 0
        if number not in missing:
            advance(len(part))
        elif accelerator.is_main_process:
            _write(files[number], found[-1], identity)
    return ReferenceErrors(torch.cat(found), task.sft_steps * settings.batch_size, task.draws)


def _measure(task: AlignmentTask, visits: Sequence[Visit], into: ReferenceErrors) -> None:
    """Of a micro-batch, in the forwards that a frozen reference has in training."""
    for each in by_shape(visits, task.groups.shape):
        rows = every_draw([visits[place] for place in each], task.draws)
        untrained = OnPolicy(task.backbone.denoiser)
        batch, noised, timestep = task.draw(rows, reference=untrained)
        with untrained.use() as denoiser:
            alone = replace(task.needs, reference=None)
            outputs = forward(task.backbone, denoiser, Networks(), batch, noised, timestep, alone, task.samples_per_forward)
        with torch.autocast(timestep.device.type, enabled=False):
            into.put(rows, outputs.error)


def _write(file: Path, errors: Tensor, identity: str) -> None:
    """The file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".tmp")
    save_file({"errors": errors}, partial, metadata={"identity": identity})
    partial.replace(file)


def _read(file: Path, identity: str) -> Tensor | None:
    """The errors of a part; None where they are not made yet, cut short by a lost machine, or made of something else."""
    try:
        with safe_open(file, "pt") as stored:
            return stored.get_tensor("errors") if (stored.metadata() or {}).get("identity") == identity else None
    except (FileNotFoundError, SafetensorError):
        return None
