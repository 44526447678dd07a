"""APO-down: σ(r_w) + 1 − σ(m)."""

from __future__ import annotations

import math

import torch
from objective_checks import Group, Hand, close, outputs_of_errors

from diffalign.objectives.apo_down import apo_down

EXEMPT = {
    "reference constant": "it judges the winner's reward against 0",
    "signs": "the winner is pushed down by design",
}


def naive(group: Group, *, beta: float) -> float:
    return 1 / (1 + math.exp(-group.reward(0, beta))) + 1 - 1 / (1 + math.exp(-group.margin(beta)))


# r = (1, −½), m = 1.5: 0.7311 + 1 − 0.8176; exchanged, r_w = −½, m = −1.5; r = (−ln 3, −ln 9), m = ln 3: ¼ + 1 − ¾; at the default
# β = 5000 the first again.
HAND = (
    Hand((0.3, 0.6), 0.91348410243636122, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.19511514499178910, (0.5, 0.5), {"beta": 10.0}),
    Hand((1.5986122886681098, 2.6972245773362196), 0.5, (0.5, 0.5), {"beta": 2.0}),
    Hand((0.4996, 0.5002), 0.91348410243636122, (0.5, 0.5)),
)


def gradient(winner: float, loser: float) -> tuple[float, float]:
    """(∂L/∂r_w, ∂L/∂r_l) at these rewards."""
    error = torch.tensor([[100 - winner, 100 - loser]], dtype=torch.float64, requires_grad=True)  # β = 2: r = −Δ
    apo_down(outputs_of_errors(error, torch.full((1, 2), 100.0, dtype=torch.float64)), beta=2.0).value.sum().backward()
    assert error.grad is not None
    return -error.grad[0, 0].item(), -error.grad[0, 1].item()


def test_both_rewards_fall_once_the_pair_is_ordered() -> None:
    """∂L/∂r_w = σ′(r_w) − σ′(m): 0 at the reference, positive (the winner goes down) where m is further out than r_w; ∂L/∂r_l = σ′(m)."""

    def slope(x: float) -> float:
        return 1 / (2 + math.exp(x) + math.exp(-x))

    for winner, loser in ((0.0, 0.0), (0.0, -2.0), (1.0, -1.0), (-1.0, -3.0)):
        margin = winner - loser
        close(gradient(winner, loser), [slope(winner) - slope(margin), slope(margin)], atol=1e-12)
    assert gradient(0.0, 0.0)[0] == 0 < gradient(1.0, -1.0)[0]


def test_a_winner_far_down_is_raised_again() -> None:
    """At r_w = −5 beside m = 0.1 the margin outweighs it: the way down ends where σ′(r_w) = σ′(m), at r_l = 2·r_w."""
    assert gradient(-5.0, -5.1)[0] < 0
    close(gradient(-3.0, -6.0)[0], 0.0, atol=1e-12)
