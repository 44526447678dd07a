"""The pictures of a comparison: every method's changes, drift and looks side by side, and its curve before all others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compare_drift import drift_of
from pipelines.compare_marks import marks
from pipelines.compare_page import FAMILIES, family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = Mapping[str, Any]
Methods = Sequence[tuple[str, Result]]
GREY, FAINT = "#777777", "#f3f4f6"
SIDES = {"win_adv": ("winners", "#2a9d8f", "o"), "lose_adv": ("losers", "#c8553d", "s")}
LOOKS = (("#d4a017", "o"), ("#4f6d7a", "s"), ("#a0522d", "D"))  # of the guards, in their order
COLUMNS = 6  # of the curves


def draw_methods(result: Result, methods: Methods, path: Path) -> None:
    """One line a method, in the given order: changes of the headline scores with their intervals, drift of winner and loser, looks."""
    from matplotlib.lines import Line2D

    scores, places, marked = result["scores"], range(len(methods), 0, -1), marks(result)
    figure = _figure(3 * len(scores) + 6.5, 1.7 + 0.24 * len(methods))
    panels = figure.subplots(1, len(scores) + 2, sharey=True, squeeze=False, width_ratios=[3] * len(scores) + [2, 2])[0]
    for axes, score in zip(panels, scores, strict=False):
        for place, (name, method) in zip(places, methods, strict=True):
            change, colour = method["scores"][score], FAMILIES[family(method)][1]
            face = colour if marked.get(name, {}).get(score) == "▲" else "white"
            axes.plot([change["low"], change["high"]], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
            axes.plot(change["change"], place, "o", color=colour, markerfacecolor=face, markersize=5.5, zorder=3)
        rival = result["methods"].get(result["against"], {}).get("scores")
        if rival is not None:
            axes.axvline(rival[score]["change"], color=FAMILIES["pairs"][1], linewidth=0.9, linestyle="--", alpha=0.6, zorder=1)
        axes.set_title(f"{score}, change")
    drifts = {label: ([drift_of(*each)[key] for each in methods], colour, marker) for key, (label, colour, marker) in SIDES.items()}
    _scatter(panels[-2], "advantage at the end", drifts, places)
    guards = list(dict.fromkeys(guard for _, method in methods for guard in method["guards"]))
    looks = {
        guard: ([_percent(method["guards"].get(guard)) for _, method in methods], *LOOKS[index % len(LOOKS)])
        for index, guard in enumerate(guards)
    }
    _scatter(panels[-1], "looks, % of the base's", looks, places)
    panels[0].set_yticks(list(places), [name for name, _ in methods])
    panels[0].set_ylim(0.4, len(methods) + 0.6)
    for label, (_, method) in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_color(FAMILIES[family(method)][1])
    for axes in panels:
        for place in places:
            if place % 2:
                axes.axhspan(place - 0.5, place + 0.5, color=FAINT, zorder=0)
        axes.axvline(0.0, color=GREY, linewidth=0.9, zorder=1)
        _tidy(axes)
        axes.tick_params(left=False)
    present = {family(method) for _, method in methods}
    keys = [Line2D([], [], color=colour, marker="o", label=name) for name, (_, colour) in FAMILIES.items() if name in present]
    if result["against"] is not None:
        better, level = f"better than {result['against']} (▲)", f"{result['against']}'s own change"
        keys.append(Line2D([], [], color=GREY, marker="o", linestyle="", label=better))
        keys.append(Line2D([], [], color=FAMILIES["pairs"][1], linestyle="--", alpha=0.6, label=level))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    _save(figure, path)


def draw_curves(result: Result, methods: Methods, path: Path) -> None:
    """A small picture for each method that has a curve: the first headline score by step, before the curves of all others."""
    score = result["scores"][0]
    curves = {
        name: ([0, *map(int, method["steps"])], [0.0, *(change[score] for change in method["steps"].values())])
        for name, method in methods
        if "steps" in method
    }
    lines = -(-len(curves) // COLUMNS)
    columns = min(COLUMNS, len(curves))
    figure = _figure(2.1 * columns + 0.6, 1.45 * lines + 0.9)
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, method) in zip(panels, [each for each in methods if each[0] in curves], strict=False):
        for other in curves.values():
            axes.plot(*other, color="#d5d8dc", linewidth=0.6, zorder=1)
        colour = FAMILIES[family(method)][1]
        axes.plot(*curves[name], color=colour, linewidth=1.8, marker="o", markersize=3, zorder=3)
        axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=2)
        axes.axhline(result["target"], color=GREY, linewidth=0.8, linestyle=":", zorder=2)
        axes.set_title(name, color=colour)
        _tidy(axes)
    every = [value for _, values in curves.values() for value in values]
    if min(every) < -2 * max(every) < 0:  # where one has collapsed, the others would be lines without a height
        panels[0].set_ylim(-2.2 * max(every), 1.1 * max(every))
    for index in range(len(curves), len(panels)):  # the last line is not full
        panels[index].set_visible(False)
        panels[index - columns].tick_params(labelbottom=True)
    figure.supxlabel("step", color=GREY, fontsize=9)
    figure.supylabel(f"change of {score}\n(dotted: {result['target']:+g})", color=GREY, fontsize=9)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scatter(axes: Axes, title: str, series: Mapping[str, tuple[Sequence[float | None], str, str]], places: Sequence[int]) -> None:
    """Marks of several numbers on each line, what is missing left out."""
    for label, (values, colour, marker) in series.items():
        points = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=4, alpha=0.85, label=label, zorder=3)
    axes.set_title(title)
    if axes.get_lines():
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=len(series), handletextpad=0.1, columnspacing=0.8)


def _percent(drift: Mapping[str, float | None] | None) -> float | None:
    relative = None if drift is None else drift["relative"]
    return None if relative is None else 100 * relative


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.title.set_fontsize(9.5)
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    from PIL import Image

    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary)
    with Image.open(temporary) as drawn:
        small = drawn.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # half the bytes: git keeps it
    small.save(temporary, optimize=True)
    temporary.replace(path)
