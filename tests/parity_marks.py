"""A plugin of pytest that tells what is marked `parity`: `pytest -p parity_marks --collect-only -m parity`."""

from __future__ import annotations

import json

import pytest

NOT_EVERYWHERE = ("skip", "long", "bench", "gpu", "browser")


def pytest_collection_finish(session: pytest.Session) -> None:
    """A line of JSON: the names of families and rewards that tests run everywhere are marked with."""
    found: set[str] = set()
    for item in session.items:
        mark = item.get_closest_marker("parity")
        if mark is not None and not any(map(item.get_closest_marker, NOT_EVERYWHERE)):
            found.update(mark.args or (item.cls.family,))  # type: ignore[attr-defined]  # of a class of checks
    print("\nmarked " + json.dumps(sorted(found)))
