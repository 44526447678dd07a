"""The table of objectives: a method's loss is one pure function `NAME` in `objectives/NAME.py`, from Outputs to Loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from math import log
from typing import Any, Literal, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from diffalign.tensors import Loss, Outputs, Rows


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the data and of the networks, and its value at the defaults where the policy is the reference.

    reads  optional fields of Outputs that it reads: scores, labels, segment_labels, win_probability, teacher, mask, mismatched, snr
    scale  of β: "difference", a scale-free link on differences of reward; "absolute", rewards or margins meet a fixed number, so β sets
           how far is far; "surrogate", errors become log-ratios or probabilities by κ first
    value_at_reference  None: it depends on the errors or on the scores
    """

    rows: Rows
    reference: Literal["error", "prediction"] | None
    value_at_reference: float | None
    reads: tuple[str, ...] = ()
    scale: Literal["difference", "absolute", "surrogate"] = "difference"


OBJECTIVES: dict[str, Needs] = {
    "diffusion_dpo": Needs("pairs", reference="error", value_at_reference=log(2)),  # Wallace et al. 2023, arXiv:2311.12908
    "ipo": Needs("pairs", reference="error", value_at_reference=0.25, scale="absolute"),  # Azar et al. 2023, arXiv:2310.12036
    "hinge": Needs("pairs", reference="error", value_at_reference=1.0, scale="absolute"),  # Zhao et al. 2023 (SLiC), arXiv:2305.10425
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
    """The objective with its arguments bound; ValueError on an argument it does not take, of another type, not finite, or a β ≤ 0."""
    function, known = objective_function(name), defaults(name)
    for key in arguments:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"objective {name!r} has no argument {key!r}{hint}; it takes: {', '.join(known) or 'none'}")
    checked = {key: _checked(name, key, value) for key, value in arguments.items()}
    return partial(function, **checked)


def _checked(name: str, key: str, value: Any) -> Any:
    """The value as the signature's annotation has it: its type is what a config may say."""
    kind = get_type_hints(objective_function(name))[key]
    where = f"objective {name!r}: {key} is {value!r}"
    try:
        checked = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}; {error.errors()[0]['msg'].lower()} (default: {defaults(name)[key]!r})") from None
    if key == "beta" and not checked > 0:
        raise ValueError(f"{where}; β is above 0: a negative one would train against the labels (pair.swap_labels does that as a control)")
    return checked
