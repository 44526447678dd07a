"""compare: methods side by side, on the same candidates, from the same base, at the same budget.

RUN/
  data/                candidates and scores, made once for all methods; data-DIGEST/ those of a section generate of its own (own_data)
  pairs/RULE-DIGEST/   preferences and latents, once for each distinct section pair
  jobs/NAME/           one training each: a method, a point of its grid, a seed
  reference/           what the reference predicted, for all trainings with the same draws
  validation/          every point of every grid, with one seed, on validation prompts: chooses the point of each method; a grid of
                       one point has nothing to choose, and is not trained for it
  heldout/             the chosen points, with further seeds, on the prompts of the configs' section evaluate
  compare.json, README.md, methods.png, curve.png   the result, or where `out` says

Whatever is complete is not made again: one more method, or a comparison that was killed, costs what is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipelines import evaluate
from pipelines.compare_agreement import check_agreement, check_disjoint, outsiders
from pipelines.compare_drift import measure_drift
from pipelines.compare_ground import check_earlier, own_ground, shared_ground
from pipelines.compare_jobs import Job, Point, Road, digest_of, link_stages, make_job, points_for, train_jobs
from pipelines.compare_result import Contest, Evaluation, judge
from pipelines.config import Config, Section, load_config, read_override, read_section, settings_of
from pipelines.json_file import read_json
from pipelines.progress import Progress
from pipelines.prompts import Prompts, load_prompts
from pipelines.report import read_report
from pipelines.run_folder import full_disk, full_disk_is_clear, lock_run
from pipelines.stage import stage_path
from pipelines.train import weights_path

EACH = "each"  # the first part of the key of a word that makes variants
Factor = Annotated[float, Field(gt=0)]
Factors = Annotated[tuple[Factor, ...], Field(min_length=1)]


class Compare(Section):
    """Settings of a comparison."""

    run: Path = Path("runs/compare")
    seeds: int = Field(default=3, ge=1)  # trainings of each method that are judged; the grid was trained with another seed
    betas: Factors = (0.3, 1.0, 3.0)  # times each config's own β
    learning_rates: Factors = (0.5, 1.0, 2.0)  # times each config's own
    grid: Annotated[tuple[tuple[Factor, Factor], ...], Field(min_length=1)] | None = None  # [β, rate] each; default: all products
    validation: Prompts | None = None  # default: of the world that evaluate draws from, the split "validation"
    validation_count: int = Field(default=200, ge=1)  # of the default's prompts
    select: str | None = None  # the score that chooses the points; default: the continuous REWARD.score of the reward trained on
    own_data: bool = False  # configs may differ in generate: how its samples are made is a part of the method
    against: str = "diffusion_dpo"  # the method that the others are compared with, where it is one of them
    curve: int = Field(default=0, ge=0)  # seeds whose checkpoints are kept and evaluated too, for the steps to base + target
    target: float = Field(default=0.05, gt=0)  # of the first headline score: overall, where the reward has one
    workers: int = Field(default=1, ge=1)  # trainings at a time
    retry: bool = False  # train again what failed
    earlier: Path | None = None  # the compare.json of another comparison, whose other methods join the table
    out: Path | None = None  # the page, its pictures and compare.json beside it; default: RUN/README.md

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        return self.grid if self.grid is not None else tuple(product(self.betas, self.learning_rates))


def run(roads: Sequence[Road], settings: Compare, *, progress: Progress) -> dict[str, Any]:
    """Makes what is missing of a comparison; its result, as compare.json holds it (pipelines/compare_result.py).

    ValueError: configs that disagree, validation prompts among the held-out ones, not one method whose data can be made or whose
    training succeeds.
    """
    left_out = outsiders(roads)
    entered, roads = roads, [road for road in roads if road.name not in left_out]
    check_agreement(roads, own_data=settings.own_data)
    order = rounds(roads)
    first = roads[0].config
    heldout = roads[0].evaluate.prompts
    prompts = load_prompts(heldout, first.seed)
    validation = validation_prompts(settings, roads[0]) if len(settings.points) > 1 else None
    if validation is not None:
        check_disjoint(load_prompts(validation, first.seed), prompts)
    trained_on = tuple(dict.fromkeys(name for road in roads for name in evaluate.trained_on_of(road.config, road.evaluate)))
    with full_disk_is_clear(settings.run), lock_run(settings.run):
        if first.generate is not None:
            _make(first, settings.run / "data", ("generate", "score"), progress)
        prepared, unprepared = prepare(settings.run, roads, progress)

        def job_of(road: Road, point: Point, seed: int) -> Job:
            return make_job(settings.run, taught(road, seed, roads, found), prepared[road.name], point, seed)

        def judged(name: str, prompts: Prompts, models: Mapping[str, Path]) -> Path:
            return judge_models(roads[0], settings.run / name, prompts, models, trained_on, progress)

        found = {
            road.name: Contest(road.name, road.variant, road.train.objective["name"], (), {}, None, (), left_out[road.name])
            for road in entered
            if road.name in left_out
        }
        tried: list[Job] = []
        final: list[Job] = []
        for due in order:
            for road in due:
                teacher = teacher_of(road, roads)
                if teacher is not None and teacher.name in unprepared:
                    unprepared[road.name] = f"its teacher {teacher.name} is left out: {unprepared[teacher.name]}"
            ready = [road for road in due if road.name not in unprepared]
            points = {road.name: points_for(road.train.objective, settings.points) for road in ready}
            grids: dict[str, list[Job]] = {}
            means: dict[str, float] = {}
            if validation is not None:
                grids = {road.name: [job_of(road, point, road.seed) for point in points[road.name]] for road in ready}
                new = [job for grid in grids.values() for job in grid]
                tried += new
                train_jobs(new, workers=settings.workers, retry=settings.retry, progress=progress)
                report = read_report(judged("validation", validation, weights_of(tried)))
                _, select = headline_of(settings.select, trained_on, report)
                means = {name: model["scores"][select]["aligned"] for name, model in report["models"].items() if select in model["scores"]}
            for road in due:
                grid = grids.get(road.name, [])
                chosen = choose(grid, means)
                only = points[road.name][0] if road.name in points and not grids else None
                point = chosen.point if chosen is not None else only
                seeds = range(road.seed + 1, road.seed + 1 + settings.seeds)
                seeded = [job_of(road, point, seed) for seed in seeds] if point is not None else []
                objective, chosen = road.train.objective["name"], chosen or next(iter(seeded), None)
                found[road.name] = Contest(road.name, road.variant, objective, grid, means, chosen, seeded, unprepared.get(road.name))
            new = [job for road in due for job in found[road.name].final]
            final += new
            curves = [job.name for road in due for job in found[road.name].final[: settings.curve]]
            train_jobs(new, workers=settings.workers, retry=settings.retry, progress=progress, keep=curves)
        measure_drift([job for job in final if job.is_done], prepared.get(settings.against, next(iter(prepared.values()))), progress)
        contests = [found[road.name] for road in entered]
        models = weights_of(final)
        if settings.curve:
            models |= {name: path for contest in contests for named in contest.checkpoints.values() for name, path in named.items()}
        folder = judged("heldout", heldout, models)
        overall, select = headline_of(settings.select, trained_on, read_report(folder))
        scored = Evaluation(folder, prompts, roads[0].evaluate.samples_per_prompt, trained_on, first.seed)
        result = judge(
            contests,
            scored,
            scores=tuple(dict.fromkeys((overall, select))),
            select=select,
            against=settings.against,
            target=settings.target,
            own_data=settings.own_data,
        )
    for road in roads:
        result["methods"][road.name]["ground"] = own_ground(road, settings.points, validation, settings.seeds)
    return result | {"ground": shared_ground(roads[0], own_data=settings.own_data)}


def check_joins(earlier: Mapping[str, Any], roads: Sequence[Road], settings: Compare) -> None:
    """ValueError, before anything is trained, where `join` would refuse what this comparison makes, by what can be told by now."""
    names = {road.name for road in roads}
    has_rival = any(name in names for road in roads for name in (settings.against, settings.against + road.variant))
    if earlier.get("against") == settings.against and not has_rival:
        raise ValueError(
            f"the methods of the earlier comparison are compared with {settings.against!r}, which is not among these: name its config too, "
            "so that they and these stand beside the same trainings"
        )
    facts = {"against": settings.against if has_rival else None, "target": settings.target, "own_data": settings.own_data}
    check_earlier(earlier, shared_ground(roads[0], own_data=settings.own_data), facts)


def read_words(words: Sequence[str]) -> tuple[list[Road], Compare]:
    """The configs among the words of a command, with the overrides that are theirs, and the settings of the comparison."""
    files = [word for word in words if "=" not in word]
    first_parts = {word: read_override(word)[0][0] for word in words if "=" in word}
    overrides = {word: part for word, part in first_parts.items() if part != EACH}
    ours = [word for word, key in overrides.items() if key in Compare.model_fields or key not in Config.model_fields]
    variants = variants_of([word for word in first_parts if word not in overrides])
    settings = read_section(Compare, ours)
    if not files:
        raise ValueError("nothing to compare; give config files, for example: diffalign compare configs/methods/*.yaml")
    names = [Path(file).stem for file in files]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{names.count(twice[0])} configs are called {twice[0]!r}, and a method is called as its file; rename one")
    shared = [word for word in overrides if word not in ours]
    return [read_road(file, [*shared, *words], name) for file in files for name, words in variants.items()], settings


def variants_of(words: Sequence[str]) -> dict[str, list[str]]:
    """`each.KEY=[…]`: every config once for each value, and with several keys for each of their products. Name → overrides.

    A name is -KEY=VALUE without the sections, as -flip_share=0.1; the only one is empty where there are no such words.
    """
    choices = []
    for word in words:
        (_, *key), values = read_override(word)
        if not key or not isinstance(values, list) or not values:
            raise ValueError(f"cannot read {word!r}; give a key and a list of its values, as {EACH}.train.learning_rate=[5e-5,1e-4]")
        choices.append([(f"-{key[-1]}={_brief(value)}", f"{'.'.join(key)}={json.dumps(value)}") for value in values])
    found = {"".join(name for name, _ in choice): [override for _, override in choice] for choice in product(*choices)}
    if len(found) < prod(map(len, choices)):
        raise ValueError(f"two values have one name in {list(words)}: {', '.join(found)}; give each of them once")
    return found


def _brief(value: Any) -> str:
    """A value as part of a folder's name: what is not plain becomes an underscore."""
    if isinstance(value, dict):
        return ",".join(f"{_brief(each)}" if key == "name" else f"{key}={_brief(each)}" for key, each in value.items())
    return ",".join(map(_brief, value)) if isinstance(value, list) else re.sub(r"[^\w.+-]", "_", str(value))


