"""SPPO: ½·Σ_k (r_k − (P_k − ½))², P_k the mean probability of winning against the other samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, random_outputs
from torch import Tensor
from toys import minimise

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.sppo import sppo
from diffalign.tensors import Outputs

VARIANTS = ({"hard": True}, {"temperature": 2.0}, {"temperature": None})
ARGUMENTS = {"temperature": 0.02}  # targets near ±½, beyond the rewards of the sign check
EXEMPT = {"reference constant": "each reward is pulled to a fixed number"}


def naive(group: Group, *, beta: float, hard: bool, temperature: float | None) -> float:
    rewards = [float(score) for score in group.scores[:, 0]]
    total = 0.0
    for k, own in enumerate(rewards):
        others = rewards[:k] + rewards[k + 1 :]
        if temperature is None and not hard:
            wins = [own]
        elif hard:
            wins = [1.0 if own > other else 0.5 if own == other else 0.0 for other in others]
        else:
            wins = [1 / (1 + math.exp((other - own) / temperature)) for other in others]
        total += 0.5 * (group.reward(k, beta) - (sum(wins) / len(wins) - 0.5)) ** 2
    return total


# r = (1, 0, −½), scores 1, 0, 0 (a second one is not read): P = σ(1) and twice ½(σ(−1) + ½); hard: P − ½ = ½, −¼, −¼,
# ½(½² + ¼² + ¼²); a pair with r = (1, −½) and scores one temperature apart: P − ½ = ±(σ(1) − ½). Shares of wins ½, 0, 1 as they are, of
# which differences would make others: ½(1² + ½² + 1²).
HAND = (
    Hand((0.3, 0.5, 0.6), 0.376217826781382512, (0.5,) * 3, {"beta": 10.0}, {"scores": [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]}),
    Hand((0.3, 0.5, 0.6), 0.1875, (0.5,) * 3, {"beta": 10.0, "hard": True}, {"scores": [[1.0], [0.0], [0.0]]}),
    Hand((0.3, 0.6), 0.331800198813510829, (0.5, 0.5), {"beta": 10.0, "temperature": 0.5}, {"scores": [[0.75], [0.25]]}),
    Hand((0.3, 0.5, 0.6), 1.125, (0.5,) * 3, {"beta": 10.0, "temperature": None}, {"scores": [[0.5, 1.0], [0.0, 1.0], [1.0, 1.0]]}),
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


@pytest.mark.parametrize("scores", [[-0.1, 0.5], [0.5, 1.2]])
def test_shares_of_wins_lie_between_0_and_1(scores) -> None:
    outputs = outputs_of_errors(torch.ones(1, 2), torch.ones(1, 2), scores=torch.tensor([scores])[..., None])
    with pytest.raises(ValueError, match=r"got scores from .*; shares of wins lie in 0 … 1: .*standardise_scores: false"):
        sppo(outputs, temperature=None)


def test_one_score_that_is_no_share_is_named_among_others_that_are() -> None:
    """With the least and the largest of all groups."""
    scores = torch.tensor([[0.25, 0.75], [-0.5, 1.0]])[..., None]
    outputs = outputs_of_errors(torch.ones(2, 2), torch.ones(2, 2), scores=scores)
    with pytest.raises(ValueError, match=r"got scores from -0\.5 to 1; "):
        sppo(outputs, temperature=None)


# Rock, paper, scissors: P(i beats j). Every two samples, drawn by the policy itself.
BEATS = torch.tensor([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
FIRST, SECOND = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T


def average_of_rounds(objective: Callable[[Outputs, Tensor], Tensor], rounds: int = 200) -> Tensor:
    """The mean of a softmax's probabilities over rounds, each measured from the last one's end, from (0.6, 0.3, 0.1). κ = 1.

    objective  Outputs of all nine pairs of samples, and the policy that drew them → value (9,)
    """
    logits, total = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log(), torch.zeros(3, dtype=torch.float64)
    for _ in range(rounds):
        reference = logits.log_softmax(0)
        policy, logits = reference.exp(), reference.clone().requires_grad_()

        def loss(policy=policy, reference=reference, logits=logits) -> Tensor:
            error = (50 - (logits.log_softmax(0) - reference))[torch.stack([FIRST, SECOND], 1)]
            outputs = outputs_of_errors(error, torch.full_like(error, 50.0))
            return (policy[FIRST] * policy[SECOND] * objective(outputs, policy)).sum()

        minimise(loss, logits)
        logits, total = logits.detach(), total + policy
    return total / rounds


def test_on_preferences_in_a_circle_the_average_of_rounds_is_uniform() -> None:
    """Each sample's share of wins over the policy's own samples is in the data, and so is the circle; β_LM = 2 (β = 2·κ·β_LM)."""

    def regressed_on_shares(outputs: Outputs, policy: Tensor) -> Tensor:
        won = (BEATS @ policy)[torch.stack([FIRST, SECOND], 1)]
        return sppo(replace(outputs, scores=won[..., None]), beta=4.0, temperature=None).value

    close(average_of_rounds(regressed_on_shares), torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.03)


def test_on_preferences_in_a_circle_dpo_ends_at_one_sample() -> None:
    """Bradley–Terry has no circles: on the same samples and duels, rounds of Diffusion-DPO leave nine tenths of the mass with one."""

    def compared(outputs: Outputs, policy: Tensor) -> Tensor:
        return BEATS[FIRST, SECOND] * diffusion_dpo(outputs, beta=4.0).value

    assert average_of_rounds(compared).max() > 0.9
