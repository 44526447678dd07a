"""The alignment task: preference groups, a noising, a policy and its reference, and an objective on their errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffalign.backbones import Backbone
from diffalign.noising import Noised, Process
from diffalign.objectives import Needs
from diffalign.tensors import Loss, Outputs
from diffalign.training import diagnostics
from diffalign.training.groups import CachedGroups, GroupBatch
from diffalign.training.loop import Measured, Visit
from diffalign.training.randomness import generator
from diffalign.training.reference import Reference

START = "at the reference: "  # of numbers that only the first step has, for its check


@dataclass(frozen=True)
class Sampling:
    """What is drawn per group, and shared by all its samples.

    prompt_dropout   share of visits whose prompt is replaced by the empty one
    flip             share of visits whose samples are all mirrored (latents of mirrored images must be in the cache)
    timesteps        (low, high) in [0, 1] of the scheduler's own range
    """

    prompt_dropout: float = 0.0
    flip: float = 0.0
    timesteps: tuple[float, float] = (0.0, 1.0)


def forward(
    backbone: Backbone, policy: nn.Module, reference: Reference | None, batch: GroupBatch, noised: Noised, timestep: Tensor, needs: Needs
) -> Outputs:
    """One forward of the policy, and of the reference where the objective needs it, over all B·K samples at once."""
    count = batch.latents.shape[1]
    flat, every = noised.sample.flatten(0, 1), timestep.repeat_interleave(count)
    embeds = {name: value.repeat_interleave(count, 0) for name, value in batch.embeds.items()}
    frozen = None
    if needs.reference is not None:
        if reference is None:
            raise ValueError("this objective measures drift from a reference, and there is none; give LoRA or a frozen copy")
        with reference.use() as denoiser:
            frozen = backbone.predict(denoiser, flat, every, embeds).view_as(noised.sample)
    prediction = backbone.predict(policy, flat, every, embeds).view_as(noised.sample)
    return Outputs(prediction, noised.target, timestep, reference=frozen, scores=batch.scores, labels=batch.labels)


def _floats(value: Tensor) -> Tensor:
    """A half-precision cache as float32; autocast takes it from there."""
    return value.float() if value.is_floating_point() else value


class AlignmentTask:
    """What `loop.train` trains for alignment: see `Task`.

    groups      the rows the objective needs, over the latent cache
    policy      the trained denoiser; reference  None for objectives without one
    write_weights(denoiser, folder)  saves the policy as users load it
    """

    def __init__(self, backbone: Backbone, groups: CachedGroups, objective: Callable[[Outputs], Loss], needs: Needs,
                 noising: Callable[[Process, Tensor, Tensor, list[Generator]], Noised], reference: Reference | None, *,
                 sampling: Sampling, seed: int, identity: dict[str, Any], write_weights: Callable[[nn.Module, Path], None],
                 starts_at_reference: bool = True):  # fmt: skip
        self.modules: dict[str, nn.Module] = {"denoiser": backbone.denoiser}
        self.backbone, self.groups, self.objective, self.needs = backbone, groups, objective, needs
        self.noising, self.reference, self.sampling, self.seed = noising, reference, sampling, seed
        self.identity, self.write_weights, self.starts_at_reference = identity, write_weights, starts_at_reference
        self.group_count = len(groups)
        self.has_started = False

    def draw(self, visits: Sequence[Visit]) -> tuple[GroupBatch, Noised, Tensor]:
        """The batch, x_t with its target, and the timesteps of some visits: a function of (seed, group, draw), one draw per group."""
        generators = [generator(self.seed, "group", visit.group, visit.draw) for visit in visits]
        uniform = torch.stack([torch.rand(3, generator=one) for one in generators])
        low, high = self.sampling.timesteps
        timestep = self.backbone.timestep(low + (high - low) * uniform[:, 0])
        batch = self.groups.fetch(
            [visit.group for visit in visits],
            dropped=(uniform[:, 1] < self.sampling.prompt_dropout).tolist(),
            flipped=(uniform[:, 2] < self.sampling.flip).tolist(),
        )
        noised = self.noising(self.backbone, batch.latents.float(), timestep, generators)
        if noised.sample.shape != batch.latents.shape or len(timestep) != len(batch.latents):
            raise ValueError(
                f"noising returned {tuple(noised.sample.shape)} for latents {tuple(batch.latents.shape)}; one x_t per sample, one t each"
            )
        return batch, noised, timestep

    def measure(self, visits: list[Visit]) -> Measured:
        batch, noised, timestep = self.draw(visits)
        to = next(self.backbone.denoiser.parameters()).device
        batch = GroupBatch(
            batch.latents, {name: _floats(value.to(to, non_blocking=True)) for name, value in batch.embeds.items()}, batch.weight.to(to),
            None if batch.scores is None else batch.scores.to(to), None if batch.labels is None else batch.labels.to(to),
        )  # fmt: skip
        noised = Noised(noised.sample.to(to), noised.target.to(to))
        outputs = forward(self.backbone, self.modules["denoiser"], self.reference, batch, noised, timestep.to(to), self.needs)
        with torch.autocast(to.type, enabled=False):
            loss = self.objective(outputs)
            at_reference = self._at_reference(outputs)
        if loss.value.shape != timestep.shape:
            raise ValueError(
                f"the objective returned a loss of shape {tuple(loss.value.shape)} for {len(timestep)} groups; it must stay unreduced"
            )
        return Measured(loss.value, batch.weight, diagnostics.numbers(outputs, loss) | at_reference)

    @torch.no_grad()
    def _at_reference(self, outputs: Outputs) -> dict[str, Tensor]:
        """Before the first update: loss and margin with the reference's prediction in the policy's place."""
        if self.has_started or not self.starts_at_reference or outputs.reference is None:
            return {}
        loss = self.objective(replace(outputs, policy=outputs.reference))
        return {START + "loss": loss.value} | ({} if loss.margin is None else {START + "margin": loss.margin})

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        start = {name.removeprefix(START): float(numbers.pop(name).mean()) for name in list(numbers) if name.startswith(START)}
        metrics = diagnostics.summarise(numbers, self.backbone.timestep_count)
        if start:
            diagnostics.check_start(metrics["loss"], metrics.get("rewards/margins"), start["loss"], start.get("margin"))
        return metrics

    def follow(self, step: int, metrics: dict[str, float]) -> None:
        self.has_started = True

    def warnings(self, history: list[dict[str, float]]) -> dict[str, str]:
        return diagnostics.warnings(history)

    def describe(self, visit: Visit) -> str:
        return self.groups.describe(visit.group)

    def write(self, folder: Path) -> None:
        self.write_weights(self.backbone.denoiser, folder)
        (folder / "reference.json").write_text(json.dumps(self.identity, indent=1))
