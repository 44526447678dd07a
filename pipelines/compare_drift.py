"""How far a method of a comparison went from the base, on pairs that are the same for all.

What a training logs of its last steps is of its own rows, draws and reference: one without a reference has none, and one whose reference
moves tells nothing of the base. So the final trainings are measured again when they are done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from diffalign.backbones import family_of
from diffalign.data.candidate_files import CandidateFiles
from diffalign.data.records import read_preferences
from pipelines import STAGES
from pipelines.config_file import bundled_configs
from pipelines.implicit import Implicit
from pipelines.json_file import read_json
from pipelines.stage import write_atomically

if TYPE_CHECKING:
    from pipelines.compare_jobs import Job
    from pipelines.progress import Progress

Result = Mapping[str, Any]
DRIFTS = ("win_adv", "lose_adv")
FROM_BASE = "initial"
PAIRS, DRAWS = 100, 16


def measure_drift(jobs: Sequence[Job], run: Path, progress: Progress) -> None:
    """Writes drift.json into the folder of each job: pairs_of, whose pairs; means: win_adv, lose_adv and drift_pairs, of how many.

    run   whose preferences they are, spread evenly over the file: best and last of each row; where rows have one sample there is no file
    The denoising errors are those of the reward `implicit`, from the base whatever a method's own reference is; it knows no conditions, and
    of a family that needs them there is no file either.
    """
    if any(family_of(job.config.model.backbone).takes_condition for job in jobs):
        return
    rows = [row.samples for row in read_preferences(run / STAGES["pair"].folder) if len(row.samples) > 1 and row.labels is None]
    due = [job for job in {job.name: job for job in jobs}.values() if rows and _pairs_of(job) != run.name]
    if not due:
        return
    candidates = CandidateFiles(run / STAGES["generate"].folder)
    rows = [rows[place * len(rows) // min(PAIRS, len(rows))] for place in range(min(PAIRS, len(rows)))]
    sides = [[candidates[row[end]] for row in rows] for end in (0, -1)]
    media = [[each.media for each in side] for side in sides]
    with progress.bar("drift", len(due)) as advance:
        for job in due:
            advantage = Implicit(checkpoint=str(job.weights), model=job.config.model.model_dump(mode="json"), draws=DRAWS, beta=2.0)
            win, lose = (fmean(advantage([each.prompt for each in side], shown)["score"]) for side, shown in zip(sides, media, strict=True))
            found = {"pairs_of": run.name, "means": {"win_adv": win, "lose_adv": -lose, "drift_pairs": len(rows)}}
            write_atomically(job.drift, (json.dumps(found) + "\n").encode())
            advance(1)


def _pairs_of(job: Job) -> str | None:
    """Whose pairs the job was measured on; None where it was not."""
    return read_json(job.drift, "delete it and compare again")["pairs_of"] if job.drift.is_file() else None


def drift_of(name: str, method: Result) -> dict[str, float | None]:
    """win_adv and lose_adv; None where there is none, or it was logged by a training whose reference is not the base."""
    known = "drift_pairs" in method or _reference_of(name, method) == FROM_BASE
    return {key: method.get(key) if known else None for key in DRIFTS}


def drift_note(methods: Sequence[tuple[str, Result]]) -> list[str]:
    """Sentences on what drift was measured on, and on the methods of which it is not known."""
    measured = {name: round(method["drift_pairs"]) for name, method in methods if "drift_pairs" in method}
    if not measured:
        told = "`win_adv` and `lose_adv` are means over the last steps of training, from a method's own reference"
    else:
        those = "" if len(measured) == len(methods) else f" of {', '.join(f'`{name}`' for name in measured)}"
        told = f"`win_adv` and `lose_adv`{those} are from the base, over {max(measured.values())} pairs and {DRAWS} draws, the same for all"
        told += "; those of the others are means over the last steps of their training" if those else ""
    logged = {name: _reference_of(name, method) for name, method in methods if name not in measured and DRIFTS[0] in method}
    moving = ", ".join(f"`{name}` ({reference})" for name, reference in logged.items() if reference != FROM_BASE)
    why = f". A reference that is not the base does not say how far a method went: – for {moving}." if moving else "."
    return ["", told + why] if measured or moving else []


def _reference_of(name: str, method: Result) -> str:
    """The name of train.reference; of a result that has not kept it, that of configs/methods under the method's name less its variant."""
    if "reference" in method:
        return method["reference"]
    file = bundled_configs() / "methods" / f"{name.partition('-')[0]}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    given = values.get("train", {}).get("reference", FROM_BASE)
    return given if isinstance(given, str) else given["name"]
