"""Planted errors: each known way of writing Diffusion-DPO wrongly, and each flipped sign, exchanged pair, dropped reference and batch mean
in the source of any objective, must fail at least two checks, or the checks prove nothing."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from itertools import count
from typing import Any

import pytest
import torch
from objective_checks import CHECKS, Objective, method, swapped
from torch.nn.functional import softplus
from toys import LOGISTIC_CHECKS

from diffalign.objectives import OBJECTIVES
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
        except (AssertionError, ValueError, RuntimeError, IndexError, TypeError, AttributeError):
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


def without_reference(outputs: Outputs) -> Outputs:
    return replace(outputs, reference=None, known_reference_error=torch.zeros_like(outputs.error))


class Mutation(ast.NodeTransformer):
    """Plants one error at the `place`-th spot of its kind; `found` counts the spots."""

    def __init__(self, kind: str, place: int):
        self.kind, self.place, self.found = kind, place, 0

    def _is_here(self, kind: str) -> bool:
        if kind != self.kind:
            return False
        self.found += 1
        return self.found - 1 == self.place

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.Sub) and self._is_here("sign"):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return (
            node.operand
            if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant) and self._is_here("minus")
            else node
        )

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """`winner, loser = pair(…)`: the two exchanged."""
        self.generic_visit(node)
        target = node.targets[0]
        if (
            isinstance(node.value, ast.Call)
            and getattr(node.value.func, "id", "") == "pair"
            and isinstance(target, ast.Tuple)
            and self._is_here("swap")
        ):
            target.elts.reverse()
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The loss negated; what the link reads averaged over the batch; an error of the reference left out; rewards and margins: negated,
        without the reference, or averaged over the batch before the link."""
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        if name == "Loss" and self._is_here("loss negated"):
            node.args[0] = ast.UnaryOp(ast.USub(), node.args[0])
        if name in ("softplus", "logsigmoid") and self._is_here("mean inside the link"):
            node.args[0] = ast.Call(ast.Name("batch_mean", ast.Load()), [node.args[0]], [])
        if name in ("squared_error", "mean_squared_error") and "reference" in ast.unparse(node.args[0]) and self._is_here("no reference"):
            return ast.BinOp(ast.Constant(0.0), ast.Mult(), node)
        if name not in ("implicit_margin", "implicit_reward"):
            return node
        source = ast.unparse(node)
        for kind, text in (
            ("negated", f"-{source}"),
            ("no reference", f"{name}(without_reference(outputs), beta)"),
            ("batch mean", f"{source}.mean(0, keepdim=True).expand(len(outputs.policy), *{source}.shape[1:])"),
        ):  # fmt: skip
            if self._is_here(kind):
                return ast.parse(text, mode="eval").body
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`outputs.drift`: the policy's error alone; `outputs.reference_error`: 0."""
        self.generic_visit(node)
        if node.attr == "drift" and self._is_here("drift of nothing"):
            node.attr = "error"
        if node.attr == "reference_error" and self._is_here("no reference"):
            return ast.BinOp(ast.Constant(0.0), ast.Mult(), node)
        return node


KINDS = ("sign", "minus", "swap", "negated", "no reference", "batch mean", "mean inside the link", "drift of nothing", "loss negated")


def batch_mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(0, keepdim=True).expand_as(values)


def executed(tree: ast.AST, what: str, **names: Any) -> dict[str, Any]:
    """The names that a module's tree defines, some of them replaced."""
    namespace: dict[str, Any] = {"__name__": what, "without_reference": without_reference, "batch_mean": batch_mean}
    exec(compile(ast.fix_missing_locations(tree), f"<{what}>", "exec"), namespace)
    namespace |= names
    return namespace


def planted(module: str) -> list[tuple[str, ast.AST]]:
    """Every planted error of every kind in a module of objectives, as (what and where, its tree)."""
    source, made = inspect.getsource(import_module(f"diffalign.objectives.{module}")), []
    for kind in KINDS:
        for place in count():
            mutation = Mutation(kind, place)
            tree = mutation.visit(ast.parse(source))
            if mutation.found <= place:
                break
            made.append((f"{kind} {place} of {module}", tree))
    return made


def shared_modules() -> dict[str, list[str]]:
    """Modules of functions that objectives share → those objectives."""
    found: dict[str, list[str]] = {}
    for name in OBJECTIVES:
        for value in vars(import_module(f"diffalign.objectives.{name}")).values():
            package, _, module = getattr(value, "__module__", "").rpartition(".")
            if inspect.isfunction(value) and package == "diffalign.objectives" and module != name:
                found.setdefault(module, []).append(name)
    return {module: sorted(set(names)) for module, names in found.items()}


def noticed(objective: Objective, name: str) -> list[str]:
    """The first two checks that notice a mutant of an objective."""
    held = [check for check in CHECKS if check == "reference constant" or check not in getattr(method(name), "EXEMPT", {})]
    return failures(objective, name, held, enough=2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_mutant_is_noticed_by_two_checks(name) -> None:
    survivors = {what: found for what, tree in planted(name) if len(found := noticed(executed(tree, what)[name], name)) < 2}
    assert survivors == {}


def test_objectives_share_these_modules() -> None:
    assert set(shared_modules()) == {"position_weights", "prospect", "surrogate"}


@pytest.mark.parametrize("module", shared_modules())
def test_every_mutant_of_what_objectives_share_is_noticed_by_two_checks(module) -> None:
    """Of one of them: not all read all of it."""
    survivors = []
    for what, tree in planted(module):
        mutant = executed(tree, what)
        for name in shared_modules()[module]:
            own = import_module(f"diffalign.objectives.{name}")
            names = {
                key: mutant[key] for key, value in vars(own).items() if getattr(value, "__module__", "") == f"diffalign.objectives.{module}"
            }
            if len(noticed(executed(ast.parse(inspect.getsource(own)), what, **names)[name], name)) == 2:
                break
        else:
            survivors.append(what)
    assert survivors == []
