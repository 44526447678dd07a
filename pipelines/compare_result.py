"""What a comparison found, as numbers. compare.json:

    made → command, commit: of this comparison, and of the earlier ones whose methods joined it
    prompts, clusters, scores (the headline), select, against, target, own_data, ground (of all: compare_ground.py)
    methods → NAME → objective, reference (its name), beta, learning_rate (chosen, in force), ground
                   → grid: beta, learning_rate, mean or failure of each point
                   → scores → "reward.dimension" → Change against the base, over all seeds (pipelines/report.py)
                   → against → "reward.dimension" → Change against the method `against`, over the seeds that both have; of `scores` also
                     prompt_error, the standard error over prompts alone, and seeds (seed → change), for the marks (compare_marks.py)
                   → guards, seeds (seed → change of each of `scores`), failures
                   → seconds, seconds_per_step (of the median one), forwards_per_step, backwards_per_step (of samples through a network),
                     groups, loss, rewards/accuracies, win_adv, lose_adv (of the last steps): means over the seeds
                   → drift_pairs, where win_adv and lose_adv were measured after training instead: on how many pairs (compare_drift.py)
                   → frechet, where evaluate has `fidelity`: world, base, floor, seeds (seed → distance)
                   → cost: of a step in forwards, a backward being two, over that of `against`
                   → steps → change, the mean over curve_seeds seeds: those whose checkpoints are left, the first at least
                   → steps_to_target: the first step from which on that stays at the target or above; None where it is not there at the end

All changes are paired by prompt and by seed of sampling, those against a method by seed of training too, with 95 % bootstrap intervals
over clusters of prompts and, where there are several, over the seeds of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.bootstrap import standard_error
from pipelines.compare_ground import check_earlier
from pipelines.compare_jobs import Job
from pipelines.evaluate import BASE
from pipelines.evaluate_scores import read_scored
from pipelines.report import Scored, make_report, read_report

if TYPE_CHECKING:
    from pipelines.prompts import Prompt

MEASURED = (
    "seconds", "seconds_per_step", "forwards_per_step", "backwards_per_step", "groups",
    "loss", "rewards/accuracies", "win_adv", "lose_adv", "drift_pairs",
)  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """The trainings of one method: its grid, the means that chose among it (by a job's name), the chosen point's, and its final seeds.

    unprepared   why its pairs or latents could not be made, and there is no training at all
    """

    method: str
    variant: str  # the end of the method's name; its rival is of the same variant
    objective: str
    grid: Sequence[Job]
    means: Mapping[str, float]
    chosen: Job | None
    final: Sequence[Job]
    unprepared: str | None = None

    @property
    def done(self) -> list[Job]:
        return [job for job in self.final if job.is_done]

    @property
    def checkpoints(self) -> dict[int, dict[str, Path]]:
        """Step → what evaluate calls a checkpoint → its folder, of all seeds that have their checkpoints still, at the steps of each."""
        kept = {job.name: found for job in self.done if (found := job.checkpoints())}
        steps = [step for step in next(iter(kept.values()), {}) if all(step in found for found in kept.values())]
        return {step: {f"{name}.step{step}": found[step] for name, found in kept.items()} for step in steps}


@dataclass(frozen=True)
class Evaluation:
    """The stage evaluate that judged the models, and what its samples are of."""

    folder: Path
    prompts: Sequence[Prompt]
    samples_per_prompt: int
    trained_on: Sequence[str]
    seed: int

    def scores(self, name: str) -> dict[str, np.ndarray]:
        """The scores of one model, (P, S) each."""
        return read_scored(self.folder, name, self.prompts, self.samples_per_prompt)

    def compare(self, base: Sequence[str], models: Sequence[str], name: str) -> dict[str, Any]:
        """The report of models against as many others, model by model, as one: their samples of a prompt stand side by side."""
        before, after = Scored(BASE, self._beside(base)), Scored(name, self._beside(models))
        report = make_report(
            before,
            [after],
            prompts=self.clusters,
            clusters=self.clusters,
            trained_on=self.trained_on,
            trainings=len(models),
            seed=self.seed,
        )
        return report["models"][name]

    @property
    def clusters(self) -> list[str]:
        return [prompt.cluster for prompt in self.prompts]

    def prompt_error(self, base: Sequence[str], models: Sequence[str], score: str) -> float:
        """Standard error of the change of a score over clusters of prompts, of these models and not of others like them."""
        change = self._beside(models)[score] - self._beside(base)[score]
        kept = np.isfinite(change).any(axis=1)
        return standard_error(np.nanmean(change[kept], axis=1), np.array(self.clusters)[kept], seed=self.seed)

    def _beside(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        scored = [self.scores(name) for name in names]
        return {score: np.concatenate([each[score] for each in scored], axis=1) for score in scored[0]}


def judge(
    contests: Sequence[Contest],
    evaluation: Evaluation,
    *,
    scores: Sequence[str],
    select: str,
    against: str,
    target: float,
    own_data: bool = False,
) -> dict[str, Any]:
    """compare.json: see the module.

    scores    the headline; the target is of the first
    against   a method's name, of no effect where it is not among the contests that have a result: see `rivals_of`
    """
    rivals = rivals_of([contest for contest in contests if contest.done], against)
    return {
        "prompts": len(evaluation.prompts),
        "clusters": len({prompt.cluster for prompt in evaluation.prompts}),
        "scores": list(scores),
        "select": select,
        "against": against if any(rivals.values()) else None,
        "target": target,
        "own_data": own_data,
        "methods": {contest.method: _outcome(contest, rivals.get(contest.method), evaluation, scores, target) for contest in contests},
    }


def rivals_of(contests: Sequence[Contest], against: str) -> dict[str, Contest | None]:
    """Method → what it is compared with: `against` in the same variant, or else as it is called; None where neither takes part."""
    by_name = {contest.method: contest for contest in contests}
    return {name: by_name.get(against + contest.variant) or by_name.get(against) for name, contest in by_name.items()}


def join(result: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the methods of an earlier comparison that it has not itself; both are compare.json.

    ValueError where their changes are not against the same: other prompts or headline, base, data or evaluation, another training of
    `against`. What differs by method, as its grid or its seeds, the page says.
    """
    check_earlier(earlier, result.get("ground", {}), {})
    check_earlier({**earlier, **_measured(earlier)}, {}, _measured(result))
    before = {name: _reached_again(method, result) for name, method in earlier["methods"].items()}
    made = [each for each in earlier["made"] if each not in result["made"]]  # whoever writes over the page that is read adds no line twice
    return {**result, "methods": before | result["methods"], "made": [*made, *result["made"]]}


def _reached_again(method: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """A method of an earlier comparison, its steps to the target as they are counted now."""
    if "steps" not in method:
        return dict(method)
    curve = {int(step): change[result["scores"][0]] for step, change in method["steps"].items()}
    return {**method, "steps_to_target": lasting(curve, result["target"])}


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """What all changes of a result are measured by; scores with three decimals, beyond which machines differ."""
    scores = result["scores"]
    found = {key: result.get(key) for key in ("prompts", "clusters", "scores", "select", "against", "target", "own_data")}
    bases = {name: method["scores"] for name, method in result["methods"].items() if "scores" in method}
    found["base"] = {score: round(each[score]["base"], 3) for each in list(bases.values())[:1] for score in scores}
    if result["against"] in bases:
        found[f"change of {result['against']}"] = {score: round(bases[result["against"]][score]["change"], 3) for score in scores}
    return found


def _outcome(contest: Contest, rival: Contest | None, evaluation: Evaluation, scores: Sequence[str], target: float) -> dict[str, Any]:
    done, chosen = contest.done, contest.chosen
    jobs = [*contest.grid, *contest.final]
    found: dict[str, Any] = {
        "objective": contest.objective,
        **({"reference": chosen.train.reference.name, **_settings(chosen)} if chosen else {}),
        "grid": [_settings(job) | {"mean": contest.means.get(job.name), "failure": job.failure} for job in contest.grid],
        "failures": ({} if contest.unprepared is None else {contest.method: contest.unprepared})
        | {job.name: job.failure for job in jobs if job.failure is not None},
    }
    if not done:
        return found
    whole = evaluation.compare([BASE] * len(done), [job.name for job in done], contest.method)
    summaries = [job.summary for job in done]
    found |= {"scores": whole["scores"], "guards": whole["guards"]}
    found["seeds"] = {job.seed: _changes(evaluation, job.name, scores) for job in done}
    if fidelity := read_report(evaluation.folder).get("fidelity"):
        found["frechet"] = {key: fidelity[key] for key in ("world", "base", "floor")}
        found["frechet"]["seeds"] = {job.seed: fidelity["models"][job.name]["aligned"] for job in done}
    found |= {key: fmean(each[key] for each in summaries) for key in MEASURED if all(key in each for each in summaries)}
    own, theirs = (None if each is None else cost_of([job.summary for job in each.done]) for each in (contest, rival))
    found["cost"] = own / theirs if own and theirs else None
    if rival is not None and rival is not contest:
        theirs = {job.seed: job.name for job in rival.done}
        ours = {job.seed: job.name for job in done if job.seed in theirs}
        if ours:
            rivals, names = [theirs[seed] for seed in ours], list(ours.values())
            found["against"] = evaluation.compare(rivals, names, contest.method)["scores"]
            differences = {seed: _changes(evaluation, name, scores, theirs[seed]) for seed, name in ours.items()}
            for score in scores:
                found["against"][score] |= {
                    "prompt_error": evaluation.prompt_error(rivals, names, score),
                    "seeds": {seed: change[score] for seed, change in differences.items()},
                }
    judged = {step: [name for name in names if (evaluation.folder / name).is_dir()] for step, names in contest.checkpoints.items()}
    curve = {step: _mean([_changes(evaluation, name, scores) for name in names]) for step, names in judged.items() if names}
    if curve:
        found |= {"steps": curve, "curve_seeds": min(len(names) for names in judged.values() if names)}
        found["steps_to_target"] = lasting({step: change[scores[0]] for step, change in curve.items()}, target)
    return found


def cost_of(summaries: Sequence[Mapping[str, float]]) -> float | None:
    """What a step costs, in forwards of one sample: a backward is two. None where a training has no count, as earlier ones."""
    if not summaries or any("forwards_per_step" not in each for each in summaries):
        return None
    return fmean(each["forwards_per_step"] + 2 * each["backwards_per_step"] for each in summaries)


def lasting(curve: Mapping[int, float], target: float) -> int | None:
    """The first of the steps, given in order, from which on a curve stays at the target or above: one crossing may be chance."""
    reached = None
    for step, value in reversed(list(curve.items())):
        if value < target:
            break
        reached = step
    return reached


def _mean(changes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {score: fmean(each[score] for each in changes) for score in changes[0]}


def _settings(job: Job) -> dict[str, Any]:
    return {"beta": job.train.objective.get("beta"), "learning_rate": job.train.learning_rate}


def _changes(evaluation: Evaluation, name: str, scores: Sequence[str], base: str = BASE) -> dict[str, float]:
    found = evaluation.compare([base], [name], name)["scores"]
    return {score: found[score]["change"] for score in scores}
