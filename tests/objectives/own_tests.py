"""The test functions of a module, run with some of what they test replaced: which of them notice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import product
from types import ModuleType
from typing import Any

import pytest

NOTICED = (AssertionError, ValueError, RuntimeError, IndexError, TypeError, AttributeError, pytest.fail.Exception)


def noticing(tests: ModuleType, tested: str, mutant: Mapping[str, Any], enough: int) -> list[str]:
    """The first `enough` test functions of a module that fail where the functions of the module `tested` are the mutant's.

    Those that speak of `tested` by its name come first. One that takes a fixture is left out.
    """
    word = tested.rpartition(".")[2]
    functions = [value for name, value in vars(tests).items() if name.startswith("test_") and inspect.isfunction(value)]
    failed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (tests, import_module(tested)):
            for name, value in list(vars(module).items()):
                if inspect.isfunction(value) and value.__module__ == tested and name in mutant:
                    patch.setattr(module, name, mutant[name])
        for function in sorted(functions, key=lambda each: word not in inspect.getsource(each)):
            if len(failed) < enough and _fails(function):
                failed.append(function.__name__)
    return failed


def _fails(function: Callable[..., None]) -> bool:
    for arguments in _cases(function):
        if arguments.keys() == inspect.signature(function).parameters.keys():
            try:
                function(**arguments)
            except NOTICED:
                return True
    return False


def _cases(function: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """What its parametrisations call it with."""
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    for values in product(*(mark.args[1] for mark in marks)):
        case: dict[str, Any] = {}
        for mark, value in zip(marks, values, strict=True):
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
            case |= {names[0].strip(): value} if len(names) == 1 else dict(zip(names, value, strict=True))
        yield case
