"""reward-eval: how well each reward of a run agrees with the judgements of its preference set.

RUN/reward_eval/report.json   all figures
RUN/reward_eval/README.md     the tables

Judgements are those that came with an imported set, ties and all, else the preferences that the stage pair made. Scores are those of the
stage score. report.json:
    truth, prompts, comparisons, ties, lists
    rewards → "reward.dimension" → comparisons, unscored, made_the_preferences
                                 → accuracy, accuracy_with_ties, tie_threshold, of_the_better, of_the_other, kendall, lists
                                 → best_of: [{count, prompts, chosen, random, oracle}], calibration (pipelines/reward_metrics.py)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from diffalign.data.records import Preference, read_preferences, read_scores
from diffalign.data.shards import read_file
from pipelines.reward_metrics import (
    Comparisons,
    best_of,
    calibration,
    kendall,
    measured,
    right_order,
    right_with_ties,
    tie_threshold,
)
from pipelines.stage import is_current, require_stage, stage_path, write_atomically

if TYPE_CHECKING:
    from pipelines.config import Config
    from pipelines.progress import Progress

FOLDER = "reward_eval"
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """What is known to be better: two samples of a prompt, and the probability that the first is preferred (0.5: a tie)."""

    prompt: str
    group_id: str
    first: str
    second: str
    wins: float


def run(config: Config, *, progress: Progress) -> dict[str, Any]:
    """Writes RUN/reward_eval and returns the report.

    ValueError where the run has no judgements of two samples or no scores, or scores of other candidates than it holds now.
    """
    truth, preferences = judgements_of(config)
    scores = scores_of(config)
    report = report_of(preferences, scores, truth=truth)
    folder = config.run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomically(folder / "README.md", page(report).encode())
    progress.say(f"reward-eval: {len(scores)} scores on {report['comparisons']} comparisons of {report['prompts']} prompts, in {folder}")
    return report


def judgements_of(config: Config) -> tuple[str, list[Preference]]:
    """What they are, and the judgements that came with an imported set; else the preferences of the run."""
    candidates = require_stage(config, "reward-eval", "generate")
    imported = sorted(candidates.glob("judgements-*.parquet"))
    if imported:
        return "the judgements that came with the set", [Preference.from_row(row) for path in imported for row in read_file(path)]
    if not is_current(config, "pair"):
        folder = stage_path(config, "pair")
        raise ValueError(f"{folder} is not complete, or made from other candidates than are in {candidates}; first: diffalign pair CONFIG")
    return "the preferences of the run", read_preferences(stage_path(config, "pair"))


def scores_of(config: Config) -> dict[str, dict[str, float]]:
    """ "reward.dimension" → candidate → score, of the section score's rewards; of all in the run where there is no such section."""
    folder = stage_path(config, "score")
    made = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = list(config.score.rewards) if config.score is not None else made
    if not names:
        raise ValueError(f"{folder} holds no scores; add a section score with the rewards to evaluate, then: diffalign score CONFIG")
    for name in names:
        if not is_current(config, f"score/{name}"):
            raise ValueError(f"{folder / name} is not complete, or of other candidates than the run holds; first: diffalign score CONFIG")
    return read_scores(folder, names)


def judged_pairs(preferences: Iterable[Preference]) -> list[Judged]:
    """Every comparison that the judgements hold: a pair is one, a list one for every two of it, labels one for every two unlike of a group.

    Samples of a list tie where its scores do.
    """
    found: list[Judged] = []
    labelled: dict[str, tuple[str, dict[str, int]]] = {}
    for row in preferences:
        if row.kind == "pair":
            wins = 1.0 if row.win_probability is None else row.win_probability
            found.append(Judged(row.prompt, row.group_id, row.samples[0], row.samples[1], wins))
        elif row.kind == "list":
            for first, second in combinations(range(len(row.samples)), 2):
                ties = row.scores is not None and row.scores[first] == row.scores[second]
                found.append(Judged(row.prompt, row.group_id, row.samples[first], row.samples[second], 0.5 if ties else 1.0))
        else:
            labelled.setdefault(row.group_id, (row.prompt, {}))[1].update(zip(row.samples, row.labels or (), strict=True))
    for group_id, (prompt, labels) in labelled.items():
        wanted, others = ([sample for sample, label in labels.items() if label == value] for value in (1, 0))
        found += [Judged(prompt, group_id, first, second, 1.0) for first in wanted for second in others]
    return found


