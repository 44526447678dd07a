"""NCA: −log σ(r_w) − ½·log σ(−r_w) − ½·log σ(−r_l)."""

from __future__ import annotations

import math

import torch
from objective_checks import Group, Hand, close, outputs_of_errors
from toys import minimise

from diffalign.objectives.nca import nca

EXEMPT = {"reference constant": "it judges each reward against 0, not their difference"}


def naive(group: Group, *, beta: float) -> float:
    winner, loser = group.reward(0, beta), group.reward(1, beta)
    return math.log1p(math.exp(-winner)) + 0.5 * math.log1p(math.exp(winner)) + 0.5 * math.log1p(math.exp(loser))


# r = (1, −½): 0.3133 + ½·1.3133 + ½·0.4741; exchanged: 0.9741 + ½·0.4741 + ½·1.3133; r = (ln 2, 0): ln 1.5 + ½·ln 3 + ½·ln 2; at the
# default β = 5000 drifts of ∓2e-4, 1e-4 give r = (½, −¼): 0.4741 + ½·0.9741 + ½·0.5759.
HAND = (
    Hand((0.3, 0.6), 1.2069310233673876, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.8677463200292714, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.5, 0.7), 1.3013448427221919, (1.1931471805599453, 0.7), {"beta": 2.0}),
    Hand((0.4998, 0.5001), 1.2490851862095818, (0.5, 0.5)),
)


def test_the_optimal_reward_of_the_winner_is_ln_2() -> None:
    """−σ(−r) + ½σ(r) = 0 at σ(r) = ⅔: finite and above 0, whatever the loser's, so that the winner is kept up."""
    error = torch.full((1, 1), 9.0, dtype=torch.float64, requires_grad=True)
    loser = torch.full((1, 1), 7.0, dtype=torch.float64)
    reference = torch.full((1, 2), 9.0, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return nca(outputs_of_errors(torch.cat([error, loser], 1), reference), beta=2.0).value.sum()

    minimise(loss, error)
    close(error, [[9 - math.log(2)]], atol=1e-7)


def test_pushes_winner_and_loser_by_their_own_rewards() -> None:
    """∂L/∂r_w = ½σ(r_w) − σ(−r_w), ∂L/∂r_l = ½σ(r_l); past ln 2 the winner is pulled back."""
    for winner, loser in ((0.0, 0.0), (2.0, -1.0), (-1.0, 3.0)):
        error = torch.tensor([[5 - winner, 5 - loser]], dtype=torch.float64, requires_grad=True)  # β = 2: r = −Δ
        nca(outputs_of_errors(error, torch.full((1, 2), 5.0, dtype=torch.float64)), beta=2.0).value.sum().backward()
        up, down = (1 / (1 + math.exp(-reward)) for reward in (winner, loser))
        close(error.grad, [[1 - up - up / 2, -down / 2]])
