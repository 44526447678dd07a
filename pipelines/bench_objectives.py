"""bench objectives: what each objective costs beside Diffusion-DPO, beyond the forwards that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from diffalign.objectives import Needs
    from diffalign.tensors import Loss, Outputs

LIMIT = 1.02
SAMPLES = {"pairs": 2, "lists": 4, "labelled": 1, "segments": 2, "positives": 1}


@dataclass(frozen=True)
class Bare:
    """Seconds of the networks alone: the policy's forward and backward, and one more forward without gradient."""

    step: float
    forward: float

    def of(self, needs: Needs) -> float:
        """What an objective of such needs cannot do without. Mismatched prompts take a forward of the policy and one of the reference.

        Not what the policy's own samples cost: that is as train.own_samples says.
        """
        forwards = (needs.reference is not None) + ("teacher" in needs.reads) + 2 * ("mismatched" in needs.reads)
        return self.step + forwards * self.forward


@dataclass(frozen=True)
class Cost:
    """Median seconds of an objective, forward and backward to the prediction, and its step over the same with Diffusion-DPO."""

    name: str
    seconds: float
    ratio: float


@dataclass(frozen=True)
class Costs:
    """The objectives, the dearest ratio first."""

    shape: tuple[int, ...]
    bare: Bare
    costs: tuple[Cost, ...]

    def __str__(self) -> str:
        over = [cost.name for cost in self.costs if cost.ratio > LIMIT]
        head = (
            f"{self.shape} samples in all; bare step {1000 * self.bare.step:.1f} ms, one more forward {1000 * self.bare.forward:.1f} ms\n"
            f"over {LIMIT}: {', '.join(over) or 'none'}\n\n"
            f"{'objective':<15}{'ms':>8}  (bare step + objective) / (bare step + diffusion_dpo)\n"
        )
        return head + "\n".join(f"{cost.name:<15}{1000 * cost.seconds:8.2f}  {cost.ratio:.4f}" for cost in self.costs)


def measure_objectives(shape: tuple[int, ...], pairs: int, steps: int, bare: Bare, device: str) -> Costs:
    """Every objective at its defaults on random Outputs, in turn, `steps` times less a first fifth; all on as many samples as the pairs.

    shape  (C, *S) of a sample's latents
    """
    from diffalign.objectives import OBJECTIVES, objective_function

    run = {name: _backward_of(objective_function(name), random_outputs(needs, shape, pairs, device)) for name, needs in OBJECTIVES.items()}
    taken: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(steps):
        for name, once in run.items():
            taken[name].append(seconds_of(once))
    cost = {name: median(seconds[max(1, steps // 5) :]) for name, seconds in taken.items()}
    ratio = {name: (bare.of(needs) + cost[name]) / (bare.of(needs) + cost["diffusion_dpo"]) for name, needs in OBJECTIVES.items()}
    costs = (Cost(name, cost[name], ratio[name]) for name in sorted(ratio, key=lambda each: -ratio[each]))
    return Costs((2 * pairs, *shape), bare, tuple(costs))


def random_outputs(needs: Needs, shape: tuple[int, ...], pairs: int, device: str) -> Outputs:
    """Outputs with every field that an objective of such needs may read, float32, the policy with gradient: 2·pairs samples of `shape`."""
    import torch

    from diffalign.tensors import Outputs, even_edges, span_shares

    count = SAMPLES[needs.rows] + needs.own_samples
    groups = max(1, 2 * pairs // count)
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(groups, *size, generator=generator).to(device)

    target = normal(count, *shape)

    def near() -> torch.Tensor:
        return target + 0.3 * normal(count, *shape)

    reference = near()
    spans = min(4, shape[1])
    place, index = torch.arange(groups, device=device), torch.arange(count, device=device)
    return Outputs(
        (reference + 0.01 * normal(count, *shape)).requires_grad_(), target, place,
        reference=reference if needs.reference else None, teacher=near(), mismatched=torch.stack([near(), near()], 2),
        mask=normal(count, 1, *shape[1:]).abs(), fraction=place / groups, snr=normal().abs() + 0.1,
        scores=normal(count, 2).abs().sort(1, descending=True).values, labels=((place[:, None] + index) % 2 == 0).long(),
        win_probability=normal().sigmoid(), segment_labels=(place[:, None] + torch.arange(spans, device=device)) % 3 - 1,
        segment_shares=span_shares(even_edges(shape[1]), spans).to(device).expand(groups, -1, -1),
        lengths=torch.full((groups, count), shape[1], device=device) if needs.lengths else None,
    )  # fmt: skip


def seconds_of(once: Callable[[], None]) -> float:
    """Wall time of a call, until the device has done it."""
    import torch

    started = time.perf_counter()
    once()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _backward_of(objective: Callable[[Outputs], Loss], outputs: Outputs) -> Callable[[], None]:
    """The objective and its backward, with what it tracks as a run has it from the second step on."""
    running = {name: value.mean(0) for name, value in objective(outputs).tracked.items()}

    def once() -> None:
        objective(replace(outputs, running=running)).value.mean().backward()  # replaced: errors are kept with the Outputs they are of
        outputs.policy.grad = None

    return once
