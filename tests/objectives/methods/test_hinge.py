"""Hinge: max(0, 1 − m)."""

from __future__ import annotations

import torch
from objective_checks import Group, Hand, outputs_of_errors

from diffalign.objectives.hinge import hinge


def naive(group: Group, *, beta: float) -> float:
    return max(0.0, 1 - group.margin(beta))


# m = 1.5, −1.5 and 0.5.
HAND = (
    Hand((0.3, 0.6), 0.0, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 2.5, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.4999, 0.5001), 0.5, (0.5, 0.5)),
)


def test_has_no_gradient_past_its_margin() -> None:
    error = torch.tensor([[0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    hinge(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64)), beta=10.0).value.sum().backward()
    assert error.grad is not None and error.grad.tolist() == [[0.0, 0.0]]
