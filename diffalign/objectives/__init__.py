"""The table of objectives: a method's loss is one pure function `NAME` in `objectives/NAME.py`, from Outputs to Loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from math import log
from typing import Any, Literal

from diffalign.tensors import Loss, Outputs, Rows


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the data and of the reference, and its value where the policy is the reference (None: it depends on e)."""

    rows: Rows
    reference: Literal["error", "prediction"] | None
    value_at_reference: float | None


OBJECTIVES: dict[str, Needs] = {
    "diffusion_dpo": Needs("pairs", reference="error", value_at_reference=log(2)),  # Wallace et al. 2023, arXiv:2311.12908
    "ipo": Needs("pairs", reference="error", value_at_reference=0.25),  # Azar et al. 2023, arXiv:2310.12036
    "hinge": Needs("pairs", reference="error", value_at_reference=1.0),  # Zhao et al. 2023 (SLiC), arXiv:2305.10425
    "rpo": Needs("pairs", reference="error", value_at_reference=None),  # Liu et al. 2024, arXiv:2405.16436
    "sft": Needs("positives", reference=None, value_at_reference=None),  # denoising error of the preferred sample
}


def objective_function(name: str) -> Callable[..., Loss]:
    """The function behind a name of OBJECTIVES; ValueError names the known ones."""
    if name not in OBJECTIVES:
        near = get_close_matches(name, OBJECTIVES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown objective {name!r}{hint}; choose one of: {', '.join(OBJECTIVES)}")
    return getattr(import_module(f"diffalign.objectives.{name}"), name)


def defaults(name: str) -> dict[str, Any]:
    """The arguments an objective takes, with their defaults: its signature is its configuration."""
    parameters = list(inspect.signature(objective_function(name)).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def build_objective(name: str, **arguments: Any) -> Callable[[Outputs], Loss]:
    """The objective with its arguments bound; ValueError on an argument it does not take."""
    function, known = objective_function(name), defaults(name)
    for key in arguments:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"objective {name!r} has no argument {key!r}{hint}; it takes: {', '.join(known) or 'none'}")
    return partial(function, **arguments)
