"""Every objective of the table against every check, and the table's own errors."""

from __future__ import annotations

import pytest
import torch
from objective_checks import BETA, CHECKS, HAND, NAIVE, arguments, close, outputs_of_errors, random_outputs, swapped

from diffalign.objectives import OBJECTIVES, build_objective, defaults, objective_function
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.tensors import Outputs, implicit_margin

PAIRWISE = [name for name, needs in OBJECTIVES.items() if needs.rows == "pairs"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_has_a_naive_loop_and_hand_values(name) -> None:
    assert name in NAIVE, f"write the naive loop of {name} in objective_checks.NAIVE"
    assert all(name in expected for _, expected in HAND), f"compute the values of {name} by hand in objective_checks.HAND"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name, check) -> None:
    CHECKS[check](objective_function(name), name)


def test_default_beta_is_the_papers() -> None:
    """Row 3 of HAND again, with β left to its default of 5000 (Wallace et al. 2023, SDXL)."""
    (*errors, _), expected = HAND[2]
    error, reference = torch.tensor([errors[:2]], dtype=torch.float64), torch.tensor([errors[2:]], dtype=torch.float64)
    for name in PAIRWISE:
        close(objective_function(name)(outputs_of_errors(error, reference)).value, [expected[name]], rtol=1e-9, atol=1e-9)


def test_dpo_differs_from_its_swap_by_the_margin() -> None:
    """L(m) − L(−m) = −m, exactly the logistic link's."""
    outputs = random_outputs("diffusion_dpo")
    forward, backward = diffusion_dpo(outputs, beta=BETA), diffusion_dpo(swapped(outputs), beta=BETA)
    assert forward.margin is not None
    close(forward.value - backward.value, -forward.margin)


def test_hinge_has_no_gradient_past_its_margin() -> None:
    error = torch.tensor([[0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    objective_function("hinge")(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64)), beta=10.0).value.sum().backward()
    assert error.grad is not None and error.grad.tolist() == [[0.0, 0.0]]


def test_ipo_pulls_back_past_its_target() -> None:
    """m = 4 lies past ½: the winner's error is pushed up again, so that certain labels keep a finite optimum."""
    error = torch.tensor([[0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    loss = objective_function("ipo")(outputs_of_errors(error, torch.full((1, 2), 0.5, dtype=torch.float64)), beta=10.0)
    loss.value.sum().backward()
    assert loss.margin is not None and error.grad is not None
    close(loss.margin, [4.0])
    close(error.grad, [[-35.0, 35.0]])  # 2·(m − ½)·(∓β/2)


def test_rpo_without_its_regulariser_is_dpo() -> None:
    outputs = random_outputs("rpo")
    close(objective_function("rpo")(outputs, beta=BETA, sft=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_rpo_pulls_the_winner_down_at_any_margin() -> None:
    """∂L/∂e_w = (β/2)(σ(−m) + sft), ∂L/∂e_l = −(β/2)σ(−m): at m = 4 and at m = 40,000, where DPO has let go of both."""
    for scale, sigmoid in ((1.0, 0.01798620996209156), (1e4, 0.0)):
        error = torch.tensor([[0.1, 0.1 + 0.8 * scale]], dtype=torch.float64, requires_grad=True)
        objective_function("rpo")(
            outputs_of_errors(error, torch.full((1, 2), 0.1, dtype=torch.float64)), beta=10.0, sft=0.4
        ).value.sum().backward()
        close(error.grad, [[5 * (sigmoid + 0.4), -5 * sigmoid]], rtol=1e-6)


def test_sft_ignores_reference_and_loser() -> None:
    outputs = random_outputs("sft")
    loss = objective_function("sft")(outputs)
    close(loss.value, outputs.error[:, 0])
    assert loss.margin is None


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("samples", [1, 3])
def test_pairwise_objectives_refuse_other_group_sizes(name, samples) -> None:
    with pytest.raises(ValueError, match=f"K = {samples} samples; it needs K = 2, index 0 preferred"):
        objective_function(name)(random_outputs(name, samples=samples), **arguments(name))


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_missing_reference_says_what_to_write(name) -> None:
    outputs = random_outputs(name)
    bare = Outputs(outputs.policy, outputs.target, outputs.timestep)
    with pytest.raises(ValueError, match="reference='error'"):
        objective_function(name)(bare)


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match=r"unknown objective 'diffusion_dop' \(did you mean 'diffusion_dpo'\?\); choose one of: diffusion_dpo"
    ):
        objective_function("diffusion_dop")
    with pytest.raises(ValueError, match=r"unknown objective 'os'; choose one of"):
        build_objective("os")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_unknown_argument(name) -> None:
    known = ", ".join(defaults(name)) or "none"
    with pytest.raises(ValueError, match=rf"objective '{name}' has no argument 'betta'.*; it takes: {known}$"):
        build_objective(name, betta=1.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_build_binds_the_arguments(name) -> None:
    outputs = random_outputs(name)
    close(build_objective(name, **arguments(name))(outputs).value, objective_function(name)(outputs, **arguments(name)).value)
    assert ("beta" in defaults(name)) is (name in PAIRWISE)


def test_margin_is_linear_in_beta() -> None:
    outputs = random_outputs("diffusion_dpo")
    close(implicit_margin(outputs, 4000.0), 2 * implicit_margin(outputs, 2000.0))
