"""Planted errors in the source of the stabilisers: each must fail at least two of their tests."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import test_stabilisers
from mutants import executed, planted
from own_tests import noticing

from diffalign.stabilisers import STABILISERS

SAFEGUARDS = ("winner_safeguard", "list_safeguard")
# Mutants that no input can tell from the source, by module: spot → why. Each fails nothing at all.
EQUIVALENT = {
    "error_gradients": {
        "reversed: outputs.policy.to(exact) - outputs.target.to(exact)": "both gradients of an overlap turn around, and it stays",
    }
}
# How many there are of each kind, or more: what a mutation no longer finds is missed here. Raise them with what is added.
AT_LEAST = {"sign": 13, "reversed": 10, "comparison": 13, "swap": 5, "negated": 3, "no reference": 2}


def module_of(name: str) -> str:
    return f"diffalign.stabilisers.{name}"


def stabilisers_with(name: str, tree: ast.AST, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each stabiliser that a mutant of a module changes: itself, or those that read what they share."""
    mutant = executed(tree, what)
    if name in STABILISERS:
        yield name, mutant
        return
    for reader in SAFEGUARDS:
        yield reader, executed(ast.parse(inspect.getsource(import_module(module_of(reader)))), what, **{name: mutant[name]})


@pytest.mark.parametrize("name", [*STABILISERS, "error_gradients"])
def test_every_mutant_of_a_stabiliser_is_noticed_by_two_of_their_tests(name: str) -> None:
    """Of what they share: by two tests of one of them."""
    few, same = {}, EQUIVALENT.get(name, {})
    for what, tree in planted(module_of(name)).items():
        found = [noticing(test_stabilisers, module_of(each), mutant, enough=2) for each, mutant in stabilisers_with(name, tree, what)]
        if max(map(len, found)) < 2:
            few[what] = found
    assert few.keys() == same.keys() and all(not any(few[what]) for what in same), few


def test_no_kind_of_mutant_is_lost_and_each_stabiliser_has_its_own() -> None:
    kinds = {name: Counter(what.partition(":")[0] for what in planted(module_of(name))) for name in (*STABILISERS, "error_gradients")}
    found = sum(kinds.values(), Counter())
    assert {kind: found[kind] for kind, least in AT_LEAST.items() if found[kind] < least} == {}
    assert all(kinds[name]["negated"] for name in STABILISERS) and kinds["kl_correction"]["no reference"]
    assert all(kinds[name]["sign"] and kinds[name]["reversed"] and kinds[name]["comparison"] for name in SAFEGUARDS)
