"""What evaluate measured, as numbers, sentences and curves: base against aligned models on the same prompts and seeds.

report.json:
    prompts, clusters (of prompts that mean the same), samples_per_prompt, settings, trained_on
    models → NAME → scores → "reward.dimension" → Change (base, aligned, change, low, high, win_rate, win_low, win_high, prompts, role)
                  → tags → TAG → VALUE → {"prompts": n, "scores": as above}
                  → guards → saturation … → {base, aligned, relative}
                  → warnings
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.bootstrap import bootstrap_intervals
from pipelines.json_file import read_json

GUARDS = {  # modality → rewards that must not drift, of those without weights
    "image": ("saturation", "contrast", "sharpness"),
    "video": ("movement", "flicker"),
    "audio": ("loudness", "clipping", "centroid", "silence"),
}
LOOKS = {"motion.magnitude": "magnitude"}  # single dimensions that are guards too → what they are called there
GUARD_ALARM = 0.25  # share of the base's value beyond which a drift is an alarm
Role = Literal["trained", "same reward", "held out", "guard"]


@dataclass(frozen=True)
class Change:
    """One score of one model against the base; intervals are 95 % bootstrap intervals over clusters of prompts.

    base, aligned        means over the samples that both have a score for
    change, low, high    mean of aligned − base, paired by prompt and seed
    win_rate, win_low, win_high   share of samples where aligned > base, a tie counting one half
    role                 "trained" on it; "same reward" (another dimension of a reward trained on); "held out"; "guard"
    """

    base: float
    aligned: float
    change: float
    low: float
    high: float
    win_rate: float
    win_low: float
    win_high: float
    prompts: int
    role: Role


@dataclass(frozen=True)
class Scored:
    """Scores of one model on the evaluation: "reward.dimension" → (P, S) for P prompts and S seeds; NaN where a reward gave none."""

    name: str
    scores: Mapping[str, np.ndarray]


def compare(
    base: np.ndarray, aligned: np.ndarray, role: Role, clusters: np.ndarray | None = None, *, trainings: int = 1, seed: int = 0
) -> Change | None:
    """The Change of one score; base and aligned (P, S), paired, and the cluster of each prompt (see bootstrap_intervals).

    trainings   how many models the samples are of, each of as many, one after the other: the intervals are over them too
    None where no sample has a score on both sides.
    """
    if base.shape != aligned.shape:
        shapes = f"base {base.shape}, aligned {aligned.shape}"
        raise ValueError(f"scores are not paired ({shapes}); evaluate both on the same prompts and seeds")
    both = np.isfinite(base) & np.isfinite(aligned)
    kept = both.any(axis=1)
    if not kept.any():
        return None
    base, aligned, both = base[kept], aligned[kept], both[kept]
    clusters = None if clusters is None else clusters[kept]

    def per_prompt(values: np.ndarray) -> np.ndarray:
        return np.where(both, values, 0.0).sum(axis=1) / both.sum(axis=1)

    def per_training(values: np.ndarray) -> np.ndarray:
        """(P, G); NaN where a training has none of a prompt."""
        shape = (len(values), trainings, -1)
        return np.where(both, values, 0.0).reshape(shape).sum(axis=2) / both.reshape(shape).sum(axis=2)

    with np.errstate(invalid="ignore"):
        change, wins = aligned - base, (aligned > base) + 0.5 * (aligned == base)
        low, high = bootstrap_intervals(np.stack([per_training(change), per_training(wins)], axis=2), clusters, seed=seed)
    return Change(
        base=float(per_prompt(base).mean()),
        aligned=float(per_prompt(aligned).mean()),
        change=float(per_prompt(change).mean()),
        low=float(low[0]),
        high=float(high[0]),
        win_rate=float(per_prompt(wins).mean()),
        win_low=float(low[1]),
        win_high=float(high[1]),
        prompts=int(kept.sum()),
        role=role,
    )


def role_of(score: str, trained_on: Sequence[str]) -> Role:
    """How a score relates to the training: see Change."""
    reward = score.partition(".")[0]
    if score in trained_on or reward in trained_on:
        return "trained"
    if score in LOOKS:
        return "guard"
    if reward in {name.partition(".")[0] for name in trained_on}:
        return "same reward"
    return "guard" if is_guard(reward) else "held out"


def is_guard(reward: str) -> bool:
    return any(reward in guards for guards in GUARDS.values())


def make_report(
    base: Scored,
    models: Sequence[Scored],
    *,
    prompts: Sequence[str],
    clusters: Sequence[str] | None = None,
    tags: Sequence[Mapping[str, str]] = (),
    trained_on: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    trainings: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """report.json of a base and its aligned models. `prompts`, `clusters` (default: the prompts) and `tags` have one entry per row.

    trainings   of how many models the samples of each are, see `compare`
    """
    cluster_of = np.array(prompts if clusters is None else clusters)
    samples = next(iter(base.scores.values())).shape[1] if base.scores else 0
    report = {
        "prompts": len(prompts),
        "clusters": len(np.unique(cluster_of)),
        "samples_per_prompt": samples,
        "settings": dict(settings or {}),
        "trained_on": list(trained_on),
        "base": base.name,
        "models": {},
    }

    def changes(model: Scored, rows: Any) -> dict[str, Change]:
        found = {
            name: compare(
                values[rows], model.scores[name][rows], role_of(name, trained_on), cluster_of[rows], trainings=trainings, seed=seed
            )
            for name, values in base.scores.items()
            if name in model.scores
        }
        return {name: change for name, change in found.items() if change is not None}

    for model in models:
        scores = changes(model, slice(None))
        groups: dict[str, dict[str, list[int]]] = {}
        for row, of_row in enumerate(tags):
            for key, value in of_row.items():
                groups.setdefault(key, {}).setdefault(value, []).append(row)
        # A tag that is different for every prompt (an id) is no grouping.
        groups = {key: values for key, values in groups.items() if 1 < len(values) <= max(2, len(prompts) // 2)}
        guards = guard_drifts(scores)
        report["models"][model.name] = {
            "scores": {name: asdict(change) for name, change in scores.items()},
            "tags": {
                key: {
                    value: {"prompts": len(rows), "scores": {name: asdict(change) for name, change in changes(model, rows).items()}}
                    for value, rows in sorted(values.items())
                }
                for key, values in sorted(groups.items())
            },
            "guards": guards,
            "warnings": warnings_of(scores, guards),
        }
    return report


def guard_drifts(scores: Mapping[str, Change]) -> dict[str, dict[str, float | None]]:
    """Drift of each guard that was measured: base, aligned, relative (aligned / base − 1; None where the base has none of it)."""
    drifts = {}
    for name, change in scores.items():
        guard = LOOKS.get(name) or name.partition(".")[0]
        if name in LOOKS or is_guard(guard):
            relative = change.change / abs(change.base) if change.base else None
            drifts[guard] = {"base": change.base, "aligned": change.aligned, "relative": relative}
    return drifts


def warnings_of(scores: Mapping[str, Change], guards: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """The sentences that a reader must see; none where nothing looks wrong."""
    trained = {name: change for name, change in scores.items() if change.role == "trained"}
    fallen = {name: change for name, change in scores.items() if change.role == "held out" and change.high < 0}
    relative = {name: drift["relative"] for name, drift in guards.items()}
    alarms = {name: drift for name, drift in relative.items() if drift is not None and abs(drift) > GUARD_ALARM}
    drifted = ", ".join(f"{name} {100 * drift:+.0f}%" for name, drift in alarms.items())
    sentences = []
    risen = {name: change for name, change in trained.items() if change.low > 0}
    if risen and fallen:
        gains = ", ".join(f"{name} {change.change:+.3g}" for name, change in risen.items())
        losses = ", ".join(f"{name} {change.change:+.3g}" for name, change in fallen.items())
        guard = f"; {drifted}" if drifted else ""
        sentences.append(f"training reward {gains}, held-out rewards {losses}: likely reward hacking{guard}. Open the gallery.")
    elif drifted:
        sentences.append(f"{drifted} against the base (healthy: within ±10%): the looks of the pictures drift. Open the gallery.")
    for name, change in trained.items():
        if change.high < 0:
            sentences.append(
                f"training reward {name} fell by {-change.change:.3g} (95% interval {change.low:+.3g} to {change.high:+.3g}): "
                "the policy moved against the labels. Are chosen and rejected swapped?"
            )
    if trained and not any(change.low > 0 or change.high < 0 for change in trained.values()):
        names = ", ".join(trained)
        sentences.append(f"no change of {names} is clear of 0: train longer, bring more pairs, or evaluate more prompts.")
    return sentences


def read_report(evaluation: Path) -> dict[str, Any]:
    """report.json in the folder of the stage evaluate. ValueError where it cannot be read."""
    return read_json(evaluation / "report.json", "delete it and run `diffalign evaluate CONFIG`, which writes it again from the samples")


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl as name → (step, value) points in order; text and a last line cut short by a kill are left out.

    FileNotFoundError without the file; ValueError for another line that is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run `diffalign train CONFIG` first")
    series: dict[str, list[tuple[int, float]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a metrics line ({error}); it is an object with a step") from error
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                series.setdefault(name, []).append((step, float(value)))
    return series


CURVES = {
    "loss": ("loss",),
    "accuracy": ("rewards/accuracies",),
    "advantage": ("win_adv", "lose_adv"),
    "grad_norm": ("grad_norm",),
}


def curves(metrics: Path, folder: Path) -> list[Path]:
    """Draws CURVES of a metrics.jsonl into `folder`, one PNG each, those that were logged; returns their paths."""
    series = read_metrics(metrics)
    return [
        _draw({name: series[name] for name in names if name in series}, title, folder / f"{title}.png")
        for title, names in CURVES.items()
        if any(name in series for name in names)
    ]


def _draw(lines: Mapping[str, Sequence[tuple[int, float]]], title: str, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(lines.items()):
        steps, values = np.array([point[0] for point in points]), np.array([point[1] for point in points])
        colour = f"C{index}"
        finite = np.isfinite(values)
        smooth = _running_mean(values[finite])
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps[finite], smooth, color=colour, linewidth=1.8, label=name)
    if title == "accuracy":
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    if title == "advantage":
        axes.axhline(0.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
    return path


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and its neighbours over a twentieth of the curve, the window cut at both ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
