"""DMPO: P·ln(P/(1 − α)) + (1 − P)·ln((1 − P)/α), P = σ(m)."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import Group, Hand, close, outputs_of_errors
from torch import Tensor
from toys import minimise

from diffalign.objectives.dmpo import dmpo
from diffalign.tensors import Outputs


def naive(group: Group, *, beta: float, alpha: float) -> float:
    margin = group.margin(beta)
    win, lose = 1 / (1 + math.exp(-margin)), 1 / (1 + math.exp(margin))
    return win * math.log(win / (1 - alpha)) + lose * math.log(lose / alpha)


# P = σ(1.5) against 0.99, P = σ(−1.5) against ¾, and P = σ(½) against 0.99 at the default β.
HAND = (
    Hand((0.3, 0.6), 0.373265917775002735, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 0.71082787520722383, (0.5, 0.5), {"beta": 10.0, "alpha": 0.25}),
    Hand((0.4999, 0.5001), 1.08204763870176895, (0.5, 0.5)),
)


def of_margin(margin: Tensor) -> Outputs:
    """Outputs whose margin at β = 2 is the given (B,) numbers."""
    error = torch.stack([500 - margin / 2, 500 + margin / 2], 1)
    return outputs_of_errors(error, torch.full_like(error.detach(), 500.0))


def slope(number: float, alpha: float = 0.01) -> float:
    margin = torch.tensor([number], dtype=torch.float64, requires_grad=True)
    dmpo(of_margin(margin), beta=2.0, alpha=alpha).value.sum().backward()
    assert margin.grad is not None
    return margin.grad.item()


@pytest.mark.parametrize(("alpha", "optimum"), [(0.01, 4.59511985013458993), (0.25, 1.09861228866810969)])
def test_optimum(alpha, optimum) -> None:
    """m = log((1 − α)/α), where P = 1 − α: value 0."""
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return dmpo(of_margin(margin), beta=2.0, alpha=alpha).value.sum()

    minimise(loss, margin)
    close(margin, [optimum], rtol=0, atol=1e-5)
    close(dmpo(of_margin(margin.detach()), beta=2.0, alpha=alpha).value, [0.0], atol=1e-10)


def test_descent_raises_the_margin_only_below_the_optimum() -> None:
    """dL/dm = P(1 − P)·(m − log((1 − α)/α)): at m = 0 it is −4.595/4."""
    assert slope(0.0) == pytest.approx(-4.59511985013458993 / 4, rel=1e-9)
    assert slope(4.5) < 0 < slope(4.7)


def test_gives_up_badly_ordered_pairs() -> None:
    """Reverse divergence: far below the optimum the value is bounded by ln(1/α) and the gradient is gone."""
    assert abs(slope(-60.0)) < 1e-20
    value = dmpo(of_margin(torch.tensor([-60.0, -900.0], dtype=torch.float64)), beta=2.0).value
    close(value, [math.log(100)] * 2)
