"""Diffusion-KTO: a utility of ±(r − z) for labelled samples, z the running mean of r."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, permuted, random_outputs

from diffalign.objectives.diffusion_kto import diffusion_kto

VARIANTS = ({"utility": "loss_averse"}, {"utility": "risk_seeking"})
ARGUMENTS = {"desirable": 0.8, "undesirable": 1.4}
RUNNING = {"reward": 0.2}
EXEMPT = {"reference constant": "each reward is held against z"}


def naive(group: Group, *, beta: float, utility: str, desirable: float, undesirable: float, decay: float) -> float:
    z = max(0.0, float(group.running.get("reward", 0.0)))
    total = 0.0
    for k, label in enumerate(group.labels):
        weight, sign = (desirable, 1) if label == 1 else (undesirable, -1)
        x = sign * (group.reward(k, beta) - z)
        if utility == "kahneman_tversky":
            total += weight * (1 - 1 / (1 + math.exp(-x)))
        elif utility == "loss_averse":
            total += weight * math.log1p(math.exp(-x))
        else:
            total -= weight * math.log1p(math.exp(x))
    return total / len(group.labels)


def naive_tracked(group: Group, *, beta: float, decay: float, **_: object) -> dict[str, float]:
    mean = sum(group.reward(k, beta) for k in range(len(group.labels))) / len(group.labels)
    return {"reward": decay * float(group.running.get("reward", 0.0)) + (1 - decay) * mean}


# r = (1, −½), labels 1, 0: mean of 1 − σ(1) and 1 − σ(½). r = (1, 0, −½), labels 0, 1, 1 and z = ¼: x = −¾, −¼, −¾ with weights ½, 2, 2;
# s(x) = ln(1 + e^x): (½s(¾) + 2s(¼) + 2s(¾))/3. Risk-seeking, z = max(0, −1): −(s(1) + s(½))/2.
HAND = (
    Hand((0.3, 0.6), 0.323241045084070278, (0.5, 0.5), {"beta": 10.0}, {"labels": [1, 0]}),
    Hand(
        (0.3, 0.5, 0.6), 1.49801878501497899, (0.5,) * 3,
        {"beta": 10.0, "utility": "loss_averse", "desirable": 2.0, "undesirable": 0.5}, {"labels": [0, 1, 1], "running": {"reward": 0.25}},
    ),
    Hand(
        (0.3, 0.6), -1.14366933584916476, (0.5, 0.5), {"beta": 10.0, "utility": "risk_seeking"},
        {"labels": [1, 0], "running": {"reward": -1.0}},
    ),
    Hand(
        (0.3, 0.5, 0.6), 0.94076658323669288, (0.5,) * 3, {"beta": 10.0, "desirable": 2.0, "undesirable": 0.5},
        {"labels": [0, 1, 1], "running": {"reward": 0.25}},
    ),
)  # fmt: skip


@pytest.mark.parametrize("utility", ["kahneman_tversky", "loss_averse", "risk_seeking"])
def test_every_utility_equals_the_loop(utility) -> None:
    outputs = random_outputs("diffusion_kto")
    settings = {"beta": BETA, "utility": utility, "desirable": 0.8, "undesirable": 1.4, "decay": 0.9}
    close(diffusion_kto(outputs, **settings).value, [naive(group, **settings) for group in naive_groups(outputs)])


def test_samples_count_singly() -> None:
    """A group's value is the mean of what its samples have alone, so that rows of one sample are enough."""
    outputs = random_outputs("diffusion_kto")
    alone = [diffusion_kto(permuted(outputs, [k]), beta=BETA).value for k in range(3)]
    close(diffusion_kto(outputs, beta=BETA).value, torch.stack(alone).mean(0))


@pytest.mark.parametrize("running", [{}, {"reward": torch.tensor(0.2, dtype=torch.float64)}], ids=["first batch", "later"])
def test_tracks_the_mean_reward(running) -> None:
    """0.7·(mean so far, or 0) + 0.3·(mean r of the group), whatever the labels are."""
    outputs = replace(random_outputs("diffusion_kto"), running=running)
    tracked = diffusion_kto(outputs, beta=BETA, decay=0.7).tracked["reward"]
    rewards = -(BETA / 2) * (outputs.error - outputs.reference_error)
    close(tracked, 0.7 * float(running.get("reward", 0.0)) + 0.3 * rewards.mean(1))


def test_z_is_never_negative() -> None:
    outputs = random_outputs("diffusion_kto")
    values = [
        diffusion_kto(replace(outputs, running=running), beta=BETA).value
        for running in ({}, {"reward": torch.tensor(-3.0, dtype=torch.float64)}, {"reward": torch.tensor(0.0, dtype=torch.float64)})
    ]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_lets_go_of_what_is_far_from_z() -> None:
    """r = ±25,000, a positive far above z and a negative far below: no gradient. Where both are on the wrong side of z, none either."""
    reference = torch.full((1, 2), 50.0, dtype=torch.float64)
    for error in ([[25.0, 75.0]], [[75.0, 25.0]]):
        errors = torch.tensor(error, dtype=torch.float64, requires_grad=True)
        outputs = outputs_of_errors(errors, reference, labels=torch.tensor([[1, 0]]))
        diffusion_kto(outputs, beta=2000.0).value.sum().backward()
        assert errors.grad is not None and errors.grad.tolist() == [[0.0, 0.0]]


def test_loss_averse_holds_on_to_what_is_on_the_wrong_side() -> None:
    """−log σ(x) has slope −1 at x → −∞, where Kahneman–Tversky's is 0: each sample pulls with β/2 over K = 2."""
    errors = torch.tensor([[75.0, 25.0]], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(errors, torch.full((1, 2), 50.0, dtype=torch.float64), labels=torch.tensor([[1, 0]]))
    diffusion_kto(outputs, beta=2000.0, utility="loss_averse").value.sum().backward()
    close(errors.grad, [[500.0, -500.0]])
