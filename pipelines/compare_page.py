"""A comparison as people read it: the table of the terminal, and a page in Markdown with its pictures (pipelines/compare_picture.py)."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

import diffalign
from diffalign.objectives import OBJECTIVES
from pipelines import compare_cells as cells
from pipelines.compare_drift import DRIFTS, drift_note, drift_of
from pipelines.compare_ground import unlike
from pipelines.compare_looks import looks
from pipelines.compare_marks import LEVEL, marks, p_values
from pipelines.stage import write_atomically

Result = Mapping[str, Any]
PICTURE, CURVE = "methods.png", "curve.png"
FAMILIES = {  # by what a method trains on: its mark in the tables, its colour in the pictures
    "pairs": ("🔵", "#3478c6"),
    "pairs, no reference": ("🟠", "#e07b24"),
    "lists": ("🟢", "#3f9a4f"),
    "labelled": ("🟣", "#8a56b8"),
    "positives": ("🟤", "#8a5a3c"),
    "segments": ("🔴", "#c93c3c"),
}


def family(method: Result) -> str:
    """The name in FAMILIES of a method of compare.json."""
    needs = OBJECTIVES[method["objective"]]
    return "pairs, no reference" if needs.rows == "pairs" and needs.reference is None else needs.rows


def ranked(result: Result) -> list[tuple[str, Result]]:
    """The methods that have a result, the greatest change of the first headline score first."""
    scored = [(name, method) for name, method in result["methods"].items() if "scores" in method]
    return sorted(scored, key=lambda entry: -entry[1]["scores"][result["scores"][0]]["change"])


def failed(result: Result) -> list[tuple[str, str]]:
    """Each method that has no result, with the sentence of its first failure."""
    return [(name, next(iter(each["failures"].values()), "–")) for name, each in result["methods"].items() if "scores" not in each]


def comparison_table(result: Result) -> Table:
    """One line a method: the chosen β and learning rate, the change of each headline score, wins, seconds; or why it failed."""
    several = any(len(method["seeds"]) > 1 for _, method in ranked(result))
    over = f"{result['clusters']} clusters of prompts that mean the same{' and seeds of training' if several else ''}"
    caption = f"change against the base [95 % interval over {over}]"
    if result["against"]:
        caption += f"; ▲ ▼ better, worse than {result['against']}, at the {100 * LEVEL:.0f} % level of all marks together"
    title = f"{result['prompts']} held-out prompts, same seeds"
    if _has_grids(result):
        title += f"; points chosen by {result['select']} on validation prompts"
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
    against = [f"{result['scores'][0]} against {result['against']}"] if result["against"] else []
    return ["method", *result["scores"], *against, "wins", "β", "lr", "cost", "s / step", "seconds"]


def rows(result: Result) -> list[list[str]]:
    """The cells under `headline`, one row a method that has a result."""
    first, marked = result["scores"][0], marks(result)
    return [
        [
            name,
            *(f"{marked.get(name, {}).get(score, '')} {cells.change(method['scores'][score])}".strip() for score in result["scores"]),
            *([cells.change(method.get("against", {}).get(first))] if result["against"] else []),
            f"{100 * method['scores'][result['select']]['win_rate']:.0f} %",
            *_settings(method),
            _cost(method),
            *_seconds(method),
        ]
        for name, method in ranked(result)
    ]


def write_page(result: Result, page: Path) -> None:
    """Writes the page, and beside it the pictures and compare.json."""
    from pipelines.compare_picture import draw_curves, draw_methods

    page.parent.mkdir(parents=True, exist_ok=True)
    methods = ranked(result)
    curves = any("steps" in method for _, method in methods)
    lines = ["# The methods side by side", "", *_introduction(result, methods)]
    draw_methods(result, methods, page.parent / PICTURE)
    lines += ["", "## Result", "", *_legend(result, methods), "", *_results(result, methods), "", f"![changes, drift and looks]({PICTURE})"]
    lines += ["", "## Settings, cost and drift", "", *_costs(result, methods, curves)]
    if curves:
        draw_curves(result, methods, page.parent / CURVE)
        lines += ["", f"![{result['scores'][0]} by step, each method before all others]({CURVE})"]
    lines += looks(result, methods)
    dimensions = _dimensions(result, methods)
    if dimensions:
        bold = "in bold where the interval is clear of 0, with no correction for how many there are"
        lines += ["", "## Other dimensions", "", f"Changes against the base, over all seeds; {bold}.{_held_out(methods)}", ""]
        lines += cells.markdown(
            ["method", *(f"`{name}`" for name in dimensions)],
            [[f"`{name}`", *(cells.plain(method["scores"].get(each)) for each in dimensions)] for name, method in methods],
        )
    failures = [(name, job, " ".join(why.split())) for name, each in result["methods"].items() for job, why in each["failures"].items()]
    if failures:
        lines += ["", "## What failed", ""]
        lines += [f"- `{name}`{'' if job == name else f', `{job}`'}: {why}" for name, job, why in failures]
    write_atomically(page.with_name("compare.json"), (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(page, ("\n".join(lines) + "\n").encode())


def _has_grids(result: Result) -> bool:
    return any(len(method["grid"]) > 1 for method in result["methods"].values())


def _introduction(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    least, most = (choose(len(method["seeds"]) for _, method in methods) for choose in (min, max))
    seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
    base = ", ".join(f"`{score}` {methods[0][1]['scores'][score]['base']:.3f}" for score in result["scores"])
    grid = "β and learning rate were not chosen from a grid."
    if _has_grids(result):
        grid = (
            f"The grid is of factors of a method's own β and learning rate, the same factors for all. {_tried(methods)}. "
            f"`{result['select']}` on validation prompts, which share no scene with the held-out ones, chose the point, "
            "with one seed: of points that are near each other another may do better on the held-out ones."
        )
    over = f", and wins over `{result['against']}` of those above its sample of the same prompt and seeds" if result["against"] else ""
    return [
        "```bash",
        *(line for made in result["made"] for line in (f"# at commit {made['commit']}", made["command"])),
        "```",
        "",
        f"{len(methods)} methods, {seeds} each, on {result['prompts']} held-out "
        f"prompts that say {result['clusters']} things. {'B' if result['own_data'] else 'Candidates, b'}ase, prompts and the seeds "
        f"of sampling are the same for all{', how candidates are made is not' if result['own_data'] else ''}. " + grid,
        "",
        f"Changes are against the base ({base}), over all seeds. Wins are shares of samples whose `{result['select']}` is above the "
        f"base's{over}, a tie counting one half. {_of_intervals(least)}",
        *_same_trainings(methods),
        *_made_otherwise(result, methods),
    ]


def _same_trainings(methods: Sequence[tuple[str, Result]]) -> list[str]:
    """A sentence on methods that are one here, having the same scores to the last digit with every seed."""
    alike: dict[str, list[str]] = {}
    for name, method in methods:
        alike.setdefault(json.dumps([method["scores"], method["seeds"]], sort_keys=True), []).append(f"`{name}`")
    found = ", ".join(" = ".join(names) for names in alike.values() if len(names) > 1)
    return ["", f"Different names, and on this data the same training, to the last digit: {found}."] if found else []


def _tried(methods: Sequence[tuple[str, Result]]) -> str:
    """How many points the methods had to choose from: one without a β has the learning rates alone."""
    counts = Counter(len(method["grid"]) or 1 for _, method in methods)
    if len(counts) == 1:
        return f"All had {max(counts)} points"
    several = " and ".join(f"{number} had {points}" for points, number in sorted(counts.items(), reverse=True))
    return f"Of the methods {several} points (below): an objective without a β has learning rates alone, and more tries find more"


def _made_otherwise(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    """A list of the methods whose grid, seeds or budget are not those of the others: of an earlier comparison, or by their configs."""
    found = unlike(dict(methods), result["against"])
    for name, method in methods:
        if len(method["grid"]) > 1 and all(point.get("mean") is None for point in method["grid"]):
            found[name] = "; ".join([*([found[name]] if name in found else []), "what each point of its grid gave was not kept"])
    intro = ["", "Not made as the others, and so not quite comparable:", ""] if found else []
    alike: dict[str, list[str]] = {}
    for name, words in found.items():
        alike.setdefault(words, []).append(f"`{name}`")
    return intro + [f"- {', '.join(names)}: {words}" for words, names in alike.items()]


def _of_intervals(seeds: int) -> str:
    """What the intervals cover, by the least number of trainings."""
    what = "Intervals are 95 % bootstrap intervals over prompts that say the same"
    if seeds == 1:
        return f"{what}, and say nothing of other seeds: a method has one training, and another would have other numbers."
    said = (
        f"{what} and over seeds of training, both resampled (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122); those against a "
        "method are paired by seed."
    )
    most = 1 - 2.0 ** (1 - seeds)
    if most < 0.95:
        said += (
            f" {seeds} trainings cannot say more: where they differ more than prompts do, an interval ends at the lowest and the highest "
            f"of them, and holds the truth in {100 * most:.0f} % of cases at most."
        )
    return said


def _legend(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    families = {family(method) for _, method in methods}
    present = " · ".join(f"{mark} {name}" for name, (mark, _) in FAMILIES.items() if name in families)
    if result["against"] is None:
        return [present]
    found = p_values(result)
    count, level = sum(map(len, found.values())), f"{100 * LEVEL:.0f} %"
    unmarked = [name for name, method in methods if "against" in method and name not in found]
    old = f". Not tested, for want of numbers that their earlier comparison has not kept: {', '.join(unmarked)}" if unmarked else ""
    return [
        f"{present}  ",
        f"**▲** better than `{result['against']}` on the same prompts and seeds, ▼ worse, by a t-test over prompts and seeds with Holm's "
        f"correction for all {count} of them: where nothing differs, a table has one false mark or more in {level} of cases at most{old}",
    ]


def _results(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    scores, rival, marked = result["scores"], result["against"], marks(result)
    table = []
    for place, (name, method) in enumerate(methods, start=1):
        own, faced = {score: marked.get(name, {}).get(score, "") for score in scores}, method.get("against", {})
        shown = f"**`{name}`**" if "▲" in own.values() else f"`{name}`"
        of = "" if name == method["objective"] else f" <sub>{method['objective']}</sub>"
        table.append([
            str(place),
            f"{FAMILIES[family(method)][0]} {shown}{of}",
            *(f"{own[score]} {cells.interval(method['scores'][score], bold=own[score] == '▲')}".strip() for score in scores),
            *([cells.interval(faced.get(scores[0]))] if rival else []),
            cells.wins(method["scores"][result["select"]]),
            *([cells.wins(faced.get(result["select"]))] if rival else []),
        ])  # fmt: skip
    beside, wins = ([f"`{scores[0]}` − `{rival}`'s"], [f"wins over `{rival}`"]) if rival else ([], [])
    return cells.markdown(["", "method", *(f"`{score}`" for score in scores), *beside, "wins", *wins], table, left=2)


def _costs(result: Result, methods: Sequence[tuple[str, Result]], curves: bool) -> list[str]:
    accurate = any("rewards/accuracies" in method for _, method in methods)  # an earlier comparison has kept none
    table = [
        [f"`{name}`", *_settings(method), str(len(method["grid"]) or 1), _cost(method), *_seconds(method), f"{method['groups']:.0f}",
         *([_accuracy(method)] if accurate else []), *map(cells.signed, drift_of(name, method).values()),
         *(_reached(method) if curves else [])]
        for name, method in methods
    ]  # fmt: skip
    first, target = result["scores"][0], f"{result['target']:+g}"
    accuracy = " the share of them in the right order (accuracy), and" if accurate else ""
    cost = ""
    if result["against"]:
        passes = "in samples through a network, a backward counting two forwards,"
        cost = f"the cost of a step {passes} over that of `{result['against']}`, whatever the load; "
    steps = [f"{unit} to {target}" for unit in ("steps", "seconds")] if curves else []
    seeds = sorted({method.get("curve_seeds", 1) for _, method in methods if "steps" in method})
    of = "in the mean of " + " or ".join(map(str, seeds)) + " seeds" if seeds != [1] else "of the first seed alone"
    never = "– where it never does, nothing where no checkpoint was kept"
    reached = f"; the checkpoint from which on `{first}` stays {target} above the base's or more, {of}, {never}" if curves else ""
    return [
        f"The chosen β and learning rate, of how many points, ↑ and ↓ where the largest or the smallest that was tried is the best, so "
        f"that a better one may lie beyond; {cost}seconds of the median step and of the whole training, several of which "
        f"may have shared the machine; the rows trained on; at the end{accuracy} how far the denoising error of winners had fallen "
        f"(win_adv) and that of losers risen (lose_adv){reached}.",
        "",
        *cells.markdown(
            ["method", "β", "lr", "points", "cost", "s / step", "seconds", "rows", *(["accuracy"] if accurate else []), *DRIFTS, *steps],
            table,
        ),
        *drift_note(methods),
    ]


def _reached(method: Result) -> list[str]:
    """Steps and seconds to the target."""
    steps, none = method.get("steps_to_target"), "–" if "steps" in method else ""
    return [none, none] if steps is None else [str(steps), f"{steps * method['seconds_per_step']:.0f}"]


def _dimensions(result: Result, methods: Sequence[tuple[str, Result]]) -> list[str]:
    """The scores that are neither a headline nor a guard, those of held-out rewards first."""
    roles = {name: change["role"] for _, method in methods for name, change in method["scores"].items() if name not in result["scores"]}
    return [name for wanted in ("held out", "trained", "same reward") for name, role in roles.items() if role == wanted]


def _held_out(methods: Sequence[tuple[str, Result]]) -> str:
    """A sentence where every reward that was scored, but for the looks, made the preferences too."""
    roles = {change["role"] for _, method in methods for change in method["scores"].values()}
    told = " They are of the reward that made the preferences; of others, which no method saw, are the looks alone."
    return "" if "held out" in roles else told


def command_of(words: Sequence[str]) -> str:
    """The command as it was given; where its files are all those of a folder, in the pattern that the shell expanded."""
    files = [Path(word) for word in words if "=" not in word]
    folder = files[0].parent
    every = sorted(folder.glob("*.yaml")) == sorted(files) and len(files) > 1
    shown = [f"{folder.as_posix()}/*.yaml"] if every else [shlex.quote(str(file)) for file in files]
    return " ".join(["diffalign compare", *shown, *(shlex.quote(word) for word in words if "=" in word)])


def commit_of() -> str:
    """The commit that the project's files are at, `+` where they have changed since; its version where git does not say."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        if (root / ".git").exists():
            return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout of another user, as in a container: no reason to stop
        pass
    return f"of version {diffalign.__version__}"


def _settings(method: Result) -> list[str]:
    """The chosen β and learning rate, ↑ where it is the largest of those tried and ↓ where it is the smallest."""
    shown = []
    for key, digits in (("beta", "g"), ("learning_rate", ".2g")):
        own, tried = method[key], {point[key] for point in method["grid"] if point.get(key) is not None}
        edge = "" if len(tried) < 2 else " ↑" if own == max(tried) else " ↓" if own == min(tried) else ""
        shown.append("–" if own is None else f"{own:{digits}}{edge}")
    return shown


def _cost(method: Result) -> str:
    return "–" if method.get("cost") is None else f"{method['cost']:.2f}"


def _accuracy(method: Result) -> str:
    found = method.get("rewards/accuracies")
    return "–" if found is None else f"{100 * found:.0f} %"


def _seconds(method: Result) -> list[str]:
    return [f"{method['seconds_per_step']:.3g}", f"{method['seconds']:.0f}"]