def read_road(file: str, overrides: Sequence[str], variant: str = "") -> Road:
    """A config with the stages that a comparison needs; ValueError names the one that it lacks."""
    config = load_config(file, overrides)
    pair, encode, train, evaluate = config.pair, config.encode, config.train, config.evaluate
    if pair is None or encode is None or train is None or evaluate is None:
        lacking = ", ".join(stage for stage in ("pair", "encode", "train", "evaluate") if getattr(config, stage) is None)
        raise ValueError(f"{file} has no section {lacking}; a method is compared by its whole road: pair, encode, train and evaluate")
    return Road(Path(file).stem + variant, variant, config, pair, train, evaluate)


def validation_prompts(settings: Compare, road: Road) -> Prompts:
    """The prompts that choose the points; ValueError where nobody named them and no world has a split for it."""
    if settings.validation is not None:
        return settings.validation
    heldout = road.evaluate.prompts
    if heldout.world is None:
        raise ValueError(
            "evaluate.prompts is of no world, which would have a split for validation; name other prompts: validation.file=..."
        )
    return heldout.model_copy(update={"split": "validation", "count": settings.validation_count})


def prepare(run: Path, roads: Sequence[Road], progress: Progress) -> tuple[dict[str, Path], dict[str, str]]:
    """Method → the run folder with its preferences and latents, made where they are missing, and method → why that failed.

    ValueError where it failed for all.
    """
    prepared: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for road in roads:
        try:
            prepared[road.name] = _pairs_of(run, road, roads[0], progress)
        except Exception as error:  # whatever is wrong with the data of one method, the others go on; a full disk stops all
            if full_disk(error) is not None:
                raise
            failures[road.name] = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            progress.say(f"compare: {road.name} is left out: {failures[road.name]}", style="yellow")
    if not prepared:
        name, sentence = next(iter(failures.items()))
        raise ValueError(f"of none of {len(roads)} methods could the pairs and latents be made; the first, {name}: {sentence}")
    return prepared, failures


