"""The trainings of a comparison: which there are, the run folder of each, and the processes that make them.

A job's folder is a run like any other: the stages before train are links to those that all jobs share, `train/` is its own, config.yaml
makes it again. Beside them: train.log, what the process said, and failure.txt, why it failed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipelines import STAGES
from pipelines.config import Config, source_fingerprint
from pipelines.json_file import read_json
from pipelines.progress import Progress
from pipelines.report import read_metrics
from pipelines.run_folder import lock_run
from pipelines.stage import is_current, stage_path, summary_of, write_atomically

if TYPE_CHECKING:
    from pipelines.evaluate import Evaluate
    from pipelines.pair import Pair
    from pipelines.train import Train

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 60.0  # for the trainings of a comparison that was killed, which notice and end
STOPPED = "stopped"  # how the failure of a process that a signal ended begins: it did nothing wrong, and is tried again


@dataclass(frozen=True)
class Road:
    """A config that takes part, called as its file and its variant: the sections that a comparison needs, none of them missing."""

    name: str
    variant: str  # as -flip_share=0.1; or empty
    config: Config
    pair: Pair
    train: Train
    evaluate: Evaluate

    @property
    def seed(self) -> int:
        """Of the trainings that choose the point of the grid."""
        return self.config.seed if self.train.seed is None else self.train.seed


@dataclass(frozen=True)
class Point:
    """A point of the grid: factors of a config's own β and learning rate."""

    beta: float = 1.0
    learning_rate: float = 1.0


@dataclass(frozen=True)
class Job:
    """One training of a method; `config.run` is its folder."""

    method: str
    point: Point
    seed: int
    config: Config
    train: Train  # the config's

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def weights(self) -> Path:
        return stage_path(self.config, "train") / "final"

    @property
    def is_done(self) -> bool:
        return is_current(self.config, "train")

    @property
    def drift(self) -> Path:
        """What `measure_drift` leaves (compare_drift.py)."""
        return self.config.run / "drift.json"

    @property
    def failure(self) -> str | None:
        """The sentence that the training failed with; None where it did not fail."""
        file = self.config.run / "failure.txt"
        return file.read_text(encoding="utf-8").strip() if file.is_file() and not self.is_done else None

    @property
    def summary(self) -> dict[str, float]:
        """Of a training that is done: groups, seconds in all and of the median step, and the means of its last steps, as win_adv.

        Where its drift was measured when it was done, that stands for its last steps'. Seconds are those without a cache: what recalled
        predictions of the reference had taken is added.
        """
        folder = stage_path(self.config, "train")
        record = read_json(folder / "stage.json", "delete the job's folder and compare again")
        steps = [seconds for _, seconds in read_metrics(folder / "speed.jsonl")["seconds"]]
        found = summary_of(self.config, "train")
        found |= read_json(self.drift, "delete it and compare again")["means"] if self.drift.is_file() else {}
        saved = found.get("seconds_saved", 0.0)
        return {**found, "seconds": record["seconds"] + saved, "seconds_per_step": median(steps) + saved / len(steps)}

    def checkpoints(self) -> dict[int, Path]:
        """Step → folder of each checkpoint that is left, in order."""
        found = {int(path.name.removeprefix("step_")): path for path in (stage_path(self.config, "train") / "checkpoints").glob("step_*")}
        return dict(sorted(found.items()))


def points_for(objective: dict[str, Any], grid: Iterable[tuple[float, float]]) -> list[Point]:
    """The grid of a method, the one nearest to its own settings first; an objective without a β has no use for the factors of one."""
    has_beta = isinstance(objective.get("beta"), int | float)
    points = {Point(beta if has_beta else 1.0, rate) for beta, rate in grid}
    return sorted(
        points, key=lambda point: (abs(math.log(point.beta)) + abs(math.log(point.learning_rate)), point.beta, point.learning_rate)
    )


