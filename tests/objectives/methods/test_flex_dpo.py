"""Flex-DPO: −log σ(m), m = −(β/2)(Δ_w − loser·Δ_l)."""

from __future__ import annotations

import math

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.flex_dpo import flex_dpo

EXEMPT = {
    "margin flips": "the loser counts less than the winner",
    "reference constant": "with unequal weights the constant of a group does not cancel",
}


def naive(group: Group, *, beta: float, loser: float) -> float:
    margin = -(beta / 2) * (group.drift(0) - loser * group.drift(1))
    return math.log1p(math.exp(-margin))


# Δ = (−.2, .1): m = −5(−.2 − .05) = 1.25; exchanged: −5(.1 + .1) = −1; loser = 2: −5(−.2 − .2) = 2; Δ = (−2e-4, 0) at the default
# β = 5000: m = ½.
HAND = (
    Hand((0.3, 0.6), 0.251929081345372889, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.31326168751822283, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.126928011042972496, (0.5, 0.5), {"beta": 10.0, "loser": 2.0}),
    Hand((0.4998, 0.5), 0.474076984180106681, (0.5, 0.5)),
)


def test_with_equal_weights_it_is_dpo() -> None:
    outputs = random_outputs("flex_dpo")
    close(flex_dpo(outputs, beta=BETA, loser=1.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_without_its_loser_it_is_weighted_sft() -> None:
    """loser = 0: ∂L/∂e_w = (β/2)·σ(−r_w), SFT that lets go of fitted samples, and no gradient to the loser."""
    error = torch.tensor([[0.3, 0.9], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    flex_dpo(outputs_of_errors(error, torch.full((2, 2), 0.5, dtype=torch.float64)), beta=10.0, loser=0.0).value.sum().backward()
    close(error.grad, [[5 / (1 + math.exp(1)), 0.0], [5 / (1 + math.exp(-1)), 0.0]])


def test_the_loser_is_pushed_by_its_share() -> None:
    """∂L/∂e_l = −loser·∂L/∂e_w at any margin: the ratio of gradients that degrades DPO is set by hand."""
    error = torch.tensor([[0.3, 0.9], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    flex_dpo(outputs_of_errors(error, torch.full((2, 2), 0.5, dtype=torch.float64)), beta=10.0, loser=0.3).value.sum().backward()
    assert error.grad is not None
    close(error.grad[:, 1], -0.3 * error.grad[:, 0])
    assert bool((error.grad[:, 0] > 0.1).all())
