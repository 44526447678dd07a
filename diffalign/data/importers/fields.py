"""What a row says, checked against the columns that it goes into: data may say anything, and a shard is written whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from reprlib import repr as shown  # cut short: a row may hold a picture as text
from typing import Any, TypeGuard

import pyarrow as pa


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number that a float holds; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_text(value: Any, what: str) -> str:
    """A text as it is. ValueError for anything else, and for half a character (a lone surrogate), which JSON can say and no file hold."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {shown(value)}; it is text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise ValueError(f"{what} holds {half!r} at character {error.start}, half a character; write the whole one, or remove it") from None
    return value


def checked_fields(said: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """What is said, as its columns hold it, and null left out. ValueError for the first value that its column cannot hold."""
    return {name: _checked(value, schema.field(name).type, name) for name, value in said.items() if value is not None}


def checked_tags(tags: Any) -> dict[str, str]:
    """Names and texts; numbers become text, null is left out."""
    if not isinstance(tags, Mapping):
        raise ValueError(f"tags is {shown(tags)}; it is an object of texts")
    texts = {name: str(value) if isinstance(value, int | float) else value for name, value in tags.items() if value is not None}
    return {check_text(name, "the name of a tag"): check_text(value, f"tag {name!r}") for name, value in texts.items()}


def _checked(value: Any, column: pa.DataType, name: str) -> Any:
    if pa.types.is_list(column):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {shown(value)}; it is a list")
        return tuple(_checked(each, column.value_type, f"{name}[{place}]") for place, each in enumerate(value))
    if pa.types.is_string(column):
        return check_text(value, name)
    if pa.types.is_floating(column):
        if not is_number(value):
            raise ValueError(f"{name} is {shown(value)}; it is a finite number")
        return float(value)
    limit = 1 << (column.bit_width - 1)
    if not is_number(value) or value != int(value) or not -limit <= value < limit:
        raise ValueError(f"{name} is {shown(value)}; it is a whole number of at most {column.bit_width} bits")
    return int(value)
