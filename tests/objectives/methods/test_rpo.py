"""RPO: −log σ(m) + sft·(β/2)·e_w."""

from __future__ import annotations

import math

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.rpo import rpo

VARIANTS = ({"sft": 1.0, "relative": False},)
EXEMPT = {"value at reference": "it depends on the winner's error"}


def naive(group: Group, *, beta: float, sft: float, relative: bool) -> float:
    return math.log(1 + math.exp(-group.margin(beta))) + (sft * beta / 2 if relative else sft) * group.error(0)


# The values of diffusion_dpo, and 0.4 · β/2 · e_w: 0.6, 1.2, 499.9.
HAND = (
    Hand((0.3, 0.6), 0.80141327798275246, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 2.90141327798275246, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.4999, 0.5001), 500.37407698418010668, (0.5, 0.5)),
    Hand((0.5, 0.7), 1.19314718055994531, (0.5, 0.7), {"beta": 500.0, "sft": 1.0, "relative": False}),  # CRPO at its start: ln 2 + e_w
)


def test_without_its_regulariser_it_is_dpo() -> None:
    outputs = random_outputs("rpo")
    close(rpo(outputs, beta=BETA, sft=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_pulls_the_winner_down_at_any_margin() -> None:
    """∂L/∂e_w = (β/2)(σ(−m) + sft), ∂L/∂e_l = −(β/2)σ(−m): at m = 4 and at m = 40,000, where DPO has let go of both."""
    for scale, sigmoid in ((1.0, 0.01798620996209156), (1e4, 0.0)):
        error = torch.tensor([[0.1, 0.1 + 0.8 * scale]], dtype=torch.float64, requires_grad=True)
        rpo(outputs_of_errors(error, torch.full((1, 2), 0.1, dtype=torch.float64)), beta=10.0, sft=0.4).value.sum().backward()
        close(error.grad, [[5 * (sigmoid + 0.4), -5 * sigmoid]], rtol=1e-6)


def test_much_of_its_regulariser_is_fine_tuning() -> None:
    """sft → ∞: the gradient turns to that of the winner's error alone."""
    error = torch.tensor([[0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    rpo(outputs_of_errors(error, torch.full((1, 2), 0.3, dtype=torch.float64)), beta=10.0, sft=1e20).value.sum().backward()
    close(error.grad / 5e20, [[1.0, 0.0]], rtol=1e-6)
