"""bench objectives: what each objective, stabiliser and a learned mask cost beside Diffusion-DPO, beyond the forwards that they need."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from diffalign.objectives import Needs
    from diffalign.tensors import Loss, Outputs

LIMIT = 1.02
SAMPLES = {"pairs": 2, "lists": 4, "labelled": 1, "segments": 2, "positives": 1}
HEAD_CHANNELS = 320  # what goes into the head of a UNet as SD 1.5 and SDXL have it


@dataclass(frozen=True)
class Row:
    """An objective of the table, and what acts before it: stabilisers by name with their arguments, or a mask that is learned."""

    objective: str
    stabilisers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    learns_mask: bool = False


# None takes a forward more than its objective: the correction has its distance from the reference's prediction that is there, a mask its
# features from the same forward.
COMBINED = {
    "winner_safeguard": Row("diffusion_dpo", {"winner_safeguard": {}}),
    "tdpo1": Row("diffusion_dpo", {"kl_correction": {"alpha": 1.0, "through_winner": True}}),
    "tdpo2": Row("diffusion_dpo", {"kl_correction": {"alpha": 0.5, "through_winner": False}}),
    "list_safeguard": Row("rankdpo", {"list_safeguard": {}}),
    "learned mask": Row("sparsepo", learns_mask=True),
}


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
    """Median seconds of a row, forward and backward to the prediction, and its step over the same with Diffusion-DPO."""

    name: str
    seconds: float
    ratio: float


@dataclass(frozen=True)
class Costs:
    """The rows, the dearest ratio first."""

    shape: tuple[int, ...]
    bare: Bare
    costs: tuple[Cost, ...]

    def __str__(self) -> str:
        over = [cost.name for cost in self.costs if cost.ratio > LIMIT]
        head = (
            f"{self.shape} samples in all; bare step {1000 * self.bare.step:.1f} ms, one more forward {1000 * self.bare.forward:.1f} ms\n"
            f"over {LIMIT}: {', '.join(over) or 'none'}\n\n"
            f"{'objective':<18}{'ms':>8}  (bare step + objective) / (bare step + diffusion_dpo)\n"
        )
        return head + "\n".join(f"{cost.name:<18}{1000 * cost.seconds:8.2f}  {cost.ratio:.4f}" for cost in self.costs)


def measure_objectives(shape: tuple[int, ...], features: tuple[int, ...], pairs: int, steps: int, bare: Bare, device: str) -> Costs:
    """Every objective at its defaults and COMBINED, on random Outputs, in turn, `steps` times less a first fifth; all on as many samples.

    shape     (C, *S) of a sample's latents
    features  (C', *G) that a learned mask reads of a sample
    """
    from diffalign.objectives import OBJECTIVES

    rows = {name: Row(name) for name in OBJECTIVES} | COMBINED
    needs = {name: OBJECTIVES[row.objective] for name, row in rows.items()}
    run = {
        name: _backward_of(loss_of(row, features, pairs, device), random_outputs(needs[name], shape, pairs, device))
        for name, row in rows.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(steps):
        for name, once in run.items():
            taken[name].append(seconds_of(once))
    cost = {name: median(seconds[max(1, steps // 5) :]) for name, seconds in taken.items()}
    ratio = {name: (bare.of(own) + cost[name]) / (bare.of(own) + cost["diffusion_dpo"]) for name, own in needs.items()}
    costs = (Cost(name, cost[name], ratio[name]) for name in sorted(ratio, key=lambda each: -ratio[each]))
    return Costs((2 * pairs, *shape), bare, tuple(costs))


def loss_of(row: Row, features: tuple[int, ...], pairs: int, device: str) -> Callable[[Outputs], Loss]:
    """The objective of a row after what acts before it; a learned mask is of random features (2·pairs, *features)."""
    import torch

    from diffalign.objectives import objective_function
    from diffalign.stabilisers import build_stabilisers
    from diffalign.training.masks import Mask

    objective, stabilisers = objective_function(row.objective), build_stabilisers(row.stabilisers)
    if not row.learns_mask:
        return lambda outputs: objective(reduce(lambda before, act: act(before), stabilisers, outputs))
    mask = Mask("learned", channels=features[0]).to(device)
    seen = torch.randn(2 * pairs, *features, generator=torch.Generator().manual_seed(0)).to(device)

    def masked(outputs: Outputs) -> Loss:
        by_position = torch.nn.functional.interpolate(mask(seen), tuple(outputs.policy.shape[3:]))  # a token's positions share its weight
        return objective(replace(outputs, mask=by_position.unflatten(0, outputs.policy.shape[:2])))

    return masked


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
