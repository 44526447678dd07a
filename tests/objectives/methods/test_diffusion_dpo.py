"""Diffusion-DPO: −log σ(m)."""

from __future__ import annotations

import math

from objective_checks import BETA, Group, Hand, close, random_outputs, swapped

from diffalign.objectives.diffusion_dpo import diffusion_dpo


def naive(group: Group, *, beta: float) -> float:
    return -math.log(1 / (1 + math.exp(-group.margin(beta))))


# Drifts −0.2 and 0.1: m = −5 · (−0.3) = 1.5, ln(1 + e^−1.5); the same with the samples exchanged: m = −1.5; drifts ∓1e-4 at the default
# β = 5000 of Wallace et al. 2023 (SDXL): m = 0.5, ln(1 + e^−0.5).
HAND = (
    Hand((0.3, 0.6), 0.20141327798275246, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.70141327798275246, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.4999, 0.5001), 0.47407698418010668, (0.5, 0.5)),
)


def test_differs_from_its_swap_by_the_margin() -> None:
    """L(m) − L(−m) = −m, exactly the logistic link's."""
    outputs = random_outputs("diffusion_dpo")
    forward, backward = diffusion_dpo(outputs, beta=BETA), diffusion_dpo(swapped(outputs), beta=BETA)
    assert forward.margin is not None
    close(forward.value - backward.value, -forward.margin)
