"""APO-zero: 1 − σ(r_w) + σ(r_l)."""

from __future__ import annotations

import math

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs, swapped

from diffalign.objectives.apo_zero import apo_zero

EXEMPT = {"reference constant": "it judges each reward against 0, not their difference"}


def naive(group: Group, *, beta: float) -> float:
    return 1 - 1 / (1 + math.exp(-group.reward(0, beta))) + 1 / (1 + math.exp(-group.reward(1, beta)))


# r = (1, −½): 1 − 0.7311 + 0.3775; exchanged; r = (ln 3, −ln 3): 1 − ¾ + ¼; at the default β = 5000 the first again.
HAND = (
    Hand((0.3, 0.6), 0.64648209016814056, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.35351790983185944, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.5, 1.5986122886681098), 0.5, (1.5986122886681098, 0.5), {"beta": 2.0}),
    Hand((0.4996, 0.5002), 0.64648209016814056, (0.5, 0.5)),
)


def test_pair_and_swapped_pair_add_up_to_two() -> None:
    outputs = random_outputs("apo_zero")
    close(apo_zero(outputs, beta=BETA).value + apo_zero(swapped(outputs), beta=BETA).value, [2.0] * 5)


def test_is_bounded_and_lets_go_on_both_sides() -> None:
    """∂L/∂r_w = −σ′(r_w), ∂L/∂r_l = σ′(r_l), each at most ¼, at r = 0; values from 0 to 2 and no gradient far out."""
    reward = torch.tensor([[0.0, 1.0], [99.0, -99.0], [-99.0, 99.0], [99.0, 0.0]], dtype=torch.float64)
    error = (100 - reward).requires_grad_()  # β = 2: r = −Δ
    value = apo_zero(outputs_of_errors(error, torch.full((4, 2), 100.0, dtype=torch.float64)), beta=2.0).value
    value.sum().backward()
    up = 1 / (1 + math.exp(-1))
    close(value, [0.5 + up, 0.0, 2.0, 0.5], atol=1e-12)
    close(error.grad, [[0.25, -up * (1 - up)], [0.0, 0.0], [0.0, 0.0], [0.0, -0.25]], atol=1e-12)
