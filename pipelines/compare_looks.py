"""What a comparison's page says of looks, which nothing was trained for, and of the fidelity of whole sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipelines import compare_cells as cells
from pipelines.report import LOOKS

Result = Mapping[str, Any]


def looks(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    """The section, none where nothing of it was measured: each guard against the base and against the rival, then the Fréchet distance."""
    guards = list(dict.fromkeys(name for _, method in methods for name, change in method["scores"].items() if change["role"] == "guard"))
    far = any("frechet" in method for _, method in methods)
    if not guards and not far:
        return []
    rival = result["against"]
    columns, said = [], []
    for guard in guards:
        called = LOOKS.get(guard, guard.removesuffix(".score"))
        columns += [f"`{called}`"] + ([f"over `{rival}`'s"] if rival else [])
    if guards:
        said.append(f"Looks, relative to the base's{', and to those of the method they are compared with' if rival else ''}.")
    if far:
        columns.append("Fréchet distance")
        first = next(method["frechet"] for _, method in methods if "frechet" in method)
        said.append(
            f"The Fréchet distance from renders of the {first['world']} world, extrapolated, is {first['base']:.3g} for the base and "
            f"{first['floor']:.3g} for other renders; a method's is the mean of its seeds, the lowest and the highest in small print."
        )
    table = []
    for name, method in methods:
        row = [f"`{name}`"]
        for guard in guards:
            row += [cells.relative(method["scores"].get(guard))]
            row += [cells.relative(method.get("against", {}).get(guard))] if rival else []
        table.append(row + ([_distance(method.get("frechet"))] if far else []))
    return ["", "## Looks", "", " ".join(said), "", *cells.markdown(["method", *columns], table)]


def _distance(found: Result | None) -> str:
    if found is None:
        return "–"
    values = list(found["seeds"].values())
    return f"{fmean(values):.3g} <sub>{min(values):.3g} … {max(values):.3g}</sub>"
