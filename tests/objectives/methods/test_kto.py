"""KTO: 1 − σ(±(r − z)) for labelled samples, z the running mean of r under another group's prompt."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_error, naive_groups, random_outputs

from diffalign.objectives.diffusion_kto import diffusion_kto
from diffalign.objectives.kto import kto

ARGUMENTS = {"desirable": 0.8, "undesirable": 1.4}
RUNNING = {"mismatched_reward": 0.2}
EXEMPT = {"reference constant": "each reward is held against z"}


def naive(group: Group, *, beta: float, desirable: float, undesirable: float, decay: float) -> float:
    z = max(0.0, float(group.running.get("mismatched_reward", 0.0)))
    total = 0.0
    for k, label in enumerate(group.labels):
        if label == 1:
            total += desirable * (1 - 1 / (1 + math.exp(z - group.reward(k, beta))))
        else:
            total += undesirable * (1 - 1 / (1 + math.exp(group.reward(k, beta) - z)))
    return total / len(group.labels)


def naive_tracked(group: Group, *, beta: float, decay: float, **_: object) -> dict[str, float]:
    rewards = [
        -(beta / 2) * (naive_error(policy, target) - naive_error(reference, target))
        for (policy, reference), target in zip(group.mismatched, group.target, strict=True)
    ]
    before = float(group.running.get("mismatched_reward", 0.0))
    return {"mismatched_reward": decay * before + (1 - decay) * sum(rewards) / len(rewards)}


def mismatched(samples: int) -> list:
    """Predictions 1 of the policy and ½ of the reference, (K, 2, 2, 3)."""
    return [[[[1.0] * 3] * 2, [[0.5] * 3] * 2]] * samples


# r = (1, −½), labels 1, 0: mean of 1 − σ(1) and 1 − σ(½), also where the mean so far is negative. r = (1, 0, −½), labels 0, 1, 1 and
# z = ¼: x = −¾, −¼, −¾ with weights ½, 2, 2: (½σ(¾) + 2σ(¼) + 2σ(¾))/3.
HAND = (
    Hand((0.3, 0.6), 0.323241045084070278, (0.5, 0.5), {"beta": 10.0}, {"labels": [1, 0], "mismatched": mismatched(2)}),
    Hand(
        (0.3, 0.6), 0.323241045084070278, (0.5, 0.5), {"beta": 10.0},
        {"labels": [1, 0], "mismatched": mismatched(2), "running": {"mismatched_reward": -1.0}},
    ),
    Hand(
        (0.3, 0.5, 0.6), 0.94076658323669288, (0.5,) * 3, {"beta": 10.0, "desirable": 2.0, "undesirable": 0.5},
        {"labels": [0, 1, 1], "mismatched": mismatched(3), "running": {"mismatched_reward": 0.25}},
    ),
)  # fmt: skip


@pytest.mark.parametrize("running", [{}, {"mismatched_reward": torch.tensor(0.2, dtype=torch.float64)}], ids=["first batch", "later"])
def test_tracks_the_reward_under_another_prompt(running) -> None:
    """0.7·(mean so far, or 0) + 0.3·(mean over the samples of r′), r′ = −(β/2)(e of the policy − e of the reference) of the mismatch."""
    outputs = replace(random_outputs("kto"), running=running)
    expected = []
    for group in naive_groups(outputs):
        drifts = [naive_error(own, y) - naive_error(reference, y) for (own, reference), y in zip(group.mismatched, group.target)]
        expected.append(0.7 * float(running.get("mismatched_reward", 0.0)) + 0.3 * -(BETA / 2) * sum(drifts) / len(drifts))
    close(kto(outputs, beta=BETA, decay=0.7).tracked["mismatched_reward"], expected)


def test_differs_from_diffusion_kto_in_z_alone() -> None:
    outputs = random_outputs("kto")
    z = torch.tensor(0.4, dtype=torch.float64)
    by_prompt, by_batch = replace(outputs, running={"mismatched_reward": z}), replace(outputs, running={"reward": z})
    settings = {"beta": BETA, "desirable": 0.8, "undesirable": 1.4}
    close(kto(by_prompt, **settings).value, diffusion_kto(by_batch, **settings).value)
    assert not torch.allclose(kto(by_prompt, **settings).value, kto(by_batch, **settings).value)


def test_the_mismatch_of_this_batch_does_not_move_its_value() -> None:
    """z is what was tracked before: the same on every process, and without gradient."""
    outputs = random_outputs("kto")
    assert outputs.mismatched is not None
    other = replace(outputs, mismatched=outputs.mismatched + 1)
    before, after = kto(outputs, beta=BETA), kto(other, beta=BETA)
    assert torch.equal(before.value, after.value)
    assert not torch.allclose(before.tracked["mismatched_reward"], after.tracked["mismatched_reward"])
