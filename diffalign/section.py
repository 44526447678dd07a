"""A part of a configuration: its fields are its keys, with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator


class Section(BaseModel):
    """Frozen, without infinities; an unknown key is an error, nothing at all means the defaults, and `true` is no number.

    A field that joins later and changes nothing at its default is left out there (Field(exclude_if=…)): what was made before stays current.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_section_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: Any) -> Any:
        types = _types_in(cls.model_fields[info.field_name].annotation)
        if (int in types or float in types) and bool not in types and _holds_truth(value):
            raise ValueError(f"got {value}, a number is needed")
        return value


def _types_in(annotation: Any) -> list[Any]:
    """The types that an annotation names, at any depth: int and None of `tuple[int, ...] | None`."""
    parts = get_args(annotation)
    return [found for part in parts for found in _types_in(part)] if parts else [annotation]


def _holds_truth(value: Any) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_holds_truth, parts))
