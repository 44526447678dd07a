"""Every objective of the table against every check, and the table's own errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from objective_checks import CHECKS, arguments, close, method, random_outputs

from diffalign.objectives import OBJECTIVES, build_objective, defaults, objective_function
from diffalign.tensors import implicit_margin

PAIRWISE = [name for name, needs in OBJECTIVES.items() if needs.is_pairwise]
# "reference constant" asserts the contrary where a method is exempt from it.
HELD = [
    (name, check)
    for name in OBJECTIVES
    for check in CHECKS
    if check == "reference constant" or check not in getattr(method(name), "EXEMPT", {})
]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_has_values_by_hand(name) -> None:
    assert len(method(name).HAND) >= 2, f"compute values of {name} by hand in methods/test_{name}.py"
    assert set(getattr(method(name), "EXEMPT", {})) <= {*CHECKS, "margin flips"}


@pytest.mark.parametrize(("name", "check"), HELD)
def test_objective(name, check) -> None:
    CHECKS[check](objective_function(name), name)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("samples", [1, 4])
def test_pairwise_objectives_refuse_other_group_sizes(name, samples) -> None:
    with pytest.raises(ValueError, match=f"K = {samples} samples; it needs .*2"):
        objective_function(name)(random_outputs(name, samples=samples), **arguments(name))


@pytest.mark.parametrize("name", [name for name, needs in OBJECTIVES.items() if needs.reference])
def test_a_missing_reference_says_so(name) -> None:
    with pytest.raises(ValueError, match=r"reads the reference's (error|prediction)"):
        objective_function(name)(replace(random_outputs(name), reference=None), **arguments(name))


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, needs in OBJECTIVES.items() for field in needs.reads])
def test_what_it_reads_is_declared(name, field) -> None:
    """Without a field of its line's `reads` it says which; without all others it works."""
    outputs = random_outputs(name)
    optional = ("teacher", "mismatched", "mask", "scores", "labels", "win_probability", "segment_labels")
    others = {other: None for other in optional if other not in " ".join(OBJECTIVES[name].reads)}
    assert objective_function(name)(replace(outputs, **others), **arguments(name)).value.shape == (len(outputs.policy),)
    with pytest.raises(ValueError, match=r"the objective reads .* \(Outputs\."):
        objective_function(name)(replace(outputs, **dict.fromkeys(field.split(" or "), None)), **arguments(name))


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


def test_margin_is_linear_in_beta() -> None:
    outputs = random_outputs("diffusion_dpo")
    close(implicit_margin(outputs, 4000.0), 2 * implicit_margin(outputs, 2000.0))


@pytest.mark.parametrize(
    "value, message",
    [
        ("fast", "objective 'diffusion_dpo': beta is 'fast'; input should be a valid number \\(default: 5000.0\\)"),
        (None, "beta is None; input should be a valid number"),
        ([1, 2], "beta is \\[1, 2\\]; input should be a valid number"),
        (True, "beta is True; input should be a valid number"),
        (float("nan"), "beta is nan; input should be a finite number"),
        (-5, "beta is -5; β is above 0.*pair.swap_labels"),
        (0, "beta is 0; β is above 0"),
    ],
)
def test_an_argument_of_another_type_or_out_of_range(value, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective("diffusion_dpo", beta=value)


def test_a_whole_number_is_a_number() -> None:
    outputs = random_outputs("diffusion_dpo")
    close(build_objective("diffusion_dpo", beta=3)(outputs).value, build_objective("diffusion_dpo", beta=3.0)(outputs).value)
