"""SPPO: ½·Σ_k (r_k − (P_k − ½))², P_k the mean probability of winning against the other samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, random_outputs
from torch import Tensor
from toys import minimise

from diffalign.objectives.sppo import sppo

VARIANTS = ({"hard": True}, {"temperature": 2.0})
ARGUMENTS = {"temperature": 0.02}  # targets near ±½, beyond the rewards of the sign check
EXEMPT = {"reference constant": "each reward is pulled to a fixed number"}


def naive(group: Group, *, beta: float, hard: bool, temperature: float) -> float:
    rewards = [float(score) for score in group.scores[:, 0]]
    total = 0.0
    for k, own in enumerate(rewards):
        others = rewards[:k] + rewards[k + 1 :]
        if hard:
            wins = [1.0 if own > other else 0.5 if own == other else 0.0 for other in others]
        else:
            wins = [1 / (1 + math.exp((other - own) / temperature)) for other in others]
        total += 0.5 * (group.reward(k, beta) - (sum(wins) / len(wins) - 0.5)) ** 2
    return total


# r = (1, 0, −½), scores 1, 0, 0 (a second one is not read): P = σ(1) and twice ½(σ(−1) + ½); hard: P − ½ = ½, −¼, −¼,
# ½(½² + ¼² + ¼²); a pair with r = (1, −½) and scores one temperature apart: P − ½ = ±(σ(1) − ½).
HAND = (
    Hand((0.3, 0.5, 0.6), 0.376217826781382512, (0.5,) * 3, {"beta": 10.0}, {"scores": [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]}),
    Hand((0.3, 0.5, 0.6), 0.1875, (0.5,) * 3, {"beta": 10.0, "hard": True}, {"scores": [[1.0], [0.0], [0.0]]}),
    Hand((0.3, 0.6), 0.331800198813510829, (0.5, 0.5), {"beta": 10.0, "temperature": 0.5}, {"scores": [[0.75], [0.25]]}),
)


@pytest.mark.parametrize("hard", [False, True])
def test_every_setting_equals_the_loop(hard) -> None:
    """Also with ties, and with samples in any order."""
    scores = torch.randint(0, 3, (5, 4, 2), generator=torch.Generator().manual_seed(0)).double()
    outputs = replace(random_outputs("sppo"), scores=scores)
    settings = {"beta": BETA, "hard": hard, "temperature": 0.7}
    close(sppo(outputs, **settings).value, [naive(group, **settings) for group in naive_groups(outputs)])


@pytest.mark.parametrize("hard", [False, True])
def test_rewards_end_at_their_win_probability_less_a_half(hard) -> None:
    """r_k = P_k − ½ for every sample by itself; rewards 2, 1, 0 with temperature 1, P from the logistic function by hand."""
    error = torch.full((1, 3), 5.0, dtype=torch.float64, requires_grad=True)
    reference, scores = torch.full((1, 3), 5.0, dtype=torch.float64), torch.tensor([[[2.0], [1.0], [0.0]]], dtype=torch.float64)

    def loss() -> Tensor:
        return sppo(outputs_of_errors(error, reference, scores=scores), beta=2.0, hard=hard).value.sum()

    minimise(loss, error)
    best = 0.5 if hard else (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2 - 0.5
    close(reference - error, [[best, 0.0, -best]], rtol=0, atol=1e-7)


@pytest.mark.parametrize("hard", [False, True])
def test_equal_scores_are_stationary_at_the_reference(hard) -> None:
    error = torch.full((1, 3), 0.5, dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(error, torch.full((1, 3), 0.5, dtype=torch.float64), scores=torch.full((1, 3, 1), 0.3).double())
    value = sppo(outputs, beta=10.0, hard=hard).value
    value.sum().backward()
    close(value, [0.0])
    close(error.grad, [[0.0, 0.0, 0.0]])


def test_pulls_back_a_winner_past_its_target() -> None:
    """r_w = 1 lies past P − ½ = ½: its error is pushed up again, by (β/2)(r − ½)."""
    error = torch.tensor([[0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    sppo(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64), scores=scores), beta=10.0, hard=True).value.sum().backward()
    close(error.grad, [[-2.5, -2.5]])
