"""DiscoPOP: (1 − s)·sp(−m) + s·e^{−m}, s = σ(m/temperature)."""

from __future__ import annotations

import math

import torch
from objective_checks import Group, Hand, close, outputs_of_errors

from diffalign.objectives.discopop import discopop

EXEMPT = {"signs": "around m = 0 the published link falls as the margin falls: ∂L/∂m = 0.78"}


def naive(group: Group, *, beta: float, temperature: float) -> float:
    margin = group.margin(beta)
    x = margin / temperature
    mixture = 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
    logistic = math.log1p(math.exp(-margin)) if margin > -700 else -margin
    return (1 - mixture) * logistic + mixture * math.exp(-max(margin, -20.0))


# m = 1.5: s = 1 − 1e-13, e^−1.5; m = 0.05, s = σ(1) = 0.7311: 0.2689·0.6685 + 0.7311·0.9512; m = 1.5 at temperature 1, s = 0.8176:
# 0.1824·0.2014 + 0.8176·0.2231; m = −30 at temperature 30, s = σ(−1), e^20 by the clamp: 0.7311·30 + 0.2689·4.85e8.
HAND = (
    Hand((0.3, 0.6), 0.22313016014842780, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.49, 0.5), 0.87518091889170937, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.21916844654391521, (0.5, 0.5), {"beta": 10.0, "temperature": 1.0}),
    Hand((6.5, 0.5), 130481039.18451778863, (0.5, 0.5), {"beta": 10.0, "temperature": 30.0}),
)


def slopes(*margins: float) -> torch.Tensor:
    """∂L/∂m at these margins, at the default temperature."""
    margin = torch.tensor(margins, dtype=torch.float64, requires_grad=True)
    error = torch.stack([99 - margin / 2, 99 + margin / 2], 1)  # β = 2: m = −(Δ_w − Δ_l)
    discopop(outputs_of_errors(error, torch.full_like(error, 99.0)), beta=2.0).value.sum().backward()
    assert margin.grad is not None
    return margin.grad


def test_goes_the_wrong_way_at_the_start() -> None:
    """∂L/∂m = −¾ + 5·(1 − ln 2) = 0.784 at m = 0, positive from −0.118 to 0.072, negative outside."""
    close(slopes(0.0), [-0.75 + 5 * (1 - math.log(2))])
    assert bool((slopes(-0.118, -0.06, 0.03, 0.071) > 0).all())
    assert bool((slopes(-0.13, -5.0, 0.075, 5.0) < 0).all())


def test_is_logistic_for_lost_pairs_and_exponential_for_won_ones() -> None:
    """s is 0 or 1 to the last digit at |m| = 2: slopes −σ(−m) and −e^{−m}."""
    close(slopes(-2.0, 2.0), [-1 / (1 + math.exp(-2)), -math.exp(-2)], rtol=1e-9)
