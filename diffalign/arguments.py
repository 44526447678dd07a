"""The arguments of a part (an objective, a noising, a stabiliser): its signature says their names, types, ranges and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from diffalign.did_you_mean import did_you_mean

# Ranges, for signatures. A function reads them as plain numbers; what a config says is held to them before it is called.
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PartialShare = Annotated[float, Field(ge=0, lt=1)]
AtLeastOne = Annotated[float, Field(ge=1)]
FlipRate = Annotated[float, Field(ge=0, lt=0.5)]
Smoothing = Annotated[float, Field(gt=0, lt=0.5)]
Count = Annotated[int, Field(gt=0)]


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments after the first, with their defaults: the signature is the configuration."""
    return {parameter.name: parameter.default for parameter in list(inspect.signature(function).parameters.values())[1:]}


def checked(what: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the signature has them; `what` names the part in an error.

    Raises ValueError for one that it does not take, of another type, out of its range, or not finite.
    """
    known, hints = defaults(function), get_type_hints(function, include_extras=True)
    for key in arguments:
        if key not in known:
            raise ValueError(f"{what} has no argument {key!r}{did_you_mean(key, known)}; it takes: {', '.join(known) or 'none'}")
    return {key: _checked(f"{what}: {key} is {value!r}", hints[key], value, known[key]) for key, value in arguments.items()}


def _checked(where: str, kind: Any, value: Any, default: Any) -> Any:
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}; {said[0].lower()}{said[1:]} (default: {default!r})") from None
