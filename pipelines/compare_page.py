"""A comparison as people read it: the table of the terminal, and a page in Markdown with its picture."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

import diffalign
from pipelines.stage import write_atomically

Result = Mapping[str, Any]
PICTURE = "methods.png"


def ranked(result: Result) -> list[tuple[str, Result]]:
    """The methods, the greatest change of the score that chose first; those without a result last."""
    select = result["select"]
    methods = result["methods"].items()
    return sorted(methods, key=lambda entry: -entry[1]["scores"][select]["change"] if "scores" in entry[1] else float("inf"))


def comparison_table(result: Result) -> Table:
    """One line a method: the chosen β and learning rate, the change of each headline score, wins, seconds; or why it failed."""
    caption = f"change against the base [95 % interval over {result['clusters']} clusters of prompts that mean the same, all seeds]"
    title = f"{result['prompts']} held-out prompts, same seeds; points chosen by {result['select']} on validation prompts"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.HORIZONTALS, show_edge=False)
    columns = headline(result)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows(result):
        table.add_row(*map(Text, row))
    for name, failures in failed(result):
        table.add_row(Text(name), Text(failures, style="red"))
    return table


def headline(result: Result) -> list[str]:
    against = [f"{result['select']} against {result['against']}"] if result["against"] else []
    return ["method", "β", "lr", *result["scores"], *against, "wins", "seconds"]


def rows(result: Result) -> list[list[str]]:
    """The cells under `headline`, one row a method that has a result."""
    found = []
    for name, method in ranked(result):
        if "scores" in method:
            select = method["scores"][result["select"]]
            beta = "–" if method["beta"] is None else f"{method['beta']:g}"
            against = [_change(method.get("against", {}).get(result["select"]))] if result["against"] else []
            scores = [_change(method["scores"][score]) for score in result["scores"]]
            wins, seconds = f"{100 * select['win_rate']:.0f} %", f"{method['seconds']:.0f}"
            found.append([name, beta, f"{method['learning_rate']:.2g}", *scores, *against, wins, seconds])
    return found


def failed(result: Result) -> list[tuple[str, str]]:
    """Each method that has no result, with the sentence of its first failure."""
    return [(name, next(iter(method["failures"].values()), "–")) for name, method in ranked(result) if "scores" not in method]


def write_page(result: Result, page: Path, *, command: str, commit: str) -> None:
    """Writes the page, and the picture beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    scored = [(name, method) for name, method in ranked(result) if "scores" in method]
    dimensions = [name for name, change in (scored[0][1]["scores"] if scored else {}).items()
                  if change["role"] in ("held out", "same reward") and name not in result["scores"]]  # fmt: skip
    guards = list(scored[0][1]["guards"]) if scored else []
    curves = any("steps" in method for _, method in scored)
    steps = [f"steps to base {result['target']:+g}"] if curves else []
    lines = [
        "# The methods side by side",
        "",
        "```bash",
        command,
        "```",
        "",
        f"At commit {commit}: {result['prompts']} held-out prompts ({result['clusters']} clusters that mean the same), equal for all, as "
        "are candidates, base and the seeds of sampling. Every method has the same grid of factors of its own β and learning rate; "
        f"`{result['select']}` on validation prompts, which share no scene with the held-out ones, chose the point. Changes are "
        "against the base, over all seeds, with 95 % bootstrap intervals over clusters of prompts; wins are shares of samples better "
        "than the base's.",
        "",
        f"![changes, drift and looks by method]({PICTURE})",
        "",
        *_markdown(headline(result), rows(result)),
        "",
        "What else moved: other dimensions, looks (relative to the base), training (pairs, and the drift of winner and loser at its end).",
        "",
        *_markdown(
            ["method", "seeds", *dimensions, *guards, "groups", "win_adv", "lose_adv", *steps],
            [
                [name, str(len(method["seeds"])), *(f"{method['scores'][each]['change']:+.3f}" for each in dimensions),
                 *(_share(method["guards"][guard]["relative"]) for guard in guards),
                 *(_number(method.get(key)) for key in ("groups", "win_adv", "lose_adv")),
                 *(["–" if method.get("steps_to_target") is None else str(method["steps_to_target"])] if curves else [])]
                for name, method in scored
            ],
        ),
    ]  # fmt: skip
    failures = {job: sentence for _, method in ranked(result) for job, sentence in method["failures"].items()}
    if failures:
        lines += ["", "Trainings that failed:", "", *(f"- `{job}`: {' '.join(sentence.split())}" for job, sentence in failures.items())]
    write_atomically(page, ("\n".join(lines) + "\n").encode())
    if scored:
        _draw(result, scored, page.parent / PICTURE)


def command_of(words: Sequence[str]) -> str:
    """The command as it was given; where its files are all those of a folder, in the pattern that the shell expanded."""
    files = [Path(word) for word in words if "=" not in word]
    folder = files[0].parent
    every = sorted(folder.glob("*.yaml")) == sorted(files) and len(files) > 1
    shown = [f"{folder.as_posix()}/*.yaml"] if every else [shlex.quote(str(file)) for file in files]
    return " ".join(["diffalign compare", *shown, *(shlex.quote(word) for word in words if "=" in word)])


def commit_of() -> str:
    """The commit that the project's files are at, `+` where they have changed since; its version where they are no checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return f"of version {diffalign.__version__}"
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def _change(change: Result | None) -> str:
    return "–" if change is None else f"{change['change']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]".replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows)]


def _draw(result: Result, scored: Sequence[tuple[str, Result]], path: Path) -> None:
    """One line a method, the best on top: the changes with their intervals, the drift of winner and loser, the looks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores, places = result["scores"], range(len(scored), 0, -1)
    figure = Figure(figsize=(3 * len(scores) + 8, 1.5 + 0.25 * len(scored)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(scores) + 2, sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, scores, strict=False):
        changes = [method["scores"][score] for _, method in scored]
        middle = [change["change"] for change in changes]
        reach = [[change["change"] - change["low"] for change in changes], [change["high"] - change["change"] for change in changes]]
        axes.errorbar(middle, places, xerr=reach, fmt="o", markersize=4, capsize=2)
        axes.set_title(f"{score}, change")
    for axes, title, series in (
        (panels[-2], "drift at the end of training", {key: [method.get(key) for _, method in scored] for key in ("win_adv", "lose_adv")}),
        (panels[-1], "looks, relative to the base",
         {guard: [method["guards"][guard]["relative"] for _, method in scored] for guard in scored[0][1]["guards"]}),
    ):  # fmt: skip
        for name, values in series.items():
            points = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o", markersize=4, label=name)
        axes.set_title(title)
        if axes.get_lines():
            axes.legend(frameon=False)
    panels[0].set_yticks(list(places), [name for name, _ in scored])
    for axes in panels:
        axes.axvline(0.0, color="grey", linewidth=0.8, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
