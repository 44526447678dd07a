"""TGDPO: −log σ(m), m = mean_p M_w·r_w[p] − mean_p M_l·r_l[p], M = relu(1 ± α·r̂[p]) over its own mean, r̂ a teacher's reward."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_checks import BETA, Group, Hand, close, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.tgdpo import tgdpo
from diffalign.tensors import Outputs

ARGUMENTS = {"teacher_beta": BETA}
EXEMPT = {"margin flips": "winner and loser are weighted differently: 1 + α·r̂ and 1 − α·r̂"}


def naive(group: Group, *, beta: float, alpha: float, teacher_beta: float | None) -> float:
    margin = 0.0
    for sample, sign in ((0, 1), (1, -1)):
        policy, reference, target, teacher = (
            each[sample].reshape(len(each[sample]), -1) for each in (group.policy, group.reference, group.target, group.teacher)
        )
        channels, positions = policy.shape
        guides, rewards = [], []
        for p in range(positions):
            guide = reward = 0.0
            for c in range(channels):
                before = (reference[c, p] - target[c, p]) ** 2
                guide -= (teacher_beta or 2) / 2 * ((teacher[c, p] - target[c, p]) ** 2 - before) / channels
                reward -= beta / 2 * ((policy[c, p] - target[c, p]) ** 2 - before) / channels
            guides.append(guide)
            rewards.append(reward)
        unit = 1.0 if teacher_beta else math.sqrt(sum(guide**2 for guide in guides) / positions)
        weights = [max(0.0, 1 + sign * alpha * guide / unit) for guide in guides]
        mean = sum(weights) / positions
        weights = [weight / mean for weight in weights] if mean > 0 else [1.0] * positions
        margin += sign * sum(weight * reward for weight, reward in zip(weights, rewards, strict=True)) / positions
    return math.log1p(math.exp(-margin))


# Made to order, r[p] is the same at all positions, so that weights of mean 1 leave DPO's m = 1.5 and −1.5: a teacher at 0 (r̂ = ½, so
# M = 1.25 and 0.75 before the division), one that differs from position to position, and one so far off (r̂ = −2500·8.5) that the winner's
# weights are all 0, which counts as all 1; the last with m = ½ at the default β = 5000, where the far one's r̂ are −1.
EVEN = [[[0.0] * 3] * 2] * 2
SPREAD = [[[0.1, -0.2, 0.3]] * 2, [[0.4, 0.0, -0.6]] * 2]
FAR = [[[3.0] * 3] * 2] * 2
HAND = (
    Hand((0.3, 0.6), 0.20141327798275241, (0.5, 0.5), {"beta": 10.0, "teacher_beta": 2.0}, {"teacher": EVEN}),
    Hand((0.6, 0.3), 1.70141327798275241, (0.5, 0.5), {"beta": 10.0, "teacher_beta": 2.0, "alpha": 0.9}, {"teacher": SPREAD}),
    Hand((0.3, 0.6), 0.20141327798275241, (0.5, 0.5), {"beta": 10.0, "teacher_beta": 5000.0}, {"teacher": FAR}),
    Hand((0.4999, 0.5001), 0.474076984180106681, (0.5, 0.5), more={"teacher": FAR}),
)


def test_weights_by_hand() -> None:
    """β = β̂ = 2, α = 1, target 0, reference 1, two positions: r = 1 − p², r̂ = 1 − t².

    Winner: r = (1, 0), r̂ = (1, 0), M = (2, 1)/1.5, mean M·r = ⅔. Loser: r = (0, −2), r̂ = (0, −1), M = (1, 2)/1.5, mean M·r = −4/3. m = 2.
    With α = 3 the loser's r̂ = (1, −1) gives M = (0, 4)/2, mean M·r = −2, and the winner's M = (4, 1)/2.5, mean M·r = 0.8: m = 2.8.
    By default the first r̂ are divided by √½: (√2, 0) and (0, −√2). α = ½ gives M = (1 + √½, 1) and (1, 1 + √½) over 1 + ½√½, m = 1.8918.
    """
    policy = torch.tensor([[[[0.0, 1.0]], [[1.0, 3**0.5]]]], dtype=torch.float64)
    first = torch.tensor([[[[0.0, 1.0]], [[1.0, 2**0.5]]]], dtype=torch.float64)
    second = torch.tensor([[[[0.0, 1.0]], [[0.0, 2**0.5]]]], dtype=torch.float64)
    for teacher, margin, arguments in (
        (first, 2.0, {"alpha": 1.0, "teacher_beta": 2.0}),
        (second, 2.8, {"alpha": 3.0, "teacher_beta": 2.0}),
        (first, 1.5 * (1 + 0.5**0.5) / (1 + 0.5 * 0.5**0.5), {}),
    ):
        outputs = Outputs(policy, torch.zeros_like(policy), torch.zeros(1), reference=torch.ones_like(policy), teacher=teacher)
        close(tgdpo(outputs, beta=2.0, **arguments).value, [math.log1p(math.exp(-margin))])


def test_without_guidance_it_is_dpo() -> None:
    """α = 0, or a teacher that stands where the reference does: every weight is 1."""
    outputs = random_outputs("tgdpo")
    expected = diffusion_dpo(outputs, beta=BETA).value
    close(tgdpo(outputs, beta=BETA, alpha=0.0).value, expected)
    close(tgdpo(replace(outputs, teacher=outputs.reference), beta=BETA).value, expected)


def test_by_default_the_scale_of_the_teacher_s_preference_is_nothing() -> None:
    """A teacher that went twice as far, in the map, weighs positions as before."""
    outputs = random_outputs("tgdpo")
    drift = outputs.teacher_drift
    known = [replace(outputs, teacher=None, known_teacher_drift=factor * drift) for factor in (1, 2)]
    close(*[tgdpo(each, beta=BETA).value for each in known])


def test_a_teacher_on_the_policy_gets_no_gradient() -> None:
    """The weights are stopped: a teacher that is the policy itself moves the gradient no more than a copy of it does."""
    outputs = random_outputs("tgdpo")
    gradients = []
    for copied in (True, False):
        policy = outputs.policy.clone().requires_grad_()
        teacher = outputs.policy.clone() if copied else policy
        tgdpo(replace(outputs, policy=policy, teacher=teacher), beta=BETA, teacher_beta=BETA).value.sum().backward()
        gradients.append(policy.grad)
    close(gradients[1], gradients[0].numpy())


@pytest.mark.parametrize(("alpha", "teacher_beta"), [(0.5, BETA), (2.0, None)])
def test_no_gradient_where_the_teacher_denies_the_winner(alpha: float, teacher_beta: float | None) -> None:
    """Where 1 + α·r̂_w ≤ 0 the position of the winner is not read, by the clamp; where 1 − α·r̂_l ≤ 0 that of the loser."""
    outputs = random_outputs("tgdpo")
    policy = outputs.policy.clone().requires_grad_()
    tgdpo(replace(outputs, policy=policy), beta=BETA, alpha=alpha, teacher_beta=teacher_beta).value.sum().backward()
    assert outputs.reference is not None and outputs.teacher is not None and policy.grad is not None
    before, after = ((each - outputs.target).square().mean(2) for each in (outputs.reference, outputs.teacher))
    drift = after - before
    guide = -drift / drift.square().mean((2, 3), keepdim=True).sqrt() if teacher_beta is None else -teacher_beta / 2 * drift
    silent = (1 + alpha * guide * torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None] <= 0).numpy()
    assert 0 < silent.mean() < 1
    assert np.array_equal((policy.grad == 0).all(2).numpy(), silent)


def test_a_map_of_several_draws_takes_the_prediction_s_place() -> None:
    """To the bit where it is the map of this very draw; the mean of two draws is no weight of either."""
    outputs = random_outputs("tgdpo")
    other = random_outputs("tgdpo", seed=1)
    value = tgdpo(outputs, beta=BETA, teacher_beta=BETA).value
    known = replace(outputs, teacher=None, known_teacher_drift=outputs.teacher_drift)
    assert torch.equal(tgdpo(known, beta=BETA, teacher_beta=BETA).value, value)
    mean = replace(known, known_teacher_drift=(outputs.teacher_drift + other.teacher_drift) / 2)
    assert not torch.allclose(tgdpo(mean, beta=BETA, teacher_beta=BETA).value, value)


def test_a_missing_teacher_is_an_error() -> None:
    with pytest.raises(ValueError, match="teacher"):
        tgdpo(replace(random_outputs("tgdpo"), teacher=None), beta=BETA)