def report_of(preferences: Sequence[Preference], scores: Mapping[str, Mapping[str, float]], *, truth: str) -> dict[str, Any]:
    """report.json. ValueError where no two samples of a prompt were compared."""
    judged = judged_pairs(preferences)
    if not judged:
        raise ValueError("the judgements compare no two samples of a prompt, so no reward can agree with them; import pairs or lists")
    lists = [row for row in preferences if row.kind == "list"]
    makers = {name for source in {row.source for row in preferences} for name in re.findall(r"\w+\.\w+", source)}
    return {
        "truth": truth,
        "prompts": len({each.prompt for each in judged}),
        "comparisons": len(judged),
        "ties": sum(each.wins == 0.5 for each in judged),
        "lists": len(lists),
        "rewards": {
            name: reward_report(judged, lists, values) | {"made_the_preferences": name in makers} for name, values in scores.items()
        },
    }


def reward_report(judged: Sequence[Judged], lists: Sequence[Preference], scores: Mapping[str, float]) -> dict[str, Any]:
    """The figures of one dimension of a reward. A comparison of which a sample has no score is left out and counted."""
    scored = [each for each in judged if np.isfinite(gap_of(each, scores))]
    comparisons = Comparisons(
        np.array([each.prompt for each in scored], dtype=object),
        np.array([each.wins for each in scored], np.float64),
        np.array([gap_of(each, scores) for each in scored], np.float64),
    )
    threshold, decided = tie_threshold(comparisons), comparisons.decided
    correlations = [(row.prompt, kendall(worth_of(row), [scores.get(sample, np.nan) for sample in row.samples])) for row in lists]
    correlations = [(prompt, value) for prompt, value in correlations if np.isfinite(value)]
    fitted = calibration(comparisons)
    better, other = sides_of([each for each in scored if each.wins != 0.5], scores)
    return {
        "comparisons": len(scored),
        "unscored": len(judged) - len(scored),
        "accuracy": _plain(measured(right_order(decided), decided.prompts)),
        "accuracy_with_ties": _plain(measured(right_with_ties(comparisons, threshold), comparisons.prompts)),
        "tie_threshold": threshold,
        "of_the_better": _plain(measured(better, decided.prompts)),
        "of_the_other": _plain(measured(other, decided.prompts)),
        "kendall": _plain(measured(np.array([value for _, value in correlations]), np.array([prompt for prompt, _ in correlations]))),
        "lists": len(correlations),
        "best_of": best_of_curve(scored, scores),
        "calibration": _plain(fitted),
    }


def sides_of(decided: Sequence[Judged], scores: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the preferred sample and of the other, each (N,)."""
    sides = [(each.first, each.second) if each.wins > 0.5 else (each.second, each.first) for each in decided]
    better, other = (np.array([scores[side[place]] for side in sides], np.float64) for place in (0, 1))
    return better, other


def gap_of(each: Judged, scores: Mapping[str, float]) -> float:
    """The score of the first less that of the second; NaN where one has none."""
    return scores.get(each.first, np.nan) - scores.get(each.second, np.nan)


def worth_of(row: Preference) -> list[float]:
    """What the samples of a list are worth to who ranked it: its scores, else their places."""
    return list(row.scores) if row.scores is not None else [float(-place) for place in range(len(row.samples))]


def best_of_curve(judged: Sequence[Judged], scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each K what the reward's choice among K random samples of a prompt is worth: the share of its comparisons that a sample wins.

    chosen by the reward, at random, and by the judgements themselves (oracle), over the groups that have K judged samples.
    """
    groups: dict[str, tuple[str, dict[str, list[float]]]] = {}
    for each in judged:
        members = groups.setdefault(each.group_id, (each.prompt, {}))[1]
        members.setdefault(each.first, []).append(each.wins)
        members.setdefault(each.second, []).append(1 - each.wins)
    columns = [
        (prompt, np.array([np.mean(wins) for wins in members.values()]), np.array([scores[sample] for sample in members]))
        for prompt, members in groups.values()
    ]
    curve = []
    for count in range(1, max((len(own) for _, _, own in columns), default=0) + 1):
        large = [(prompt, truth, own) for prompt, truth, own in columns if len(own) >= count]
        prompts = np.array([prompt for prompt, _, _ in large], dtype=object)
        curve.append(
            {
                "count": count,
                "prompts": len(set(prompts)),
                "chosen": _plain(measured(np.array([best_of(truth, own, count) for _, truth, own in large]), prompts)),
                "random": float(np.mean([truth.mean() for _, truth, _ in large])),
                "oracle": float(np.mean([best_of(truth, truth, count) for _, truth, _ in large])),
            }
        )
    return curve


def _plain(value: Any) -> Any:
    return None if value is None else asdict(value)


COLUMNS = (
    "score",
    "pairs in order",
    "with ties",
    "tie up to",
    "of the better",
    "of the other",
    "τ-b",
    "best of K",
    "calibration error",
    "T",
    "entropy",
)


def rows(report: Report) -> list[list[str]]:
    """The cells under COLUMNS, the reward that puts most pairs in order first."""
    named = sorted(report["rewards"].items(), key=lambda item: -(item[1]["accuracy"] or {"value": -1})["value"])
    return [
        [
            name + (" *" if own["made_the_preferences"] else ""),
            shown(own["accuracy"]),
            shown(own["accuracy_with_ties"]),
            f"{own['tie_threshold']:.3g}",
            mean_shown(own["of_the_better"]),
            mean_shown(own["of_the_other"]),
            shown(own["kendall"]),
            best_shown(own["best_of"]),
            *calibration_shown(own["calibration"]),
        ]
        for name, own in named
    ]


def shown(value: Report | None) -> str:
    """0.731 [0.702, 0.760], or a dash."""
    return "–" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]".replace("-", "−")


