"""What every objective is asked, as functions of the objective: the tests run them over the table, the mutation test over planted errors.

A check takes the objective (Outputs, **arguments → Loss) and its name in OBJECTIVES, and raises AssertionError or ValueError.
The naive loops here are the second opinion: NumPy, one group, one sample, one element at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.objectives import OBJECTIVES, defaults
from diffalign.tensors import Loss, Outputs

Objective = Callable[..., Loss]
Check = Callable[[Objective, str], None]

BETA = 3.0  # with errors near 1 this keeps margins within ±1, where no objective is flat
GROUPS = 5
SHAPES = {
    "image": (4, 6, 5),
    "image with a unit axis": (4, 1, 6, 5),
    "video": (4, 3, 6, 5),
    "waveform": (1, 64),
    "mel": (8, 16, 4),
    "one number": (1, 1),
}


# Inputs --------------------------------------------------------------------------------------------


def arguments(name: str, beta: float = BETA) -> dict[str, Any]:
    """β where the objective takes one."""
    return {"beta": beta} if "beta" in defaults(name) else {}


def random_outputs(
    name: str, shape: tuple[int, ...] = SHAPES["image"], *, seed: int = 0, groups: int = GROUPS, samples: int = 2
) -> Outputs:
    """Normal predictions and targets in float64, with a reference only where the objective's line asks for one."""
    generator = torch.Generator().manual_seed(0)
    policy, reference, target = torch.randn(3, groups, samples, *shape, generator=generator, dtype=torch.float64)
    needs_reference = OBJECTIVES[name].reference is not None
    return Outputs(policy, target, torch.arange(groups), reference=reference if needs_reference else None)


def outputs_of_errors(error: Tensor, reference_error: Tensor | None = None, *, shape: tuple[int, ...] = (2, 3)) -> Outputs:
    """Outputs whose errors are the given (B, K) numbers, with gradient to them: predictions √e off a target of zero, signs alternating."""
    signs = torch.tensor([1.0, -1.0], dtype=error.dtype).repeat(math.prod(shape))[: math.prod(shape)].view(shape)

    def spread(numbers: Tensor) -> Tensor:
        return numbers.sqrt()[(...,) + (None,) * len(shape)] * signs

    policy = spread(error)
    reference = None if reference_error is None else spread(reference_error)
    return Outputs(policy, torch.zeros_like(policy), torch.zeros(len(error)), reference=reference)


def swapped(outputs: Outputs) -> Outputs:
    """Winner and loser exchanged."""
    reference = None if outputs.reference is None else outputs.reference.flip(1)
    return replace(outputs, policy=outputs.policy.flip(1), target=outputs.target.flip(1), reference=reference)


# The second opinion --------------------------------------------------------------------------------


