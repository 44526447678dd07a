"""MaPO: e_w + weight·(−log σ(steps·(g(e_w) − g(e_l)))), g(e) = s·e/(exp(s·e) − 1)."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.mapo import mapo
from diffalign.objectives.sft import sft
from diffalign.tensors import Outputs

VARIANTS = ({"scale": 1e-5, "steps": 2e5},)  # errors so small that g is its series
ARGUMENTS = {"steps": 5.0}  # 1,000 is meant for errors that differ by 1e-3


def naive(group: Group, *, weight: float, scale: float, steps: float) -> float:
    def g(error: float) -> float:
        return scale * error / math.expm1(scale * error) if error else 1.0

    return group.error(0) + weight * math.log1p(math.exp(-steps * (g(group.error(0)) - g(group.error(1)))))


# g(1) = ½/(√e − 1), g(2) = 1/(e − 1): 1 + 0.1·ln(1 + e^(−10(g(1) − g(2)))); with scale 1 g(2) = 2/(e² − 1), g(1) = 1/(e − 1):
# 2 + 2·ln(1 + e^(−3(g(2) − g(1)))); at the defaults g(½) − g(0.502) over a gap of 0.002.
HAND = (
    Hand((1.0, 2.0), 1.01409952402836072, arguments={"steps": 10.0}),
    Hand((2.0, 1.0), 4.35162842135015371, arguments={"weight": 2.0, "scale": 1.0, "steps": 3.0}),
    Hand((0.5, 0.502), 0.549001105165622363),
)


def test_without_weight_it_is_sft() -> None:
    outputs = random_outputs("mapo")
    assert torch.equal(mapo(outputs, weight=0.0).value, sft(outputs).value)


def test_slope_at_small_errors() -> None:
    """g′(0) = −s/2, so the margin is 250·(e_l − e_w), reference-free at β = 500: ∂L = 1 + 0.1·250·½ and −0.1·250·½."""
    error = torch.full((1, 2), 1e-6, dtype=torch.float64, requires_grad=True)
    mapo(outputs_of_errors(error)).value.sum().backward()
    close(error.grad, [[13.5, -12.5]], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-4, 60.0], ids=lambda size: f"prediction {size}")
def test_finite_from_nothing_to_far(size, dtype) -> None:
    """0/(e⁰ − 1) = 1 at e = 0, by the limit, with a finite derivative; e^(s·e) overflows at e = 3,600, where g is 0."""
    policy = torch.full((1, 2, 1, 3), size, dtype=dtype, requires_grad=True)
    value = mapo(Outputs(policy, torch.zeros_like(policy), torch.zeros(1))).value
    value.sum().backward()
    close(value, [size**2 + 0.1 * math.log(2)], rtol=1e-6)
    assert policy.grad is not None and bool(torch.isfinite(policy.grad).all())
