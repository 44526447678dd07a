"""β-DPO: −w·log σ(m·β′/β), β′ = max(minimum, β(1 + adapt·(last − M₀))), w = 1 − filter + filter·exp(−½((m − M₀)/s)²), w and β′ stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.beta_dpo import beta_dpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo

VARIANTS = ({"adapt": 0.0}, {"filter": 0.9, "decay": 0.5})
ARGUMENTS = {"minimum": 0.1}
RUNNING = {"margin": 0.25, "square": 0.5, "last": 0.75}


def naive(group: Group, *, beta: float, adapt: float, minimum: float, filter: float, decay: float) -> float:
    mean, square = (float(group.running.get(key, absent)) for key, absent in (("margin", 0.0), ("square", 1.0)))
    last = float(group.running.get("last", mean))
    scale = math.sqrt(max(square - mean**2, 1e-8))
    adapted = max(minimum, beta * (1 + adapt * (last - mean)))
    kernel = math.exp(-(((group.frozen.margin(beta) - mean) / scale) ** 2) / 2)
    return (1 - filter + filter * kernel) * math.log1p(math.exp(-group.margin(adapted)))


def naive_tracked(group: Group, *, beta: float, decay: float, **_: object) -> dict[str, float]:
    margin = group.margin(beta)
    mean, square = (float(group.running.get(key, absent)) for key, absent in (("margin", 0.0), ("square", 1.0)))
    return {"margin": decay * mean + (1 - decay) * margin, "square": decay * square + (1 - decay) * margin**2, "last": margin}


# m = 1.5 at β = 10. Nothing tracked yet: β′ = β, w = 0.8 + 0.2·e^−1.125; M₀ = ½, s² = 1.25 − ¼, last 1: β′ = 13, m′ = 1.95, w = 0.8 +
# 0.2·e^−½; last −2 below M₀ = 0: β′ would be −2, the minimum of 5 gives m′ = ¾, and w = ½ + ½·e^−1.125; a mean of 0 tracked without a
# last: β′ = β; the variance at its floor 1e-8: w = 0.8, β′ = 10(1 + 0.6(3 − 2)) = 16, m′ = 2.4; m = ½ at the default
# β = 5000, w = 0.8 + 0.2·e^−⅛.
HAND = (
    Hand((0.3, 0.6), 0.17420848591736868, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.12255313214221977, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 0.5, "square": 1.25, "last": 1.0}}),
    Hand(
        (0.3, 0.6), 0.25623481639975471, (0.5, 0.5), {"beta": 10.0, "filter": 0.5},
        {"running": {"margin": 0.0, "square": 1.0, "last": -2.0}},
    ),
    Hand((0.3, 0.6), 0.17420848591736868, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 0.0, "square": 1.0}}),
    Hand((0.3, 0.6), 0.0694689217231597428, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 2.0, "square": 3.0, "last": 3.0}}),
    Hand((0.4999, 0.5001), 0.462935881369203421, (0.5, 0.5)),
)  # fmt: skip


def test_without_adaptation_and_filter_it_is_dpo() -> None:
    outputs = random_outputs("beta_dpo")
    close(beta_dpo(outputs, beta=BETA, adapt=0.0, filter=0.0, minimum=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_weight_and_adapted_beta_carry_no_gradient() -> None:
    """∂L/∂e_w = w·σ(−m′)·β′/2, at m = 1.5, M₀ = ½, s = 1, β′ = 13: nothing through w, though m is far out on its slope."""
    running = {key: torch.tensor(value, dtype=torch.float64) for key, value in (("margin", 0.5), ("square", 1.25), ("last", 1.0))}
    error = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    beta_dpo(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64), running=running), beta=10.0).value.sum().backward()
    slope = (0.8 + 0.2 * math.exp(-0.5)) / (1 + math.exp(1.95)) * 6.5
    close(error.grad, [[slope, -slope]])


def test_a_usual_margin_weighs_most() -> None:
    """Both tails are damped alike, never below 1 − filter: m at M₀, one s to either side, and far off."""
    margin = torch.tensor([0.5, -0.5, 1.5, 400.5], dtype=torch.float64)
    error = torch.stack([500 - margin / 2, 500 + margin / 2], 1)  # β = 2: m = −(Δ_w − Δ_l)
    running = {key: torch.tensor(value, dtype=torch.float64) for key, value in (("margin", 0.5), ("square", 1.25))}
    outputs = outputs_of_errors(error, torch.full_like(error, 500.0), running=running)
    weight = beta_dpo(outputs, beta=2.0, minimum=0.0, filter=0.3).value[:3] / diffusion_dpo(outputs, beta=2.0).value[:3]
    damped = 0.7 + 0.3 * math.exp(-0.5)
    close(weight, [1.0, damped, damped])
    flipped = replace(outputs, policy=outputs.policy.flip(1))
    close(beta_dpo(flipped, beta=2.0, minimum=0.0, filter=0.3).value[3], 0.7 * 400.5)


def test_tracks_the_margin_at_its_first_beta() -> None:
    """Not at β′: an adapted margin would feed on itself. The mean square stands for the variance, the last margin for the next β′."""
    outputs = random_outputs("beta_dpo")
    tracked = beta_dpo(outputs, beta=BETA, decay=0.7).tracked
    margin = diffusion_dpo(outputs, beta=BETA).margin
    assert margin is not None
    close(tracked["margin"], 0.7 * 0.25 + 0.3 * margin)
    close(tracked["square"], 0.7 * 0.5 + 0.3 * margin**2)
    close(tracked["last"], margin)
    fresh = beta_dpo(replace(outputs, running={}), beta=BETA).tracked
    close(fresh["margin"], 0.1 * margin)
    close(fresh["square"], 0.9 + 0.1 * margin**2)