def naive_error(prediction: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for p, y in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        total += (p - y) ** 2
    return total / prediction.size


def naive_margin(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, beta: float) -> float:
    """m = −(β/2)·((e_w − e_w_ref) − (e_l − e_l_ref)) of one group (K = 2, C, *S)."""
    e_w, e_l = naive_error(policy[0], target[0]), naive_error(policy[1], target[1])
    ref_w, ref_l = naive_error(reference[0], target[0]), naive_error(reference[1], target[1])
    return -(beta / 2) * ((e_w - ref_w) - (e_l - ref_l))


# One line for each objective: (policy, reference, target) of one group and β → the group's value.
NAIVE: dict[str, Callable[[np.ndarray, Any, np.ndarray, float], float]] = {
    "diffusion_dpo": lambda p, q, y, beta: -math.log(1 / (1 + math.exp(-naive_margin(p, q, y, beta)))),
    "ipo": lambda p, q, y, beta: (naive_margin(p, q, y, beta) - 0.5) ** 2,
    "hinge": lambda p, q, y, beta: max(0.0, 1 - naive_margin(p, q, y, beta)),
    "rpo": lambda p, q, y, beta: NAIVE["diffusion_dpo"](p, q, y, beta) + 0.4 * beta / 2 * naive_error(p[0], y[0]),
    "sft": lambda p, q, y, beta: naive_error(p[0], y[0]),
}


def naive_values(name: str, outputs: Outputs, beta: float = BETA) -> np.ndarray:
    """Values (B,) by the loop."""
    policy, target = outputs.policy.detach().double().numpy(), outputs.target.double().numpy()
    reference = [None] * len(policy) if outputs.reference is None else outputs.reference.double().numpy()
    return np.array([NAIVE[name](p, q, y, beta) for p, q, y in zip(policy, reference, target, strict=True)])


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
        reference = None if outputs.reference is None else outputs.reference[one]
        alone = Outputs(outputs.policy[one], outputs.target[one], outputs.timestep[one], reference=reference)
        close(objective(alone, **arguments(name)).value, value[one])


def check_float64(objective: Objective, name: str) -> None:
    loss = objective(random_outputs(name), **arguments(name))
    assert loss.value.dtype == torch.float64
    assert loss.margin is None or loss.margin.dtype == torch.float64


def check_value_at_reference(objective: Objective, name: str) -> None:
    """With policy = reference the value is the table's, whatever the errors are, and the margin is 0."""
    expected = OBJECTIVES[name].value_at_reference
    outputs = random_outputs(name)
    loss = objective(replace(outputs, policy=outputs.reference if outputs.reference is not None else outputs.policy), **arguments(name))
    if expected is not None:
        close(loss.value, np.full(GROUPS, expected))
        assert loss.margin is not None
        close(loss.margin, np.zeros(GROUPS))


def check_parity(objective: Objective, name: str) -> None:
    """Value and margin equal the naive loop's, in float64, for every modality's shape."""
    for shape in SHAPES.values():
        outputs = random_outputs(name, shape)
        loss = objective(outputs, **arguments(name))
        close(loss.value, naive_values(name, outputs))
        if loss.margin is not None:
            policy, reference, target = (tensor.numpy() for tensor in (outputs.policy, outputs.reference, outputs.target))
            close(loss.margin, [naive_margin(p, q, y, BETA) for p, q, y in zip(policy, reference, target, strict=True)])


def check_gradient(objective: Objective, name: str) -> None:
    """∂ΣL/∂policy equals central differences of the naive loop, at every element."""
    outputs = random_outputs(name, (2, 3, 2), groups=3)
    policy = outputs.policy.clone().requires_grad_()
    objective(replace(outputs, policy=policy), **arguments(name)).value.sum().backward()
    step, expected = 1e-5, np.zeros(policy.shape)
    for place in np.ndindex(*policy.shape):
        sides = []
        for sign in (1, -1):
            moved = outputs.policy.clone()
            moved[place] += sign * step
            sides.append(naive_values(name, replace(outputs, policy=moved)).sum())
        expected[place] = (sides[0] - sides[1]) / (2 * step)
    assert policy.grad is not None
    close(policy.grad, expected, rtol=1e-6, atol=1e-9)


def check_signs(objective: Objective, name: str) -> None:
    """∂L/∂e_w > 0 ≥ ∂L/∂e_l while the margin is below every target, and one step down brings the winner nearer its target."""
    for drift_w, drift_l in ((0.0, 0.0), (0.1, -0.1), (-0.1, 0.05), (0.2, 0.2)):
        reference = torch.tensor([[0.7, 0.9]], dtype=torch.float64)
        error = (reference + torch.tensor([[drift_w, drift_l]], dtype=torch.float64)).requires_grad_()
        needs_reference = OBJECTIVES[name].reference is not None
        objective(outputs_of_errors(error, reference if needs_reference else None), **arguments(name)).value.sum().backward()
        assert error.grad is not None
        assert error.grad[0, 0] > 0 >= error.grad[0, 1], f"gradient {error.grad.tolist()} at drift {drift_w}, {drift_l}"
        assert needs_reference is bool(error.grad[0, 1] < 0)
    outputs = random_outputs(name)
    outputs = replace(outputs, policy=outputs.reference if needs_reference else outputs.policy)
    policy = outputs.policy.clone().requires_grad_()
    objective(replace(outputs, policy=policy), **arguments(name)).value.sum().backward()
    assert policy.grad is not None
    after = replace(outputs, policy=policy.detach() - 0.01 * policy.grad)
    assert bool((after.error[:, 0] < outputs.error[:, 0]).all()), "a step down must bring the winner nearer to its target"
    assert bool((after.error[:, 1] >= outputs.error[:, 1]).all()), "a step down must not bring the loser nearer to its target"


def check_swap(objective: Objective, name: str) -> None:
    """Exchanging w and l flips the margin, and the value is the naive loop's of the exchanged pair."""
    outputs = random_outputs(name)
    forward, backward = (objective(each, **arguments(name)) for each in (outputs, swapped(outputs)))
    close(backward.value, naive_values(name, swapped(outputs)))
    if OBJECTIVES[name].rows == "pairs":
        assert forward.margin is not None and backward.margin is not None
        close(backward.margin, -forward.margin)
        assert not torch.allclose(forward.value, backward.value)


def check_reference_constant(objective: Objective, name: str) -> None:
    """A constant added to both reference errors leaves a pairwise value: only differences of drift count."""
    if OBJECTIVES[name].reference is None:
        return
    outputs = random_outputs(name)
    moved = replace(outputs, reference=None, known_reference_error=outputs.reference_error + 0.37)
    close(objective(moved, **arguments(name)).value, objective(outputs, **arguments(name)).value)


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
        parts = {key: getattr(outputs, key) for key in ("policy", "target", "reference")}
        flat = replace(outputs, **{key: None if part is None else part.flatten(2).unsqueeze(2) for key, part in parts.items()})
        unit = replace(outputs, **{key: None if part is None else part.unsqueeze(3) for key, part in parts.items()})
        value = objective(outputs, **arguments(name)).value
        close(objective(flat, **arguments(name)).value, value)
        close(objective(unit, **arguments(name)).value, value)


def check_bfloat16(objective: Objective, name: str) -> None:
    """From bf16 tensors the value is float32's: errors near 1 that differ by 1e-4 are lost in bf16, and β/2 = 2500 multiplies the loss."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(GROUPS, 2, 4, 16, 16, generator=generator).bfloat16()
    reference = (target.float() + torch.randn(target.shape, generator=generator)).bfloat16()
    policy = (reference.float() + 0.004 * torch.randn(target.shape, generator=generator)).bfloat16()
    needs_reference = OBJECTIVES[name].reference is not None
    outputs = Outputs(policy, target, torch.zeros(GROUPS), reference=reference if needs_reference else None)
    value = objective(outputs, **arguments(name, 5000.0)).value
    assert value.dtype == torch.float32
    close(value, naive_values(name, outputs, 5000.0), rtol=2e-3, atol=5e-3)


# (e_w, e_l, reference e_w, reference e_l, β) → value, by hand. Row 1: drifts −0.2 and 0.1, m = −5 · (−0.3) = 1.5; row 2: m = −1.5;
# row 3: drifts ∓1e-4 at β = 5000, m = 0.5. ln(1 + e^−1.5) = 0.20141327798275246, ln(1 + e^−0.5) = 0.47407698418010668.
# rpo adds 0.4 · β/2 · e_w: 0.6, 1.2, 499.9.
HAND: tuple[tuple[tuple[float, float, float, float, float], dict[str, float]], ...] = (
    ((0.3, 0.6, 0.5, 0.5, 10.0), {"diffusion_dpo": 0.20141327798275246, "ipo": 1.0, "hinge": 0.0, "rpo": 0.80141327798275246, "sft": 0.3}),
    ((0.6, 0.3, 0.5, 0.5, 10.0), {"diffusion_dpo": 1.70141327798275246, "ipo": 4.0, "hinge": 2.5, "rpo": 2.90141327798275246, "sft": 0.6}),
    (
        (0.4999, 0.5001, 0.5, 0.5, 5000.0),
        {"diffusion_dpo": 0.47407698418010668, "ipo": 0.0, "hinge": 0.5, "rpo": 500.37407698418010668, "sft": 0.4999},
    ),
)


def check_hand_values(objective: Objective, name: str) -> None:
    for (e_w, e_l, ref_w, ref_l, beta), expected in HAND:
        error, reference = torch.tensor([[e_w, e_l]], dtype=torch.float64), torch.tensor([[ref_w, ref_l]], dtype=torch.float64)
        outputs = outputs_of_errors(error, reference if OBJECTIVES[name].reference is not None else None)
        close(objective(outputs, **arguments(name, beta)).value, [expected[name]], rtol=1e-9, atol=1e-9)


def check_far_margins(objective: Objective, name: str) -> None:
    """At margins of ±100,000 value and gradient stay finite: no overflow, no log of 0."""
    error = torch.tensor([[1.0, 101.0], [101.0, 1.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.ones(2, 2, dtype=torch.float64)
    outputs = outputs_of_errors(error, reference if OBJECTIVES[name].reference is not None else None)
    value = objective(outputs, **arguments(name, 2000.0)).value
    value.sum().backward()
    assert bool(torch.isfinite(value).all()) and error.grad is not None and bool(torch.isfinite(error.grad).all())


CHECKS: dict[str, Check] = {
    "unreduced": check_unreduced,
    "float64": check_float64,
    "value at reference": check_value_at_reference,
    "parity": check_parity,
    "gradient": check_gradient,
    "signs": check_signs,
    "swap": check_swap,
    "reference constant": check_reference_constant,
    "kept reference error": check_kept_reference_error,
    "any shape": check_any_shape,
    "bfloat16": check_bfloat16,
    "hand values": check_hand_values,
    "far margins": check_far_margins,
}
