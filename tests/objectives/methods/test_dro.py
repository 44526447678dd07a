"""Diffusion-DRO: max(0, margin + Δ_e − Δ_p), expert against own sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objective_checks import Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.dro import dro
from diffalign.objectives.hinge import hinge

ARGUMENTS = {"margin": 1.0}  # errors near 1 are a thousand margins apart at the default


def naive(group: Group, *, margin: float) -> float:
    return max(0.0, margin + group.drift(0) - group.drift(1))


# Drifts −0.2 and 0.1: past the margin; 0 and −5e-4: 0.001 + 5e-4; −0.2 and 0.1 with margin ½: 0.2; 0.1 and −0.2: 0.301.
HAND = (
    Hand((0.3, 0.6), 0.0, (0.5, 0.5)),
    Hand((0.5, 0.4995), 0.0015, (0.5, 0.5)),
    Hand((0.3, 0.6), 0.2, (0.5, 0.5), {"margin": 0.5}),
    Hand((0.6, 0.3), 0.301, (0.5, 0.5)),
)


@pytest.mark.parametrize("margin", [0.001, 0.5])
def test_is_a_hinge_in_the_drift(margin) -> None:
    """margin·max(0, 1 − m) at β = 2/margin: the hinge's unit is the margin, which is in raw squared error here."""
    outputs = random_outputs("dro")
    close(dro(outputs, margin=margin).value, margin * hinge(outputs, beta=2 / margin).value)


@pytest.mark.parametrize(("own", "gradient"), [(0.5009, [[1.0, -1.0]]), (0.5011, [[0.0, 0.0]])], ids=["inside", "past"])
def test_gradient_ends_at_the_margin(own, gradient) -> None:
    error = torch.tensor([[0.5, own]], dtype=torch.float64, requires_grad=True)
    dro(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64))).value.sum().backward()
    close(error.grad, gradient)


def test_own_record_of_the_present_policy_has_no_gradient() -> None:
    """The policy that made the record predicts its target exactly, e_p = 0: only the expert pulls."""
    outputs = random_outputs("dro")
    policy = outputs.policy.clone()
    policy[:, 1] = outputs.target[:, 1]
    policy.requires_grad_()
    dro(replace(outputs, policy=policy), margin=10.0).value.sum().backward()
    assert policy.grad is not None
    assert not policy.grad[:, 1].any() and bool(policy.grad[:, 0].any())
