"""Planted errors: each known way of writing Diffusion-DPO wrongly, and each flipped sign, reversed difference, flipped comparison,
exchanged pair, dropped reference and batch mean in the source of any objective, must fail at least two checks, or the checks prove
nothing."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from mutants import KINDS, executed, planted
from objective_checks import CHECKS, Objective, method, swapped
from own_tests import NOTICED, noticing
from torch.nn.functional import softplus
from toys import LOGISTIC_CHECKS

from diffalign.objectives import OBJECTIVES, Needs
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.tensors import Loss, Outputs, implicit_margin


def sign_flipped(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(margin), margin)


def reference_dropped(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    margin = -0.5 * beta * (outputs.error[:, 0] - outputs.error[:, 1])
    return Loss(softplus(-margin), margin)


def winner_and_loser_swapped(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    return diffusion_dpo(swapped(outputs) if outputs.known_reference_error is None else outputs, beta=beta)


def mean_inside_the_logarithm(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin.mean()).expand_as(margin), margin)


def reduced(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin).mean(), margin)


def half_forgotten(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    return diffusion_dpo(outputs, beta=2 * beta)


def sum_for_mean(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    return diffusion_dpo(outputs, beta=beta * outputs.policy[0, 0].numel())


def only_image_axes_reduced(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """The mean over (C, H, W), which leaves a video its last axis: a loss for each pixel column."""
    reference = outputs.policy if outputs.reference is None else outputs.reference
    policy_error, reference_error = ((each - outputs.target).square().mean(dim=[2, 3, 4]) for each in (outputs.policy, reference))
    drift = policy_error - reference_error
    margin = -0.5 * beta * (drift[:, 0] - drift[:, 1])
    return Loss(softplus(-margin), margin)


def reference_follows_the_policy(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """One object for policy and reference: the loss is ln 2 for ever."""
    return diffusion_dpo(replace(outputs, reference=outputs.policy), beta=beta)


def subtracted_in_half_precision(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    if outputs.policy.dtype != torch.bfloat16:
        return diffusion_dpo(outputs, beta=beta)
    drift = outputs.error.bfloat16() - outputs.reference_error.bfloat16()
    margin = (-0.5 * beta * (drift[:, 0] - drift[:, 1])).float()
    return Loss(softplus(-margin), margin)


def logarithm_of_sigmoid(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
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


def failures(objective: Objective, name: str = "diffusion_dpo", checks: Iterable[str] = ALL_CHECKS, enough: int | None = None) -> list[str]:
    """The checks that an objective fails when it runs under a name; stops at `enough`."""
    failed: list[str] = []
    for check in checks:
        try:
            ALL_CHECKS[check](objective, name)
        except NOTICED:
            failed.append(check)
            if len(failed) == enough:
                break
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


def drops_dtype(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    loss = diffusion_dpo(outputs, beta=beta)
    return Loss(loss.value.float(), loss.margin)


def ignores_kept_error(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    if outputs.known_reference_error is not None:
        return Loss(softplus(outputs.error[:, 0] - outputs.error[:, 1]))
    return diffusion_dpo(outputs, beta=beta)


def reference_offset(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """Reads the loser's reference error twice as large: equal constants no longer cancel."""
    drift = outputs.error - outputs.reference_error * torch.tensor([1.0, 2.0], dtype=outputs.error.dtype)
    margin = -0.5 * beta * (drift[:, 0] - drift[:, 1])
    return Loss(softplus(-margin), margin)


