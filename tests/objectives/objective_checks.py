"""What every objective is asked, as functions of the objective: the tests run them over the table, the mutation test over planted errors.

A check takes the objective (Outputs, **arguments → Loss) and its name in OBJECTIVES, and raises AssertionError or ValueError.
The second opinion on NAME stands in methods/test_NAME.py, written apart from the objective: a naive loop and values by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.objectives import OBJECTIVES, defaults
from diffalign.tensors import Loss, Outputs, Rows

Objective = Callable[..., Loss]
Check = Callable[[Objective, str], None]

BETA = 3.0  # with errors near 1 this keeps margins within ±1, where no objective is flat
GROUPS = 5
SAMPLES: dict[Rows, int] = {"pairs": 2, "lists": 4, "labelled": 3, "segments": 2, "positives": 2}
SHAPES = {
    "image": (4, 6, 5),
    "image with a unit axis": (4, 1, 6, 5),
    "video": (4, 3, 6, 5),
    "waveform": (1, 64),
    "mel": (8, 16, 4),
    "one number": (1, 1),
}


# What methods/test_NAME.py says --------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """One group in NumPy float64, as a naive loop takes it: the fields of Outputs without their first axis.

    frozen   the group as it was before a finite difference moved the policy: what an objective stops the gradient through is read here
    """

    policy: np.ndarray
    target: np.ndarray
    reference: Any = None
    teacher: Any = None
    mismatched: Any = None
    mask: Any = None
    scores: Any = None
    labels: Any = None
    win_probability: Any = None
    segment_labels: Any = None
    segment_shares: Any = None
    lengths: Any = None
    longest: Any = None
    snr: Any = None
    bucket: int = 0
    running: Mapping[str, Any] = field(default_factory=dict)
    before: Group | None = None

    @property
    def frozen(self) -> Group:
        return self.before or self

    def error(self, sample: int) -> float:
        return naive_error(self.policy[sample], self.target[sample])

    def drift(self, sample: int) -> float:
        return self.error(sample) - naive_error(self.reference[sample], self.target[sample])

    def reward(self, sample: int, beta: float) -> float:
        return -(beta / 2) * self.drift(sample)

    def margin(self, beta: float) -> float:
        """m = −(β/2)·((e_w − e_w_ref) − (e_l − e_l_ref))."""
        return -(beta / 2) * (self.drift(0) - self.drift(1))


@dataclass(frozen=True)
class Hand:
    """Errors (K,) of policy and reference of one group, made to order, and the value by hand. `more`: other fields of Outputs."""

    error: Sequence[float]
    expected: float
    reference: Sequence[float] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@cache
def method(name: str) -> ModuleType:
    """methods/test_NAME.py: `naive(group, **arguments)` (or `naive_batch(groups, **arguments)`), `HAND`, and where they are needed

    ARGUMENTS  for the shared checks, beside β, so that no link is flat at errors near 1
    VARIANTS   other arguments for value and gradient, so that no branch goes unseen
    RUNNING    what the objective has tracked so far, and `naive_tracked(group, **arguments)`, what it tracks next
    EXEMPT     shared checks that do not hold, with the reason
    """
    path = Path(__file__).parent / "methods" / f"test_{name}.py"
    if not path.exists():
        raise FileNotFoundError(f"write {path.name} with the naive loop of {name!r} and values by hand")
    spec = util.spec_from_file_location(f"method_{name}", path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Inputs --------------------------------------------------------------------------------------------


def arguments(name: str, beta: float = BETA) -> dict[str, Any]:
    """β where the objective takes one, and what its test file asks for."""
    return ({"beta": beta} if "beta" in defaults(name) else {}) | getattr(method(name), "ARGUMENTS", {})


def variants(name: str) -> list[dict[str, Any]]:
    """The arguments of the shared checks, and with them each of the method's VARIANTS."""
    return [arguments(name), *(arguments(name) | variant for variant in getattr(method(name), "VARIANTS", ()))]


