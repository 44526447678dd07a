"""f-SFT: −φ(r) of the positive, φ(r) = r, r − r²/4 or r/(1 + r)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, random_outputs
from toys import minimise

from diffalign.objectives.fsft import fsft

DIVERGENCES = ("identity", "chi_square", "hellinger")
VARIANTS = ({"divergence": "identity"}, {"divergence": "hellinger"})
EXEMPT = {"reference constant": "φ is taken of the reward itself, not of a difference"}


def naive(group: Group, *, beta: float, divergence: str) -> float:
    reward = group.reward(0, beta)
    if divergence == "identity":
        return -reward
    if divergence == "chi_square":
        return -(reward - reward**2 / 4)
    return -reward / (1 + reward) if reward > -0.9 else 9 - 100 * (reward + 0.9)


# r = 1: −1, −¾, −½; r = −½: ½ + 1/16, ½/½; r = −1.5, 0.6 below −0.9: 0.9/0.1 + 100·0.6; r = 0.5 at the default β = 5000: −(½ − 1/16).
HAND = (
    Hand((0.3, 0.6), -1.0, (0.5, 0.5), {"beta": 10.0, "divergence": "identity"}),
    Hand((0.3, 0.6), -0.75, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), -0.5, (0.5, 0.5), {"beta": 10.0, "divergence": "hellinger"}),
    Hand((0.6, 0.3), 0.5625, (0.5, 0.5), {"beta": 10.0, "divergence": "chi_square"}),
    Hand((0.6, 0.3), 1.0, (0.5, 0.5), {"beta": 10.0, "divergence": "hellinger"}),
    Hand((0.8, 0.3), 69.0, (0.5, 0.5), {"beta": 10.0, "divergence": "hellinger"}),
    Hand((0.4998, 0.3), -0.4375, (0.5, 0.5)),
)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_each_divergence_is_its_loop(divergence) -> None:
    outputs = random_outputs("fsft")
    expected = [naive(group, beta=BETA, divergence=divergence) for group in naive_groups(outputs)]
    close(fsft(outputs, beta=BETA, divergence=divergence).value, expected)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_all_share_value_and_gradient_at_the_reference(divergence) -> None:
    """φ(0) = 0 and φ′(0) = 1: SFT's gradient times β/2, and none to the other sample."""
    error = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    value = fsft(outputs_of_errors(error, error.detach()), beta=10.0, divergence=divergence).value
    value.sum().backward()
    close(value, [0.0])
    close(error.grad, [[5.0, 0.0]])


def test_identity_is_sft_with_the_reference_subtracted() -> None:
    outputs = random_outputs("fsft")
    close(fsft(outputs, beta=BETA, divergence="identity").value, BETA / 2 * outputs.drift[:, 0])


def test_chi_square_stops_at_a_reward_of_two() -> None:
    error = torch.full((1, 1), 9.0, dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        return fsft(outputs_of_errors(error, torch.full_like(error, 9.0)), beta=2.0).value.sum()

    minimise(loss, error)
    close(error, [[7.0]], atol=1e-7)


def test_hellinger_pulls_ever_harder_on_what_is_behind_and_at_last_evenly() -> None:
    """φ′ = 1/(1 + r)²: ¼ at r = 1, 4 at r = −½, and 100 below −0.9, where 1 + r would come to 0."""
    error = torch.tensor([[8.0], [9.5], [9.95], [12.0]], dtype=torch.float64, requires_grad=True)  # β = 2: r = 9 − e
    fsft(outputs_of_errors(error, torch.full_like(error, 9.0)), beta=2.0, divergence="hellinger").value.sum().backward()
    assert error.grad is not None
    close(error.grad[:, 0], np.array([0.25, 4.0, 100.0, 100.0]))
