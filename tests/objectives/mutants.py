"""Planted errors in the source of a module: each kind of slip at each spot where it can be made."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import count
from typing import Any

import torch

from diffalign.tensors import Outputs, squared_error

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.GtE: ast.LtE, ast.LtE: ast.GtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
LINKS = ("softplus", "logsigmoid", "sigmoid", "relu", "expm1")


def without_reference(outputs: Outputs) -> Outputs:
    return replace(outputs, reference=None, known_reference_error=torch.zeros_like(outputs.error))


def batch_mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(0, keepdim=True).expand_as(values)


class Mutation(ast.NodeTransformer):
    """Plants one error at the `place`-th spot of its kind; `found` counts the spots, `text` is what stood there.

    What an error message says is left alone.
    """

    def __init__(self, kind: str, place: int):
        self.kind, self.place, self.found, self.text = kind, place, 0, ""

    def _is_here(self, kind: str, node: ast.AST) -> bool:
        if kind != self.kind:
            return False
        self.found += 1
        if self.found - 1 == self.place:
            self.text = ast.unparse(node)
        return self.found - 1 == self.place

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """a + b and a − b for each other; b − a for a − b."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.Sub) and self._is_here("sign", node):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        if isinstance(node.op, ast.Sub) and self._is_here("reversed", node):
            node.left, node.right = node.right, node.left
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """a for −a, unless it is a number; a for not a."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            return node.operand if self._is_here("comparison", node) else node
        is_minus = isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant)
        return node.operand if is_minus and self._is_here("minus", node) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """< for >, ≤ for ≥, ≠ for =, and back."""
        self.generic_visit(node)
        if type(node.ops[0]) in FLIPPED and self._is_here("comparison", node):
            node.ops[0] = FLIPPED[type(node.ops[0])]()
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Two names that get their values together: exchanged."""
        self.generic_visit(node)
        target = node.targets[0]
        is_pair = isinstance(node.value, ast.Call) and _name(node.value) == "pair"  # is exchanged in visit_Call
        if isinstance(target, ast.Tuple) and len(target.elts) == 2 and not is_pair and self._is_here("swap", node):
            target.elts.reverse()
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The loss, or what a stabiliser writes, negated; winner and loser of `pair`, or the cases of `where`, exchanged; what the link
        reads averaged over the batch; an error or a prediction of the reference left out; rewards and margins: negated, without the
        reference, or averaged over the batch before the link."""
        self.generic_visit(node)
        name, source = _name(node), ast.unparse(node)
        if name == "Loss" and self._is_here("loss negated", node):
            node.args[0] = ast.UnaryOp(ast.USub(), node.args[0])
        if name == "replace":
            for each in node.keywords:
                if self._is_here("negated", each):
                    each.value = ast.UnaryOp(ast.USub(), each.value)
        if name == "where" and len(node.args) == 3 and self._is_here("swap", node):
            node.args[1:] = node.args[:0:-1]
        if name == "pair" and self._is_here("swap", node):
            return _expression(f"{source}[::-1]")
        if name in LINKS and self._is_here("mean inside the link", node):
            node.args[0] = ast.Call(ast.Name("batch_mean", ast.Load()), [node.args[0]], [])
        of_reference = name in ("squared_error", "mean_squared_error") and any("reference" in ast.unparse(each) for each in node.args)
        is_reference = name == "required" and ast.unparse(node.args[0]) == "'reference'"
        if (of_reference or is_reference) and self._is_here("no reference", node):
            return _expression(f"0.0 * {source}")
        if name in ("implicit_margin", "implicit_reward"):
            for kind, text in (
                ("negated", f"-{source}"),
                ("no reference", f"{name}(without_reference(outputs), beta)"),
                ("batch mean", f"{source}.mean(0, keepdim=True).expand(len(outputs.policy), *{source}.shape[1:])"),
            ):
                if self._is_here(kind, node):
                    return _expression(text)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`outputs.drift` and `outputs.position_drift`: the policy's error alone; `outputs.reference_error`: 0."""
        self.generic_visit(node)
        if node.attr == "drift" and self._is_here("no reference", node):
            node.attr = "error"
        if node.attr == "position_drift" and self._is_here("no reference", node):
            return _expression("squared_error(outputs.policy, outputs.target)")
        if node.attr == "reference_error" and self._is_here("no reference", node):
            return _expression(f"0.0 * {ast.unparse(node)}")
        return node


KINDS = (
    "sign", "reversed", "minus", "comparison", "swap", "negated", "no reference", "batch mean", "mean inside the link", "loss negated",
)  # fmt: skip


def _name(call: ast.Call) -> str:
    """Of the function or method that is called."""
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def executed(tree: ast.AST, what: str, **names: Any) -> dict[str, Any]:
    """The names that a module's tree defines, some of them replaced."""
    namespace: dict[str, Any] = {
        "__name__": what,
        "without_reference": without_reference,
        "batch_mean": batch_mean,
        "squared_error": squared_error,
    }
    exec(compile(ast.fix_missing_locations(tree), f"<{what}>", "exec"), namespace)
    namespace |= names
    return namespace


@cache
def planted(module: str) -> dict[str, ast.AST]:
    """Every planted error of every kind in a module, by "KIND: SOURCE" of its spot, with a number where the same stands there again."""
    source, made = inspect.getsource(import_module(module)), {}
    for kind in KINDS:
        for place in count():
            mutation = Mutation(kind, place)
            tree = mutation.visit(ast.parse(source))
            if mutation.found <= place:
                break
            name = f"{kind}: {mutation.text}"
            again = sum(each.partition(" #")[0] == name for each in made)
            made[f"{name} #{again + 1}" if again else name] = tree
    return made
