"""The table that a run ends with, for a terminal of 80 columns: base against aligned models, from report.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from rich import box
from rich.table import Table
from rich.text import Text

from pipelines.report import Role


def result_table(report: Mapping[str, Any]) -> Table:
    """Base, aligned, change with its 95 % interval, and wins: the share of samples on which the model beats the base.

    One line per score; with several models one per score and model, under the score's name. A name too long for the width goes on in the
    next line; numbers are never cut, so whoever prints it gives it at least its minimum width.
    """
    models = report["models"]
    several = len(models) > 1
    against = "" if several else f"{', '.join(models)} against {report['base']}: "
    caption = f"intervals over {report['clusters']} clusters of prompts that mean the same"
    caption = f"* trained on it; {caption}" if report["trained_on"] else caption
    table = Table(title=f"{against}{report['prompts']} prompts, same seeds", title_justify="left", caption=caption, caption_justify="left",
                  box=box.HORIZONTALS, show_edge=False, pad_edge=False, collapse_padding=True)  # fmt: skip
    table.add_column("score", overflow="fold", min_width=16)
    for title in ("base", "aligned", "change", "95 % interval", "wins"):
        table.add_column(title, justify="right", no_wrap=True)
    names = list(dict.fromkeys(name for model in models.values() for name in model["scores"]))
    roles = {name: next(model["scores"][name]["role"] for model in models.values() if name in model["scores"]) for name in names}
    for role in get_args(Role):
        for name in (of_role := [name for name in names if roles[name] == role]):
            label = name + (" *" if role == "trained" else "")
            rows = {of_model: model["scores"][name] for of_model, model in models.items() if name in model["scores"]}
            if several:
                table.add_row(Text(label))
            for of_model, change in rows.items():
                last = (name, of_model) == (of_role[-1], list(rows)[-1])
                table.add_row(Text(f"  {of_model}" if several else label), *_cells(change), end_section=last)
    for column in table.columns[1:]:
        column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))  # without it Rich counts the longest word
    return table


def _cells(change: Mapping[str, Any]) -> list[Text]:
    """Base, aligned, change, interval and wins; a change that is clear of 0 in green or red, but a guard's is neither good nor bad."""
    show = _formatter(change)
    clear = change["role"] != "guard" and (change["low"] > 0 or change["high"] < 0)
    colour = "" if not clear else "green" if change["change"] > 0 else "red"
    interval = f"[{show(change['low'], sign=True)}, {show(change['high'], sign=True)}]"
    means = [Text(show(change["base"])), Text(show(change["aligned"]))]
    return [*means, Text(show(change["change"], sign=True), style=colour), Text(interval), Text(f"{100 * change['win_rate']:.0f} %")]


def _formatter(change: Mapping[str, float]) -> Callable[..., str]:
    """Numbers of one row: three digits of its means, and up to two more where its change is smaller than that."""
    means = max(abs(change["base"]), abs(change["aligned"]))
    differences = max(abs(change["change"]), abs(change["low"]), abs(change["high"]))
    wanted = _decimals(means, 3)
    decimals = min(wanted + 2, max(wanted, _decimals(differences, 2)))

    def show(value: float, sign: bool = False) -> str:
        text = f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"  # + 0.0 turns −0 into 0
        return text.replace("-", "−")

    return show


def _decimals(value: float, digits: int) -> int:
    """Decimals that show `value` with so many significant digits, at least 0."""
    return max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else 0