def make_job(run: Path, road: Road, prepared: Path, point: Point, seed: int) -> Job:
    """The training of a config at a point of the grid, on the preferences and latents in the run folder `prepared`.

    Its folder is RUN/jobs/NAME. The name ends with a digest of all that determines the weights, and so methods that come to the same on
    this world, as a preset whose one peculiarity the model has no use for, are one job.
    """
    objective = dict(road.train.objective)
    if point.beta != 1:
        objective["beta"] *= point.beta
    changes = {
        "objective": objective,
        "learning_rate": road.train.learning_rate * point.learning_rate,
        "seed": seed,
        "keep_checkpoints": None,  # a curve is over all of them; those that it does not need go in `train_jobs`
        "reference_cache": road.train.reference_cache or (run / "reference" if road.train.reference_errors == "live" else None),
    }
    train = road.train.model_copy(update=changes)
    facts = [train.facts(), road.config.model.fingerprint(), prepared.name]
    if train.reference.adapter is not None:
        facts.append(source_fingerprint(train.reference.adapter))
    name = f"{objective['name']}-beta{point.beta:g}-lr{point.learning_rate:g}-seed{seed}-{digest_of(facts)}"
    job = Job(road.name, point, seed, road.config.model_copy(update={"run": run / "jobs" / name, "train": train}), train)
    link_stages(prepared, job.config.run, ("generate", "score", "pair", "encode"))
    return job


def digest_of(facts: Any) -> str:
    """Eight hexadecimal digits of plain JSON values."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def link_stages(source: Path, run: Path, stages: Iterable[str]) -> None:
    """Gives a run the stages that another run has made, by links and without a copy."""
    run.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        link, target = run / STAGES[stage].folder, source / STAGES[stage].folder
        if target.is_dir() and not link.is_symlink():
            link.symlink_to(os.path.relpath(target.resolve(), run.resolve()), target_is_directory=True)


def train_jobs(jobs: Sequence[Job], *, workers: int, retry: bool, progress: Progress, keep: Collection[str] = ()) -> None:
    """Trains the jobs that are not done, each in a process of its own, `workers` at a time; one that is half done goes on.

    keep   names of jobs whose checkpoints stay; others' go when they are done: hundreds of jobs would fill a disk with them
    A job that fails leaves failure.txt, the others go on; it is tried again with `retry` alone. ValueError where another process trains
    one of them; those of a comparison that was killed end by themselves (compare_child).
    """
    methods: dict[str, list[str]] = {}
    for job in jobs:
        methods.setdefault(job.name, []).append(job.method)
    jobs = list({job.name: job for job in jobs}.values())
    due = deque(job for job in jobs if not job.is_done and (retry or job.failure is None or job.failure.startswith(STOPPED)))
    for job in due:
        with lock_run(job.config.run, patience_seconds=PATIENCE_SECONDS):
            write_atomically(job.config.run / "config.yaml", job.config.to_yaml().encode())
    running: list[tuple[Job, subprocess.Popen[bytes]]] = []
    with progress.bar("train", len(jobs), done=len(jobs) - len(due)) as advance:
        try:
            while due or running:
                while due and len(running) < workers:
                    job = due.popleft()
                    running.append((job, _start(job, workers)))
                time.sleep(POLL_SECONDS)
                for job, process in [each for each in running if each[1].poll() is not None]:
                    running.remove((job, process))
                    process.communicate()  # closes its standard input
                    _settle(job, process.returncode)
                    if process.returncode == 0 and job.name not in keep:
                        shutil.rmtree(stage_path(job.config, "train") / "checkpoints", ignore_errors=True)
                    progress.say(f"compare: {', '.join(methods[job.name])}: {job.name}: {job.failure or 'done'}")
                    advance(1)
        finally:
            for _, process in running:
                process.terminate()
            for _, process in running:
                process.communicate()


def _start(job: Job, workers: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {"OMP_NUM_THREADS": threads} | os.environ  # more threads than cores slow all of them down
    command = [sys.executable, "-m", "pipelines.compare_child", str(job.config.run / "config.yaml")]
    with (job.config.run / "train.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _settle(job: Job, status: int) -> None:
    """Writes or removes failure.txt by the exit status of the job's process."""
    file = job.config.run / "failure.txt"
    if status == 0:
        file.unlink(missing_ok=True)
        return
    lines = [line for line in (job.config.run / "train.log").read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    sentence = "\n".join(lines[told[-1] :]).removeprefix("error: ") if told else (lines or ["nothing was said"])[-1]
    if status < 0 or status == 130:
        sentence = f"{STOPPED} (exit status {status}); compare again to resume it"
    write_atomically(file, f"{sentence}\n".encode())