def _pairs_of(run: Path, road: Road, first: Road, progress: Progress) -> Path:
    """The run folder of a config's section pair; the candidates and scores lie in RUN/data, where they are not imported."""
    folder = run / "pairs" / f"{road.pair.rule}-{digest_of(settings_of(road.pair))}"
    generate = road.config.generate
    if generate is None:  # the candidates are imported, and that is a part of pair
        _make(road.config, folder, ("score", "pair", "encode"), progress)
        return folder
    data = run / "data"
    if generate != first.config.generate:
        own = f"-{digest_of(settings_of(generate))}"
        data, folder = data.with_name(data.name + own), folder.with_name(folder.name + own)
        _make(road.config, data, ("generate", "score"), progress)
    link_stages(data, folder, ("generate", "score"))
    _make(road.config, folder, ("pair", "encode"), progress)
    return folder


def _make(config: Config, run: Path, stages: Sequence[str], progress: Progress) -> None:
    config = config.model_copy(update={"run": run})
    for stage in stages:
        if getattr(config, stage) is not None:
            import_module(f"pipelines.{stage}").run(config, redo=False, progress=progress)


def teacher_of(road: Road, roads: Iterable[Road]) -> Road | None:
    """The road whose own run leaves the weights that another one names as its teacher, or None."""
    return next((other for other in roads if road.train.teacher == weights_path(other.config)), None)