def tracks_with_gradient(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    loss = diffusion_dpo(outputs, beta=beta)
    return Loss(loss.value, loss.margin, tracked={"margin": implicit_margin(outputs, beta)})


def test_no_check_is_idle() -> None:
    """Each check notices at least one of the planted errors, here or above; two are for other objectives, noticed by the mutants below."""
    planted = (*PLANTED, *NUMERICAL, drops_dtype, ignores_kept_error, reference_offset, tracks_with_gradient)
    assert set(ALL_CHECKS) - {name for each in planted for name in failures(each)} == {"permutation", "whom the policy puts first"}


# Mutants of the source of every objective ----------------------------------------------------------

SQUARED = "it is squared"
# Mutants that no input can tell from the source, by module: spot → why. Each fails no shared check.
EQUIVALENT: dict[str, dict[str, str]] = {
    "rankdpo": {
        "reversed: gains[:, :, None] - gains[:, None, :]": "its size alone is read",
        "reversed: discount[:, :, None] - discount[:, None, :]": "its size alone is read",
    },
    "dspo": {"reversed: policy - y - push * (policy - q)": SQUARED},
    "capo": {
        "reversed: reward - calibrated": "a difference of it is squared",
        "reversed: gap[:, first] - gap[:, second]": SQUARED,
        "swap: first, second = torch.triu_indices(count, count, 1, device=reward.device)": "their difference is squared",
    },
    "ipo": {"reversed: margin - 0.5": SQUARED},
    "beta_dpo": {"reversed: here - mean": SQUARED},
    "sppo": {"reversed: reward - (probability - 0.5)": SQUARED},
}

# How many there are of each kind, or more: what a mutation no longer finds is missed here. Raise them with what is added.
AT_LEAST = {
    "sign": 126, "reversed": 87, "minus": 52, "comparison": 35, "swap": 37, "negated": 31, "no reference": 41, "batch mean": 31,
    "mean inside the link": 55, "loss negated": 41,
}  # fmt: skip

# Of every objective of which it is so, a mutant of one of these kinds.
APPLIES: dict[str, tuple[set[str], Callable[[Needs], bool]]] = {
    "the loss negated": ({"loss negated"}, lambda needs: True),
    "a flipped sign": ({"sign", "minus", "reversed", "negated"}, lambda needs: not is_error_alone(needs)),
    "no reference": ({"no reference"}, lambda needs: needs.reference is not None),
    "better and worse exchanged": (
        {"swap", "negated", "reversed", "comparison"}, lambda needs: needs.rows != "positives" or needs.own_samples
    ),
    "a mean before the link": ({"batch mean", "mean inside the link"}, lambda needs: not is_error_alone(needs)),
}  # fmt: skip


def is_error_alone(needs: Needs) -> bool:
    """Of supervised fine-tuning, which has no difference and no link."""
    return needs.rows == "positives" and needs.reference is None


def shared_modules() -> dict[str, list[str]]:
    """Modules of functions that objectives share → those objectives."""
    found: dict[str, list[str]] = {}
    for name in OBJECTIVES:
        for value in vars(import_module(f"diffalign.objectives.{name}")).values():
            package, _, module = getattr(value, "__module__", "").rpartition(".")
            if inspect.isfunction(value) and package == "diffalign.objectives" and module != name:
                found.setdefault(module, []).append(name)
    return {module: sorted(set(names)) for module, names in found.items()}


def objectives_module(name: str) -> str:
    return f"diffalign.objectives.{name}"


def shared_checks(name: str) -> list[str]:
    """Those that hold of an objective."""
    return [check for check in CHECKS if check == "reference constant" or check not in getattr(method(name), "EXEMPT", {})]


def noticed(mutant: Mapping[str, Any], name: str) -> list[str]:
    """The first two that notice a mutant of an objective: shared checks, then tests of its own."""
    found = failures(mutant[name], name, shared_checks(name), enough=2)
    return found + noticing(method(name), objectives_module(name), mutant, enough=2 - len(found))


def test_no_kind_of_mutant_is_lost() -> None:
    found = Counter(what.partition(":")[0] for name in (*OBJECTIVES, *shared_modules()) for what in planted(objectives_module(name)))
    assert set(AT_LEAST) == set(KINDS) and {kind: found[kind] for kind, least in AT_LEAST.items() if found[kind] < least} == {}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_has_a_mutant_of_each_kind_that_applies_to_it(name) -> None:
    kinds = {what.partition(":")[0] for what in planted(objectives_module(name))}
    assert [slip for slip, (any_of, applies) in APPLIES.items() if applies(OBJECTIVES[name]) and not kinds & any_of] == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_mutant_is_noticed_by_two_checks(name) -> None:
    trees, same = planted(objectives_module(name)), EQUIVALENT.get(name, {})
    few = {what: found for what in trees.keys() - same.keys() if len(found := noticed(executed(trees[what], what), name)) < 2}
    assert few == {}
    assert [what for what in same if failures(executed(trees[what], what)[name], name, shared_checks(name), enough=1)] == []


def test_objectives_share_these_modules() -> None:
    assert set(shared_modules()) == {"position_weights", "prospect", "surrogate"}


@pytest.mark.parametrize("module", shared_modules())
def test_every_mutant_of_what_objectives_share_is_noticed_by_two_checks(module) -> None:
    """Of one of them: not all read all of it."""
    survivors = []
    for what, tree in planted(objectives_module(module)).items():
        mutant = executed(tree, what)
        for name in shared_modules()[module]:
            own = import_module(objectives_module(name))
            names = {key: mutant[key] for key, value in vars(own).items() if getattr(value, "__module__", "") == objectives_module(module)}
            if len(noticed(executed(ast.parse(inspect.getsource(own)), what, **names), name)) == 2:
                break
        else:
            survivors.append(what)
    assert survivors == []
