"""IPO: (m − ½)²."""

from __future__ import annotations

import torch
from objective_checks import Group, Hand, close, outputs_of_errors

from diffalign.objectives.ipo import ipo


def naive(group: Group, *, beta: float) -> float:
    return (group.margin(beta) - 0.5) ** 2


# m = 1.5, −1.5 and 0.5.
HAND = (
    Hand((0.3, 0.6), 1.0, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 4.0, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.499, 0.501), 0.0, (0.5, 0.5)),
)


def test_pulls_back_past_its_target() -> None:
    """m = 4 lies past ½: the winner's error is pushed up again, so that certain labels keep a finite optimum."""
    error = torch.tensor([[0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    loss = ipo(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64)), beta=10.0)
    loss.value.sum().backward()
    assert loss.margin is not None and error.grad is not None
    close(loss.margin, [4.0])
    close(error.grad, [[-35.0, 35.0]])  # 2·(m − ½)·(∓β/2)