def mean_shown(value: Report | None) -> str:
    """In the reward's own scale."""
    return "–" if value is None else f"{value['value']:.4g}".replace("-", "−")


def best_shown(curve: Sequence[Report]) -> str:
    """The last point of the curve, of at least two samples, and what would be best there."""
    last = curve[-1] if len(curve) > 1 else None
    return "–" if last is None else f"{last['chosen']['value']:.3f} of {last['oracle']:.3f} (K = {last['count']})"


def calibration_shown(fitted: Report | None) -> list[str]:
    """Error, temperature and entropy; no error where no temperature fits, for to say one half of everything is never wrong."""
    if fitted is None or fitted["temperature"] is None:
        return ["–", "–", "–" if fitted is None else f"{fitted['entropy']:.3f}"]
    return [shown(fitted["error"]), f"{fitted['temperature']:.3g}", f"{fitted['entropy']:.3f}"]


def caption(report: Report) -> str:
    """What the columns are."""
    made = "; * the preferences were made by it" if any(own["made_the_preferences"] for own in report["rewards"].values()) else ""
    return (
        f"{report['comparisons']} comparisons ({report['ties']} ties) and {report['lists']} lists of {report['prompts']} prompts: "
        f"{report['truth']}; 95 % intervals over prompts{made}"
    )


def page(report: Report) -> str:
    """README.md: the table, the curves of best of K, and what the columns mean."""
    lines = [
        "# Rewards against judgements",
        "",
        f"{caption(report)[0].upper()}{caption(report)[1:]}.",
        "",
        *markdown(COLUMNS, rows(report)),
    ]
    lines += [
        "",
        "Pairs in order: of pairs with a winner the share that the reward orders so, one half where it sees no difference; 0.5 is a coin. "
        "With ties: agreement on first, second or tie, where gaps up to the best threshold of these data are ties (Deutsch et al. 2023, "
        "arXiv:2305.14324). Of the better, of the other: the reward's means over the two sides of the pairs with a winner. τ-b: Kendall's, "
        "the mean over lists. Best of K: the share of comparisons that the reward's choice among K samples wins, beside the best choice's. "
        "Calibration error: of σ(gap / T) as the probability of winning, T fitted on these data; "
        "entropy: of the judgements under it, in nats, where 0.693 is a coin's. A dash: no T is better than a coin.",
    ]
    for name, own in report["rewards"].items():
        if len(own["best_of"]) > 2:
            points = [
                [str(at["count"]), shown(at["chosen"]), f"{at['random']:.3f}", f"{at['oracle']:.3f}", str(at["prompts"])]
                for at in own["best_of"]
            ]
            lines += ["", f"## Best of K by {name}", "", *markdown(("K", "chosen", "at random", "oracle", "prompts"), points)]
        if own["calibration"] and own["calibration"]["temperature"]:
            bins = [
                [
                    f"{each['low']:.2f} to {each['high']:.2f}",
                    str(each["comparisons"]),
                    f"{each['confidence']:.3f}",
                    f"{each['accuracy']:.3f}",
                ]
                for each in own["calibration"]["bins"]
            ]
            lines += ["", f"## Reliability of {name}", "", *markdown(("confidence", "comparisons", "mean confidence", "right"), bins)]
    return "\n".join(lines) + "\n"


def markdown(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is set to the left, the others to the right."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---", *["---:"] * (len(columns) - 1)], *cells)]