def rounds(roads: Sequence[Road]) -> list[list[Road]]:
    """The roads in rounds, a method after the one that teaches it; ValueError where some wait for each other, or one for itself."""
    made: list[list[Road]] = []
    left = list(roads)
    while left:
        due = [road for road in left if teacher_of(road, left) is None]
        if not due:
            raise ValueError(f"{', '.join(road.name for road in left)} have each other as teachers; change train.teacher of one of them")
        made.append(due)
        left = [road for road in left if teacher_of(road, left) is not None]
    return made


def taught(road: Road, seed: int, roads: Sequence[Road], found: Mapping[str, Contest]) -> Road:
    """The road with the teacher of this comparison, where that is one of its methods: its chosen training of the same seed.

    Where the teacher's trainings failed there are no weights, and so the pupil's fails with that sentence.
    """
    teacher = teacher_of(road, roads)
    if teacher is None:
        return road
    contest = found[teacher.name]
    trained = (each for each in (contest.chosen, *contest.final, *contest.grid) if each is not None and each.seed == seed)
    job = next(trained, None)
    if job is None:
        raise ValueError(f"{road.name} has the seed {seed}, and its teacher {teacher.name} was not trained with it; make train.seed equal")
    return replace(road, train=road.train.model_copy(update={"teacher": job.weights}))


def judge_models(
    road: Road, run: Path, prompts: Prompts, models: Mapping[str, Path], trained_on: Sequence[str], progress: Progress
) -> Path:
    """Evaluates the models beside those that the run folder has already; returns the stage's folder."""
    config = road.config.model_copy(update={"run": run, "pair": None, "train": None})
    record = stage_path(config, "evaluate") / "stage.json"
    before = read_json(record, "move the folder away")["settings"]["models"] if record.is_file() else {}
    named = {name: path for name, path in before.items() if Path(path).is_dir()} | {
        name: str(path.resolve()) for name, path in models.items()
    }
    section = road.evaluate.model_copy(update={"prompts": prompts, "models": named, "trained_on": tuple(trained_on)})
    evaluate.run(config.model_copy(update={"evaluate": section}), progress=progress)
    return stage_path(config, "evaluate")


def weights_of(jobs: Sequence[Job]) -> dict[str, Path]:
    """Name → weights of the jobs that are done; ValueError where none is."""
    if not any(job.is_done for job in jobs):
        raise ValueError(f"not one of {len(jobs)} trainings succeeded; the first, {jobs[0].name}: {jobs[0].failure}")
    return {job.name: job.weights for job in jobs if job.is_done}


def headline_of(wanted: str | None, trained_on: Sequence[str], report: Mapping[str, Any]) -> tuple[str, str]:
    """The headline scores: `overall` of the first reward trained on, and the one that chooses, the wanted one or the continuous `score`.

    What was trained on stands in for either where the reward has no such dimension.
    """
    known = next(iter(report["models"].values()))["scores"]
    first = trained_on[0] if trained_on else wanted
    if first is None:
        raise ValueError(f"evaluate.trained_on is empty, so nothing says what chooses; give select=..., one of: {', '.join(known)}")
    overall, score = (name if name in known else first for name in (f"{first.partition('.')[0]}.{part}" for part in ("overall", "score")))
    select = wanted or score
    if select not in known:
        raise ValueError(f"select {select!r} is not among the evaluated scores; choose one of: {', '.join(known)}")
    return overall, select


def choose(grid: Sequence[Job], means: Mapping[str, float]) -> Job | None:
    """The job with the highest mean, of equals the first; None where none has one."""
    return max((job for job in grid if job.name in means), key=lambda job: means[job.name], default=None)
