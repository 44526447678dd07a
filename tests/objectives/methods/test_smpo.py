"""SmPO: −log σ(γ(2p − 1)·m), p the softmax of min–max-normalised scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs, swapped

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.smpo import smpo

VARIANTS = ({"low": 0.2, "high": 0.7, "gamma": 4.0},)
ARGUMENTS = {"low": 0.0, "high": 1.0}  # the range of the checks' scores
EXEMPT = {
    "swap": "the probability is exchanged with the samples: the value stays, which is asserted below",
    "margin flips": "(2p − 1) and m change their signs together",
}


def naive(group: Group, *, beta: float, gamma: float, low: float, high: float) -> float:
    if group.scores is None:
        probability = float(group.win_probability)
    else:
        winner, loser = (math.exp((float(score) - low) / (high - low)) for score in group.scores[:, 0])
        probability = winner / (winner + loser)
    return math.log1p(math.exp(-gamma * (2 * probability - 1) * group.margin(beta)))


# m = 1.5 and 2p − 1 = tanh((n_w − n_l)/2) = tanh(¼), γ = 10: ln(1 + e^(−15·tanh ¼)), whatever the second score says; m = −1.5 and
# γ(2p − 1) = 1: ln(1 + e^1.5); m = 1.5 with the default range of PickScore and scores against it: ln(1 + e^(15·tanh(12.5/(2·16.6581)))).
HAND = (
    Hand((0.3, 0.6), 0.0250636191668169227, (0.5, 0.5), {"beta": 10.0, **ARGUMENTS}, {"scores": [[0.75, 0.0], [0.25, 1.0]]}),
    Hand((0.6, 0.3), 1.70141327798275241, (0.5, 0.5), {"beta": 10.0, "gamma": 2.0}, {"win_probability": 0.75}),
    Hand((0.3, 0.6), 5.38248901555512952, (0.5, 0.5), {"beta": 10.0}, {"scores": [[12.5], [25.0]]}),
)


def test_a_certain_preference_is_dpo() -> None:
    """p = 1, γ = 1: bit for bit."""
    outputs = replace(random_outputs("smpo"), scores=None, win_probability=torch.ones(5, dtype=torch.float64))
    assert torch.equal(smpo(outputs, beta=BETA, gamma=1.0).value, diffusion_dpo(outputs, beta=BETA).value)


@pytest.mark.parametrize("more", [{"win_probability": 0.5}, {"scores": [[0.21], [0.21]]}], ids=["votes", "scores"])
def test_an_even_preference_has_no_gradient(more) -> None:
    error = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    fields = {key: torch.tensor([value], dtype=torch.float64) for key, value in more.items()}
    smpo(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64), **fields), beta=10.0).value.sum().backward()
    assert error.grad is not None and error.grad.tolist() == [[0.0, 0.0]]


def test_exchanging_the_scores_turns_the_pair_over() -> None:
    """Scores against the order of the samples are the label; exchanged together with the samples, nothing has changed."""
    outputs = random_outputs("smpo")
    assert outputs.scores is not None
    value = smpo(outputs, beta=BETA, **ARGUMENTS).value
    against = replace(outputs, scores=outputs.scores.flip(1))
    close(smpo(swapped(outputs), beta=BETA, **ARGUMENTS).value, value)
    close(smpo(swapped(against), beta=BETA, **ARGUMENTS).value, smpo(against, beta=BETA, **ARGUMENTS).value)
    assert not torch.allclose(smpo(against, beta=BETA, **ARGUMENTS).value, value)


def test_scores_win_over_votes() -> None:
    outputs = random_outputs("smpo")
    without_votes = replace(outputs, win_probability=None)
    assert torch.equal(smpo(outputs, beta=BETA).value, smpo(without_votes, beta=BETA).value)


def test_neither_scores_nor_votes() -> None:
    with pytest.raises(ValueError, match=r"scores|win_probability"):
        smpo(replace(random_outputs("smpo"), scores=None, win_probability=None))
