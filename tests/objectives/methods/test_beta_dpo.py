"""β-DPO: −w·log σ(m·β′/β), β′ = max(minimum, β(1 + adapt·(m̄ − M₀))), w = (1 − e^(−λk))/(1 − filter), k = e^(−½((m − M₀)/s)²), stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.beta_dpo import beta_dpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.training.randomness import generator

VARIANTS = ({"adapt": 0.0}, {"filter": 0.9, "decay": 0.5})
ARGUMENTS = {"minimum": 0.1}
RUNNING = {"margin": 0.25, "square": 0.5, "last": 0.75}


def race(share: float) -> float:
    """λ with ∫ φ(z)·exp(−λ·e^(−z²/2)) dz = share, by bisection on a sum of its own."""
    places = [-9 + 0.02 * step for step in range(901)]
    low, high = 1e-9, 1e9
    for _ in range(200):
        middle = math.sqrt(low * high)
        left = sum(0.02 * math.exp(-z * z / 2 - middle * math.exp(-z * z / 2)) for z in places) / math.sqrt(2 * math.pi)
        low, high = (middle, high) if left > share else (low, middle)
    return low


RACES = {share: race(share) for share in (0.2, 0.3, 0.5, 0.9)}


def naive(group: Group, *, beta: float, adapt: float, minimum: float, filter: float, decay: float) -> float:
    mean, square = (float(group.running.get(key, absent)) for key, absent in (("margin", 0.0), ("square", 1.0)))
    last, weight = float(group.running.get("last", mean)), 1.0
    if "margin" in group.running:
        distance = (group.frozen.margin(beta) - mean) ** 2 / max(square - mean**2, 1e-8)
        weight = (1 - math.exp(-RACES[filter] * math.exp(-distance / 2))) / (1 - filter)
    adapted = max(minimum, beta * (1 + adapt * (last - mean)))
    return weight * math.log1p(math.exp(-group.margin(adapted)))


def naive_tracked(group: Group, *, beta: float, decay: float, **_: object) -> dict[str, float]:
    margin = group.margin(beta)
    mean, square = (float(group.running.get(key, absent)) for key, absent in (("margin", 0.0), ("square", 1.0)))
    return {"margin": decay * mean + (1 - decay) * margin, "square": decay * square + (1 - decay) * margin**2, "last": margin}


# m = 1.5 at β = 10. Nothing tracked yet: β′ = β, w = 1. λ(0.2) = 2.7565: M₀ = ½, s² = 1.25 − ¼, m̄ = 1: β′ = 13, m′ = 1.95, w =
# (1 − e^(−λ·e^−½))/0.8; λ(½) = 1.0443, m̄ = −2 below M₀ = 0: β′ would be −2, the minimum of 5 gives m′ = ¾, w = (1 − e^(−λ·e^−1.125))
# over ½; a mean of 0 tracked without a last: β′ = β; the variance at its floor 1e-8: w = 0; m = ½ at the default β = 5000, w = 1.
HAND = (
    Hand((0.3, 0.6), 0.201413277982752410, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.13503469069134816, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 0.5, "square": 1.25, "last": 1.0}}),
    Hand(
        (0.3, 0.6), 0.2224911299262635, (0.5, 0.5), {"beta": 10.0, "filter": 0.5},
        {"running": {"margin": 0.0, "square": 1.0, "last": -2.0}},
    ),
    Hand((0.3, 0.6), 0.14888287193168254, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 0.0, "square": 1.0}}),
    Hand((0.3, 0.6), 0.0, (0.5, 0.5), {"beta": 10.0}, {"running": {"margin": 2.0, "square": 3.0, "last": 3.0}}),
    Hand((0.4999, 0.5001), 0.474076984180106742, (0.5, 0.5)),
)  # fmt: skip


def test_without_adaptation_and_filter_it_is_dpo() -> None:
    outputs = random_outputs("beta_dpo")
    close(beta_dpo(outputs, beta=BETA, adapt=0.0, filter=0.0, minimum=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_weight_and_adapted_beta_carry_no_gradient() -> None:
    """∂L/∂e_w = w·σ(−m′)·β′/2, at m = 1.5, M₀ = ½, s = 1, β′ = 13: nothing through w, though m is far out on its slope."""
    running = {"margin": 0.5, "square": 1.25, "last": 1.0}
    error = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(
        error, torch.full((1, 2), 0.5, dtype=torch.float64), running={key: torch.tensor(value).double() for key, value in running.items()}
    )
    beta_dpo(outputs, beta=10.0).value.sum().backward()
    slope = (1 - math.exp(-RACES[0.2] * math.exp(-0.5))) / 0.8 / (1 + math.exp(1.95)) * 6.5
    close(error.grad, [[slope, -slope]], rtol=1e-6)


def weights(margin: torch.Tensor, share: float) -> torch.Tensor:
    """w of margins under M₀ = 0 and s = 1, at an even β′."""
    error = torch.stack([500 - margin / 2, 500 + margin / 2], 1)  # β = 2: m = −(Δ_w − Δ_l)
    running = {key: torch.tensor(value, dtype=torch.float64) for key, value in (("margin", 0.0), ("square", 1.0))}
    outputs = outputs_of_errors(error, torch.full_like(error, 500.0), running=running)
    return beta_dpo(outputs, beta=2.0, minimum=0.0, filter=share).value / diffusion_dpo(outputs, beta=2.0).value


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_weighs_pairs_as_the_release_s_draw_does_in_the_mean(share: float) -> None:
    """1,000 draws of (1 − ρ)N of N pairs without replacement, ∝ k, divided by how many were kept: the weights in the mean.

    Neither 1 − ρ + ρk, which is near 1 for all, nor k over its mean, which a draw without replacement is near at large ρ alone.
    """
    draws = generator("draws")
    margin = torch.randn(1000, generator=draws, dtype=torch.float64).sort().values
    k = torch.exp(-margin.square() / 2)
    count = round(1000 * (1 - share))
    drawn = torch.zeros_like(k)
    for _ in range(1000):
        drawn[torch.multinomial(k, count, generator=draws)] += 1 / count
    found, expected = (each.view(20, 50).mean(1) for each in (weights(margin, share), drawn))
    close(found, expected, rtol=0.05, atol=0.01)
    if share == 0.9:
        close(found, (k / k.mean()).view(20, 50).mean(1), rtol=0.2)


def test_both_tails_count_less_alike() -> None:
    margin = torch.tensor([0.0, -1.0, 1.0, 40.0], dtype=torch.float64)
    usual, below, above, far = weights(margin, 0.3).tolist()
    assert usual > below > far == 0
    assert below == pytest.approx(above)


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
