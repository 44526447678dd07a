"""The cells of a comparison's tables, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Change = Mapping[str, Any] | None  # of compare.json, None where a method has none


def change(change: Change) -> str:
    return "–" if change is None else f"{change['change']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]".replace("-", "−")


def interval(change: Change, *, bold: bool = False) -> str:
    """A change with its interval in small print."""
    if change is None:
        return "–"
    middle = f"{change['change']:+.3f}"
    return f"{f'**{middle}**' if bold else middle} <sub>{change['low']:+.3f} … {change['high']:+.3f}</sub>".replace("-", "−")


def wins(change: Change) -> str:
    if change is None:
        return "–"
    return f"{100 * change['win_rate']:.0f} % <sub>{100 * change['win_low']:.0f} … {100 * change['win_high']:.0f}</sub>"


def plain(change: Change) -> str:
    if change is None:
        return "–"
    shown = f"{change['change']:+.3f}".replace("-", "−")
    return f"**{shown}**" if change["low"] > 0 or change["high"] < 0 else shown


def relative(change: Change) -> str:
    """A change as a share of what it is a change of, with its interval; as it is where that is 0."""
    if change is None or not change["base"]:
        return interval(change)
    middle, low, high = (f"{100 * change[key] / abs(change['base']):+.1f}" for key in ("change", "low", "high"))
    return f"{middle} % <sub>{low} … {high}</sub>".replace("-", "−")


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A table whose first columns are set to the left, the others to the right."""
    places = ["---"] * left + ["---:"] * (len(columns) - left)
    return [f"| {' | '.join(cells)} |" for cells in (columns, places, *rows)]
