"""A JSON list read item by item: the same as all at once, wherever the file is cut, and no mistake passes."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.importers.json_list import json_items

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8
)


@settings(deadline=None, max_examples=150)
@given(st.lists(values, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_items_are_those_of_json_loads(items: list[Any], chunk: int, indent: int | None, ascii_only: bool) -> None:
    text = f" \n{json.dumps(items, indent=indent, ensure_ascii=ascii_only)}\n"
    assert list(json_items(StringIO(text), chunk)) == items


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from('[]{},:"1-e. atruefalsn'), max_size=12), st.integers(1, 5))
def test_what_is_no_json_is_refused(text: str, chunk: int) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    if isinstance(expected, list):
        assert list(json_items(StringIO(text), chunk)) == expected
    else:
        with pytest.raises((ValueError, TypeError)):
            list(json_items(StringIO(text), chunk))


def test_an_item_is_given_before_the_rest_is_read() -> None:
    file = StringIO("[" + ", ".join(json.dumps({"row": index}) for index in range(1000)) + "]")
    items = json_items(file, 64)
    assert [next(items) for _ in range(3)] == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert file.tell() < 300
    file.seek(0)
    with pytest.raises(TypeError, match="expected a list, got dict"):
        next(json_items(StringIO('{"a": 1}')))
