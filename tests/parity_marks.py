"""A plugin of pytest that tells what is marked `parity`: `pytest -p parity_marks --collect-only -m parity`."""

from __future__ import annotations

import json

import pytest

NOT_EVERYWHERE = ("skip", "long", "bench", "gpu", "browser")


def pytest_collection_finish(session: pytest.Session) -> None:
    """A line of JSON: of each family and reward, the names of the tests run everywhere that are marked with it."""
    found: dict[str, set[str]] = {}
    for item in session.items:
        mark = item.get_closest_marker("parity")
        if mark is not None and not any(map(item.get_closest_marker, NOT_EVERYWHERE)):
            for name in mark.args or (item.cls.family,):  # type: ignore[attr-defined]  # of a class of checks
                found.setdefault(name, set()).add(item.originalname)  # type: ignore[attr-defined]  # of a function
    print("\nmarked " + json.dumps({name: sorted(tests) for name, tests in sorted(found.items())}))
