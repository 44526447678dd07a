"""Planted errors: each known way of writing Diffusion-DPO wrongly must fail at least two checks, or the checks prove nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objective_checks import CHECKS, swapped
from torch.nn.functional import softplus
from toys import LOGISTIC_CHECKS

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.tensors import Loss, Outputs, implicit_margin


def sign_flipped(outputs: Outputs, *, beta: float) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(margin), margin)


def reference_dropped(outputs: Outputs, *, beta: float) -> Loss:
    margin = -0.5 * beta * (outputs.error[:, 0] - outputs.error[:, 1])
    return Loss(softplus(-margin), margin)


def winner_and_loser_swapped(outputs: Outputs, *, beta: float) -> Loss:
    return diffusion_dpo(swapped(outputs) if outputs.known_reference_error is None else outputs, beta=beta)


def mean_inside_the_logarithm(outputs: Outputs, *, beta: float) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin.mean()).expand_as(margin), margin)


def reduced(outputs: Outputs, *, beta: float) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin).mean(), margin)


def half_forgotten(outputs: Outputs, *, beta: float) -> Loss:
    return diffusion_dpo(outputs, beta=2 * beta)


def sum_for_mean(outputs: Outputs, *, beta: float) -> Loss:
    return diffusion_dpo(outputs, beta=beta * outputs.policy[0, 0].numel())


def only_image_axes_reduced(outputs: Outputs, *, beta: float) -> Loss:
    """The mean over (C, H, W), which leaves a video its last axis: a loss for each pixel column."""
    reference = outputs.policy if outputs.reference is None else outputs.reference
    policy_error, reference_error = ((each - outputs.target).square().mean(dim=[2, 3, 4]) for each in (outputs.policy, reference))
    drift = policy_error - reference_error
    margin = -0.5 * beta * (drift[:, 0] - drift[:, 1])
    return Loss(softplus(-margin), margin)


def reference_follows_the_policy(outputs: Outputs, *, beta: float) -> Loss:
    """One object for policy and reference: the loss is ln 2 for ever."""
    return diffusion_dpo(replace(outputs, reference=outputs.policy), beta=beta)


def subtracted_in_half_precision(outputs: Outputs, *, beta: float) -> Loss:
    if outputs.policy.dtype != torch.bfloat16:
        return diffusion_dpo(outputs, beta=beta)
    drift = outputs.error.bfloat16() - outputs.reference_error.bfloat16()
    margin = (-0.5 * beta * (drift[:, 0] - drift[:, 1])).float()
    return Loss(softplus(-margin), margin)


def logarithm_of_sigmoid(outputs: Outputs, *, beta: float) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(-torch.log(torch.sigmoid(margin)), margin)


ALL_CHECKS = {**CHECKS, **LOGISTIC_CHECKS}
PLANTED = [
    sign_flipped,
    reference_dropped,
    winner_and_loser_swapped,
    mean_inside_the_logarithm,
    reduced,
    half_forgotten,
    sum_for_mean,
    only_image_axes_reduced,
    reference_follows_the_policy,
]
NUMERICAL = {subtracted_in_half_precision: "bfloat16", logarithm_of_sigmoid: "far margins"}


def failures(objective) -> list[str]:
    """The names of the checks that an objective fails, run under the name of diffusion_dpo."""
    failed = []
    for name, check in ALL_CHECKS.items():
        try:
            check(objective, "diffusion_dpo")
        except (AssertionError, ValueError, RuntimeError, IndexError):
            failed.append(name)
    return failed


def test_the_right_one_fails_nothing() -> None:
    assert failures(diffusion_dpo) == []


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_a_planted_error_fails_at_least_two_checks(planted) -> None:
    assert len(failures(planted)) >= 2, f"only {failures(planted)} noticed {planted.__name__}"


@pytest.mark.parametrize("planted", NUMERICAL, ids=lambda planted: planted.__name__)
def test_a_numerical_error_fails_the_check_made_for_it(planted) -> None:
    """Right in exact arithmetic, wrong in a computer's: each has one check."""
    assert failures(planted) == [NUMERICAL[planted]]


def drops_dtype(outputs: Outputs, *, beta: float) -> Loss:
    loss = diffusion_dpo(outputs, beta=beta)
    return Loss(loss.value.float(), loss.margin)


def ignores_kept_error(outputs: Outputs, *, beta: float) -> Loss:
    if outputs.known_reference_error is not None:
        return Loss(softplus(outputs.error[:, 0] - outputs.error[:, 1]))
    return diffusion_dpo(outputs, beta=beta)


def reference_offset(outputs: Outputs, *, beta: float) -> Loss:
    """Reads the loser's reference error twice as large: equal constants no longer cancel."""
    drift = outputs.error - outputs.reference_error * torch.tensor([1.0, 2.0], dtype=outputs.error.dtype)
    margin = -0.5 * beta * (drift[:, 0] - drift[:, 1])
    return Loss(softplus(-margin), margin)


def test_no_check_is_idle() -> None:
    """Each check notices at least one of the planted errors, here or above."""
    planted = (*PLANTED, *NUMERICAL, drops_dtype, ignores_kept_error, reference_offset)
    assert set(ALL_CHECKS) - {name for each in planted for name in failures(each)} == set()
