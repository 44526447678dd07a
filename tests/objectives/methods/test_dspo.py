"""DSPO: mean[((p_w − y) − γσ(−m)·(p_w − q_w))²]."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.dspo import dspo
from diffalign.objectives.sft import sft

ARGUMENTS = {"gamma": 0.5}
EXEMPT = {"signs": "at the reference p_w = q_w, and the loser is not felt: asserted below"}


def naive(group: Group, *, beta: float, gamma: float) -> float:
    push = gamma / (1 + math.exp(group.margin(beta)))
    p, q, y = (part[0].ravel().tolist() for part in (group.policy, group.reference, group.target))
    return sum(((p[i] - y[i]) - push * (p[i] - q[i])) ** 2 for i in range(len(y))) / len(y)


# p_w = ±½, q_w = ±0.7, m = −5·(−0.24 − 0.28) = 2.6: (½ + 0.2·½σ(−2.6))²; p_w = ±0.8, q_w = ±0.6, m = −2.6 at the default γ:
# (0.8 − 0.2·0.01·σ(2.6))²; policy = reference: e_w.
HAND = (
    Hand((0.25, 0.64), 0.256961643246010415, (0.49, 0.36), {"beta": 10.0, "gamma": 0.5}),
    Hand((0.64, 0.25), 0.637024708958220633, (0.36, 0.49), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.3, (0.3, 0.6), {"gamma": 0.5}),
)


def test_without_push_it_is_sft() -> None:
    outputs = random_outputs("dspo")
    close(dspo(outputs, beta=BETA, gamma=0.0).value, sft(outputs).value, rtol=0, atol=0)


def test_starts_at_the_error_of_the_winner() -> None:
    outputs = random_outputs("dspo")
    assert outputs.reference is not None
    at_reference = replace(outputs, policy=outputs.reference)
    close(dspo(at_reference, gamma=0.5).value, at_reference.error[:, 0])


def test_minimiser_lies_past_the_target_away_from_the_reference() -> None:
    """With β = 0 the push is c = γ/2 = ¼: the loss is 0 at p = y + c/(1 − c)·(y − q), and not at the target."""
    outputs = random_outputs("dspo")
    assert outputs.reference is not None
    beyond = outputs.target + (outputs.target - outputs.reference) / 3
    close(dspo(replace(outputs, policy=beyond), beta=0.0, gamma=0.5).value, torch.zeros(5, dtype=torch.float64))
    assert bool((dspo(replace(outputs, policy=outputs.target), beta=0.0, gamma=0.5).value > 0.01).all())


def test_the_loser_is_felt_through_the_sigmoid_alone() -> None:
    """At the reference ∂L/∂e = (1 − γ/2, 0). At p_w = ½, q_w = 0.7 and m = 2.6, with a = ½ + 0.2c and c = γσ(−m):
    ∂L/∂e_l = 2a·0.2·∂c/∂e_l = −0.4a·(β/2)·γ·σ(−m)σ(m), so the loser is pushed up once the winner has improved."""
    at_reference = torch.tensor([[0.25, 0.64]], dtype=torch.float64, requires_grad=True)
    dspo(outputs_of_errors(at_reference, at_reference.detach()), beta=10.0, gamma=0.5).value.sum().backward()
    close(at_reference.grad, [[0.75, 0.0]])
    error = torch.tensor([[0.25, 0.64]], dtype=torch.float64, requires_grad=True)
    dspo(outputs_of_errors(error, torch.tensor([[0.49, 0.36]], dtype=torch.float64)), beta=10.0, gamma=0.5).value.sum().backward()
    sigmoid = 1 / (1 + math.exp(2.6))
    expected = -0.4 * (0.5 + 0.1 * sigmoid) * 5 * 0.5 * sigmoid * (1 - sigmoid)
    assert error.grad is not None
    close(error.grad[0, 1], expected)