def everything(name: str, groups: int, samples: int, shape: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Every field that an objective of this name may read beside the predictions and the reference, in float64."""
    generator = torch.Generator().manual_seed(100 + seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    spans = min(3, shape[1])
    length = shape[1] - (uniform(groups, samples) * min(3, shape[1])).long()
    return {
        "teacher": torch.randn(groups, samples, *shape, generator=generator, dtype=torch.float64),
        "mismatched": torch.randn(groups, samples, 2, *shape, generator=generator, dtype=torch.float64),
        "mask": uniform(groups, samples, 1, *shape[1:]) + 0.1,
        "fraction": (torch.arange(groups) / groups).double(),
        "snr": uniform(groups) * 3 + 0.1,
        "scores": uniform(groups, samples, 2).sort(1, descending=True).values,
        "labels": (torch.arange(samples) % 2 == 0).long().expand(groups, samples),
        "win_probability": 0.5 + 0.5 * uniform(groups),
        "segment_labels": (torch.arange(spans).expand(groups, spans) + torch.arange(groups)[:, None]) % 3 - 1,
        "lengths": length if OBJECTIVES[name].lengths else None,
        "longest": torch.full((groups,), shape[1] + 1) if OBJECTIVES[name].lengths else None,
        "running": {key: torch.tensor(value, dtype=torch.float64) for key, value in getattr(method(name), "RUNNING", {}).items()},
    }


def random_outputs(
    name: str, shape: tuple[int, ...] = SHAPES["image"], *, seed: int = 0, groups: int = GROUPS, samples: int | None = None
) -> Outputs:
    """Normal predictions and targets in float64, with a reference only where the objective's line asks for one."""
    samples = SAMPLES[OBJECTIVES[name].rows] if samples is None else samples
    generator = torch.Generator().manual_seed(seed)
    policy, reference, target = torch.randn(3, groups, samples, *shape, generator=generator, dtype=torch.float64)
    needs_reference = OBJECTIVES[name].reference is not None
    return Outputs(
        policy, target, torch.arange(groups), reference=reference if needs_reference else None,
        **everything(name, groups, samples, shape, seed),
    )  # fmt: skip


def outputs_of_errors(error: Tensor, reference_error: Tensor | None = None, *, shape: tuple[int, ...] = (2, 3), **more: Any) -> Outputs:
    """Outputs whose errors are the given (B, K) numbers, with gradient to them: predictions √e off a target of zero, signs alternating."""
    signs = torch.tensor([1.0, -1.0], dtype=error.dtype).repeat(math.prod(shape))[: math.prod(shape)].view(shape)

    def spread(numbers: Tensor) -> Tensor:
        return numbers.sqrt()[(...,) + (None,) * len(shape)] * signs

    policy = spread(error)
    reference = None if reference_error is None else spread(reference_error)
    return Outputs(policy, torch.zeros_like(policy), torch.zeros(len(error)), reference=reference, **more)


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    """Whole numbers stay whole; the others are read in `dtype`, not rounded to float32 on the way."""
    made = torch.tensor(value)
    return torch.tensor(value, dtype=dtype) if made.is_floating_point() else made


def hand_outputs(hand: Hand, dtype: torch.dtype = torch.float64) -> Outputs:
    """The Outputs of a Hand: one group."""
    reference = None if hand.reference is None else torch.tensor([hand.reference], dtype=dtype)
    more = {
        key: {name: torch.tensor(each, dtype=dtype) for name, each in value.items()} if key == "running" else _tensor([value], dtype)
        for key, value in hand.more.items()
    }
    return outputs_of_errors(torch.tensor([hand.error], dtype=dtype), reference, **more)


PER_GROUP = [each.name for each in fields(Outputs) if each.name != "running"]
PER_PREDICTION = ["policy", "target", "reference", "teacher", "mismatched", "mask"]
PER_SAMPLE = [
    *PER_PREDICTION,
    "known_reference_error",
    "known_teacher_drift",
    "scores",
    "labels",
    "lengths",
    "last_layer_gradient",
    "correction",
]


def taken(outputs: Outputs, index: Any) -> Outputs:
    """Some of the groups."""
    return replace(outputs, **{key: None if getattr(outputs, key) is None else getattr(outputs, key)[index] for key in PER_GROUP})


def permuted(outputs: Outputs, order: Sequence[int]) -> Outputs:
    """The samples of every group in another order."""
    return replace(outputs, **{key: None if getattr(outputs, key) is None else getattr(outputs, key)[:, list(order)] for key in PER_SAMPLE})


def swapped(outputs: Outputs) -> Outputs:
    """Winner and loser exchanged, with all that is known of them."""
    turned = permuted(outputs, [1, 0, *range(2, outputs.policy.shape[1])])
    return replace(
        turned,
        win_probability=None if outputs.win_probability is None else 1 - outputs.win_probability,
        segment_labels=None if outputs.segment_labels is None else -outputs.segment_labels,
    )


# The second opinion --------------------------------------------------------------------------------


def naive_error(prediction: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for p, y in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        total += (p - y) ** 2
    return total / prediction.size


def naive_groups(outputs: Outputs, before: list[Group] | None = None) -> list[Group]:
    """The groups of Outputs in NumPy float64."""

    def array(key: str, index: int) -> Any:
        value = getattr(outputs, key)
        return None if value is None else value[index].detach().double().numpy()

    names = [each.name for each in fields(Group) if each.name not in ("bucket", "running", "before")]
    running = {key: value.double().numpy() for key, value in outputs.running.items()}
    bucket = outputs.bucket.tolist()
    return [
        Group(**{key: array(key, index) for key in names}, bucket=bucket[index], running=running, before=before[index] if before else None)
        for index in range(len(outputs.policy))
    ]


def naive_values(name: str, outputs: Outputs, settings: Mapping[str, Any], *, before: list[Group] | None = None) -> np.ndarray:
    """Values (B,) by the loop."""
    module, groups = method(name), naive_groups(outputs, before)
    settings = defaults(name) | settings
    if hasattr(module, "naive_batch"):
        return np.array(module.naive_batch(groups, **settings))
    return np.array([module.naive(group, **settings) for group in groups])


# The checks ----------------------------------------------------------------------------------------


def close(actual: Any, expected: Any, *, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    actual, expected = (value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value) for value in (actual, expected))
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def check_unreduced(objective: Objective, name: str) -> None:
    """(B,), finite, and each group's value is what the group has alone: nothing is averaged over the batch."""
    outputs = random_outputs(name)
    value = objective(outputs, **arguments(name)).value
    assert value.shape == (GROUPS,) and bool(torch.isfinite(value).all())
    for index in range(GROUPS):
        one = slice(index, index + 1)
        close(objective(taken(outputs, one), **arguments(name)).value, value[one])


def check_float64(objective: Objective, name: str) -> None:
    loss = objective(random_outputs(name), **arguments(name))
    assert loss.value.dtype == torch.float64
    assert loss.margin is None or loss.margin.dtype == torch.float64


def check_stopped(objective: Objective, name: str) -> None:
    """What is tracked has a number or a row for each group, and no gradient."""
    outputs = random_outputs(name)
    loss = objective(replace(outputs, policy=outputs.policy.clone().requires_grad_()), **arguments(name))
    assert loss.value.requires_grad
    for key, value in loss.tracked.items():
        assert value.shape[0] == GROUPS and value.ndim <= 2 and not value.requires_grad, key


def check_value_at_reference(objective: Objective, name: str) -> None:
    """With policy = reference the value is the table's, whatever the errors are, and the margin is 0."""
    expected = OBJECTIVES[name].value_at_reference
    outputs = replace(random_outputs(name), running={})
    at_reference = replace(outputs, policy=outputs.reference if outputs.reference is not None else outputs.policy)
    kept = {"beta": BETA} if "beta" in defaults(name) else {}  # the table's value is that of the defaults
    if expected is not None:
        loss = objective(at_reference, **kept)
        close(loss.value, np.full(GROUPS, expected))
        if loss.margin is not None:
            close(loss.margin, np.zeros(GROUPS))


def check_parity(objective: Objective, name: str) -> None:
    """Value equals the naive loop's, in float64, for every modality's shape and every variant, also before anything was tracked."""
    for shape in SHAPES.values():
        outputs = random_outputs(name, shape)
        close(objective(outputs, **arguments(name)).value, naive_values(name, outputs, arguments(name)))
    fresh = replace(outputs, running={})
    close(objective(fresh, **arguments(name)).value, naive_values(name, fresh, arguments(name)))
    for settings in variants(name)[1:]:
        outputs = random_outputs(name)
        close(objective(outputs, **settings).value, naive_values(name, outputs, settings))


def check_gradient(objective: Objective, name: str) -> None:
    """∂ΣL/∂policy equals central differences of the naive loop, at every element, for every variant."""
    outputs = random_outputs(name, (2, 3, 2), groups=3)
    step, before = 1e-5, naive_groups(outputs)
    for settings in variants(name):
        policy = outputs.policy.clone().requires_grad_()
        objective(replace(outputs, policy=policy), **settings).value.sum().backward()
        expected = np.zeros(policy.shape)
        for place in np.ndindex(*policy.shape):
            sides = []
            for sign in (1, -1):
                moved = outputs.policy.clone()
                moved[place] += sign * step
                sides.append(naive_values(name, replace(outputs, policy=moved), settings, before=before).sum())
            expected[place] = (sides[0] - sides[1]) / (2 * step)
        assert policy.grad is not None
        close(policy.grad, expected, rtol=1e-5, atol=1e-7)


def check_signs(objective: Objective, name: str) -> None:
    """∂L/∂e_w > 0 > ∂L/∂e_l around the reference (0 for a loser that is not read), and a step down brings the best nearer its target."""
    needs, samples = OBJECTIVES[name], SAMPLES[OBJECTIVES[name].rows]
    for drift_w, drift_l in ((0.0, 0.0), (0.1, -0.1), (-0.1, 0.05), (0.2, 0.2)):
        reference = torch.linspace(0.7, 0.9, samples, dtype=torch.float64)[None]
        drift = torch.linspace(drift_w, drift_l, samples, dtype=torch.float64)
        error = (reference + drift).requires_grad_()
        more = everything(name, 1, samples, (2, 3)) | {"running": {}}
        outputs = outputs_of_errors(error, reference if needs.reference is not None else None, **more)
        objective(outputs, **arguments(name)).value.sum().backward()
        assert error.grad is not None
        loser = 1 if needs.rows == "labelled" else -1
        best, worst = error.grad[0, 0].item(), error.grad[0, loser].item()
        assert best > 0, f"gradient {error.grad.tolist()} at drift {drift_w}, {drift_l}"
        assert worst == 0 if needs.rows == "positives" and not needs.is_pairwise else worst < 0, (
            f"gradient {error.grad.tolist()} at drift {drift_w}, {drift_l}"
        )
    outputs = replace(random_outputs(name), running={})
    outputs = replace(outputs, policy=outputs.reference if needs.reference is not None else outputs.policy)
    policy = outputs.policy.clone().requires_grad_()
    objective(replace(outputs, policy=policy), **arguments(name)).value.sum().backward()
    assert policy.grad is not None
    after = replace(outputs, policy=policy.detach() - 0.01 * policy.grad)
    assert bool((after.error[:, 0] < outputs.error[:, 0]).all()), "a step down must bring the winner nearer to its target"
    assert bool((after.error[:, loser] >= outputs.error[:, loser]).all()), "a step down must not bring the loser nearer to its target"


def check_margin(objective: Objective, name: str) -> None:
    """A margin rises as the best is explained better, and as the worst is explained worse."""
    samples = SAMPLES[OBJECTIVES[name].rows]
    reference = torch.linspace(0.7, 0.9, samples, dtype=torch.float64)[None]
    error = reference.clone().requires_grad_()
    more = everything(name, 1, samples, (2, 3)) | {"running": {}}
    outputs = outputs_of_errors(error, reference if OBJECTIVES[name].reference is not None else None, **more)
    margin = objective(outputs, **arguments(name)).margin
    if margin is not None:
        margin.sum().backward()
        assert error.grad is not None
        assert error.grad[0, 0] < 0 < error.grad[0, -1], f"gradient of the margin {error.grad.tolist()}"


def next_running(outputs: Outputs, tracked: list[Mapping[str, Any]]) -> Outputs:
    """What the loop makes of what each group tracks: the mean over the batch."""
    running = {key: np.mean([np.asarray(each[key], dtype=float) for each in tracked], 0) for key in tracked[0]}
    return replace(outputs, running={key: torch.tensor(value, dtype=torch.float64) for key, value in running.items()})


def check_tracked(objective: Objective, name: str) -> None:
    """What is tracked equals the naive loop's, group by group."""
    outputs = random_outputs(name)
    tracked = objective(outputs, **arguments(name)).tracked
    assert set(tracked) == set(getattr(method(name), "RUNNING", {}))
    if tracked:
        settings = defaults(name) | arguments(name)
        expected = [method(name).naive_tracked(group, **settings) for group in naive_groups(outputs)]
        for key, value in tracked.items():
            close(value, np.array([each[key] for each in expected]))


def check_running(objective: Objective, name: str) -> None:
    """Twenty batches from nothing: what has been tracked, and the value under it, equal the naive loop's."""
    naive = by_objective = replace(random_outputs(name), running={})
    settings = defaults(name) | arguments(name)
    for _ in range(20):
        tracked = objective(by_objective, **arguments(name)).tracked
        if not tracked:
            return
        groups = [{key: value[index].tolist() for key, value in tracked.items()} for index in range(GROUPS)]
        by_objective = next_running(by_objective, groups)
        naive = next_running(naive, [method(name).naive_tracked(group, **settings) for group in naive_groups(naive)])
    for key, value in naive.running.items():
        close(by_objective.running[key], value, rtol=1e-9)
    close(objective(by_objective, **arguments(name)).value, naive_values(name, naive, arguments(name)), rtol=1e-9)


def check_swap(objective: Objective, name: str) -> None:
    """Exchanging w and l gives the naive loop's value of the exchanged pair, another one, and flips the margin."""
    outputs = random_outputs(name)
    forward, backward = (objective(each, **arguments(name)) for each in (outputs, swapped(outputs)))
    close(backward.value, naive_values(name, swapped(outputs), arguments(name)))
    if OBJECTIVES[name].is_pairwise or OBJECTIVES[name].rows == "segments":
        assert not torch.allclose(forward.value, backward.value)
        if forward.margin is not None and "margin flips" not in getattr(method(name), "EXEMPT", {}):
            assert backward.margin is not None
            close(backward.margin, -forward.margin)
        if forward.compared is not None:
            assert backward.compared is not None
            close(backward.compared.nan_to_num(), -forward.compared.nan_to_num())


def check_compared(objective: Objective, name: str) -> None:
    """Where an objective says whom the policy puts first, it is the sample of the smaller drift, or error without a reference."""
    outputs = random_outputs(name)
    compared = objective(outputs, **arguments(name)).compared
    if compared is None or not OBJECTIVES[name].is_pairwise:
        return
    groups = naive_groups(outputs)
    measure = Group.drift if OBJECTIVES[name].reference else Group.error
    assert [value > 0 for value in compared.tolist()] == [measure(group, 0) < measure(group, 1) for group in groups]
    assert {value > 0 for value in compared.tolist()} == {True, False}


def check_clear_pairs(objective: Objective, name: str) -> None:
    """Where one sample is far nearer to its target than before and the other far off, the policy has put that one first: with the label, or
    against a span's; of a span without one nothing is said."""
    rows = OBJECTIVES[name].rows
    if not OBJECTIVES[name].is_pairwise and rows != "segments":
        return
    error = torch.tensor([[0.5, 1.5], [1.5, 0.5]], dtype=torch.float64)
    reference = torch.ones_like(error) if OBJECTIVES[name].reference is not None else None
    more = everything(name, 2, 2, (2, 3)) | ({"segment_labels": torch.tensor([[1, 0, -1]] * 2)} if rows == "segments" else {})
    loss = objective(outputs_of_errors(error, reference, **more), **arguments(name))
    said = loss.margin if loss.compared is None else loss.compared
    assert said is not None
    close(said.sign().where(~said.isnan(), said), [[1, math.nan, -1], [-1, math.nan, 1]] if rows == "segments" else [1, -1])


def check_permutation(objective: Objective, name: str) -> None:
    """The samples of a list, or of an unpaired group, have no order but their scores and labels."""
    if OBJECTIVES[name].rows not in ("lists", "labelled"):
        return
    outputs = random_outputs(name)
    order = [2, 0, 1, *range(3, outputs.policy.shape[1])]
    close(objective(permuted(outputs, order), **arguments(name)).value, objective(outputs, **arguments(name)).value)


def check_reference_constant(objective: Objective, name: str) -> None:
    """A constant added to all reference errors of a group leaves its value, where only differences of drift count; else it does not."""
    if OBJECTIVES[name].reference != "error":
        return
    outputs = random_outputs(name)
    moved = replace(outputs, reference=None, known_reference_error=outputs.reference_error + 0.37)
    before, after = (objective(each, **arguments(name)).value for each in (outputs, moved))
    if "reference constant" in getattr(method(name), "EXEMPT", {}):
        assert not torch.allclose(before, after)
    else:
        close(after, before)


def check_kept_reference_error(objective: Objective, name: str) -> None:
    """A reference error that was computed before and kept does what the reference's prediction does."""
    if OBJECTIVES[name].reference != "error":
        return
    outputs = random_outputs(name)
    kept = replace(outputs, reference=None, known_reference_error=outputs.reference_error)
    close(objective(kept, **arguments(name)).value, objective(outputs, **arguments(name)).value, rtol=0, atol=0)


def check_any_shape(objective: Objective, name: str) -> None:
    """The value is that of the flattened tensors: a mean over all axes after the second, and a unit axis changes nothing."""
    for shape in SHAPES.values():
        outputs = random_outputs(name, shape)
        parts = {key: getattr(outputs, key) for key in ("policy", "target", "reference", "teacher", "mask")}
        spatial = {key: part for key, part in parts.items() if part is not None}
        # Channels stay apart: a mask has one for all of them.
        flat = replace(outputs, **{key: part.flatten(3) for key, part in spatial.items()}, mismatched=_flat_mismatched(outputs))
        unit = replace(
            outputs, **{key: part.unsqueeze(3) for key, part in spatial.items()}, mismatched=_unit_mismatched(outputs)
        )  # fmt: skip
        value = objective(outputs, **arguments(name)).value
        close(objective(flat, **arguments(name)).value, value)
        close(objective(unit, **arguments(name)).value, value)


def _flat_mismatched(outputs: Outputs) -> Tensor | None:
    return None if outputs.mismatched is None else outputs.mismatched.flatten(4)


def _unit_mismatched(outputs: Outputs) -> Tensor | None:
    return None if outputs.mismatched is None else outputs.mismatched.unsqueeze(4)


def check_bfloat16(objective: Objective, name: str) -> None:
    """From bf16 tensors the value is float32's: errors near 1 that differ by 1e-4 are lost in bf16, and β/2 = 2500 multiplies the loss."""
    generator = torch.Generator().manual_seed(0)
    samples, shape = SAMPLES[OBJECTIVES[name].rows], (4, 16, 16)
    target = torch.randn(GROUPS, samples, *shape, generator=generator).bfloat16()
    reference = (target.float() + torch.randn(target.shape, generator=generator)).bfloat16()
    policy = (reference.float() + 0.004 * torch.randn(target.shape, generator=generator)).bfloat16()
    more = everything(name, GROUPS, samples, shape)
    more = {key: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for key, value in more.items()}
    more |= {"running": {key: value.float() for key, value in more["running"].items()}}
    more |= {"teacher": (reference.float() + 0.004 * torch.randn(target.shape, generator=generator)).bfloat16()}
    needs_reference = OBJECTIVES[name].reference is not None
    outputs = Outputs(policy, target, torch.zeros(GROUPS), reference=reference if needs_reference else None, **more)
    value = objective(outputs, **arguments(name, 5000.0)).value
    assert value.dtype == torch.float32
    close(value, naive_values(name, outputs, arguments(name, 5000.0)), rtol=2e-3, atol=5e-3)


def check_hand_values(objective: Objective, name: str) -> None:
    for hand in method(name).HAND:
        close(objective(hand_outputs(hand), **hand.arguments).value, [hand.expected], rtol=1e-9, atol=1e-9)


def check_far_margins(objective: Objective, name: str) -> None:
    """At margins of ±100,000 value and gradient stay finite: no overflow, no log of 0."""
    samples = SAMPLES[OBJECTIVES[name].rows]
    error = torch.stack([torch.linspace(1, 101, samples), torch.linspace(101, 1, samples)]).double().requires_grad_()
    reference = torch.ones(2, samples, dtype=torch.float64)
    more = everything(name, 2, samples, (2, 3))
    outputs = outputs_of_errors(error, reference if OBJECTIVES[name].reference is not None else None, **more)
    value = objective(outputs, **arguments(name, 2000.0)).value
    value.sum().backward()
    assert bool(torch.isfinite(value).all()) and error.grad is not None and bool(torch.isfinite(error.grad).all())


CHECKS: dict[str, Check] = {
    "unreduced": check_unreduced,
    "float64": check_float64,
    "stopped": check_stopped,
    "value at reference": check_value_at_reference,
    "parity": check_parity,
    "gradient": check_gradient,
    "signs": check_signs,
    "margin": check_margin,
    "tracked": check_tracked,
    "running": check_running,
    "swap": check_swap,
    "whom the policy puts first": check_compared,
    "clear pairs": check_clear_pairs,
    "permutation": check_permutation,
    "reference constant": check_reference_constant,
    "kept reference error": check_kept_reference_error,
    "any shape": check_any_shape,
    "bfloat16": check_bfloat16,
    "hand values": check_hand_values,
    "far margins": check_far_margins,
}
