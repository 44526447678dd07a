"""evaluate: base against aligned models, same prompts, same seeds.

evaluation/
  NAME/shard-00000.parquet               samples of the model NAME ("base", "aligned", ...), as candidates
  NAME/scores/REWARD/shard-00000.parquet   their scores
  report.json                            means, paired changes with intervals, win-rates, drift, warnings (pipelines/report.py)
  loss.png, accuracy.png, ...            the training curves
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, field_validator, model_validator

from diffalign.model_source import LORA_FILE, PEFT_FILE, holds_lora
from pipelines.config import Config, Model, Section, files_fingerprint, settings_of
from pipelines.evaluate_scores import read_scored, score_samples
from pipelines.frechet import check_fidelity, fidelity, told, warning_of
from pipelines.generate import SampleRequest, candidate_seed, one_or_more_sizes, sample_requests
from pipelines.json_file import read_json
from pipelines.memory import release_memory
from pipelines.model import MediaSize, check_size, load_model, shown_size
from pipelines.progress import Progress
from pipelines.prompts import Prompt, Prompts, check_conditions, load_prompts, refuse_long_prompts
from pipelines.report import GUARDS, Scored, curves, make_report
from pipelines.score import Rewards
from pipelines.stage import StageFolder, open_stage, stage_path, summary_of, write_atomically
from pipelines.unanswered import MOST

if TYPE_CHECKING:
    from diffalign.backbones import Backbone

BASE, ALIGNED = "base", "aligned"
Sizes = tuple[tuple[int, ...], ...]  # sample k of a prompt takes entry k, cycled


class Evaluate(Section):
    """Settings of the stage."""

    prompts: Prompts
    samples_per_prompt: int = Field(default=1, ge=1)
    steps: int = Field(default=20, ge=1)
    guidance: float = Field(default=3.0, ge=0)
    negative_prompt: str = ""
    scheduler: str | None = None  # default: the model's own
    # Of the media; default: the base's own. Of a list sample k of every prompt takes entry k, cycled, and the report has a part for each.
    size: Annotated[tuple[MediaSize, ...], BeforeValidator(one_or_more_sizes)] = ()
    allow_other_size: bool = False  # compare although models, or training media, have another size
    long_prompts: Literal["refuse", "truncate"] = "refuse"
    rewards: Rewards | None = None  # default: those of the section score
    trained_on: tuple[str, ...] | None = None  # scores that the pairs were chosen by; default: pair.by and pair.agreement
    # Name → checkpoint folder, beside the run's own "aligned"; of LoRAs trained onto each other all of them, in order.
    models: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    fidelity: Literal["tones"] | None = Field(default=None, exclude_if=lambda world: world is None)  # see pipelines/frechet.py
    batch_size: int = Field(default=64, ge=1)  # speed and memory only
    max_unanswered: int = Field(default=MOST, ge=0)  # samples of all models that a judge may leave without a score
    prompts_per_shard: int = Field(default=64, ge=1)

    @field_serializer("size")
    def _one_as_it_is(self, value: tuple[Any, ...]) -> Any:
        """One size as one, so that evaluations from before there could be several stay what they are."""
        return list(value) if len(value) > 1 else next(iter(value), None)

    @model_validator(mode="after")
    def _as_many_of_each_size(self) -> Evaluate:
        if len(set(self.size)) < len(self.size):
            raise ValueError(f"evaluate.size has a size twice: {[list(size) for size in self.size]}; give each of them once")
        if len(self.size) > 1 and self.samples_per_prompt % len(self.size):
            raise ValueError(
                f"evaluate.size has {len(self.size)} sizes and samples_per_prompt is {self.samples_per_prompt}: as many of each are "
                f"compared; set samples_per_prompt to a multiple of {len(self.size)}"
            )
        return self

    @field_validator("models", mode="after")
    @classmethod
    def _names_are_folders(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == BASE:
                raise ValueError(f"model name {name!r} becomes a folder beside {BASE!r}; use letters, digits, . _ - and another name")
        return value


def prompts_of(config: Config, section: Evaluate) -> list[Prompt]:
    """The held-out prompts. ValueError or FileNotFoundError, which no sample is needed for, where model or fidelity do not take them."""
    prompts = load_prompts(section.prompts, config.seed)
    check_conditions(config.model, prompts, "evaluate.prompts")
    if section.fidelity is not None:
        check_fidelity(section.fidelity, [prompt.cluster for prompt in prompts], section.size)
    return prompts


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Makes the samples and scores that are missing, then the report. Other rewards or one more model make nothing else again."""
    section = config.evaluate
    if section is None:
        raise ValueError("the config has no section evaluate; add one with prompts, as evaluate: {prompts: {texts: [a red circle]}}")
    prompts = prompts_of(config, section)
    clusters = [prompt.cluster for prompt in prompts]
    rewards, trained_on, models = rewards_of(config, section), trained_on_of(config, section), models_of(config, section)
    settings = {
        **settings_of(section, without=("batch_size", "max_unanswered")),
        "rewards": rewards,
        "trained_on": trained_on,
        "seed": config.seed,
        "prompts_sha256": _digest([prompt.identity for prompt in prompts]),
        "clusters_sha256": _digest(clusters),
        "model": {"weights": config.model.fingerprint(), "dtype": config.model.dtype},
        "checkpoints": {name: _fingerprint(paths) for name, paths in models.items() if name in section.models},
    }
    inputs = ("train",) if config.train is not None else ()
    with open_stage(config, "evaluate", settings=settings, inputs=inputs, outdated=outdated, redo=redo) as stage:
        if stage.is_complete:
            progress.say(f"evaluate: complete, report in {stage.path / 'report.json'}; nothing to do")
            return
        stage.record["revisions"] = {
            name: revision for name, revision in stage.record.get("revisions", {}).items() if any(stage.path.glob(f"*/scores/{name}/*"))
        }
        sizes: Sizes = ()
        for name, checkpoints in {BASE: (), **models}.items():
            sizes = _sample(config, section, stage, prompts, name, checkpoints, sizes, progress)
            release_memory()
        score_samples(section, stage, (BASE, *models), rewards, progress)
        report = report_of(config, section, stage.path, prompts, list(models), trained_on, sizes)
        if section.fidelity is not None:
            texts = [prompt.text for prompt in prompts]
            report["fidelity"] = fidelity(stage.path, section.fidelity, [BASE, *models], texts, clusters, config.seed)
            few = warning_of(report["fidelity"])
            for name in models:
                progress.say(f"evaluate: {name}: " + told(report["fidelity"], name))
                report["models"][name]["warnings"] += [few] if few else []
        write_atomically(stage.path / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
        metrics = stage_path(config, "train") / "metrics.jsonl"
        if config.train is not None and metrics.is_file():
            curves(metrics, stage.path)
        summary = {name: {score: change["change"] for score, change in model["scores"].items()} for name, model in report["models"].items()}
        stage.finish({"prompts": len(prompts), "changes": summary})
    for name, model in report["models"].items():
        for sentence in model["warnings"]:
            progress.say(f"evaluate: {name}: {sentence}", style="yellow")


def outdated(key: str, before: Any, now: Any) -> list[str] | None:
    """What a changed setting makes worthless (stage.Outdated): the scores of each reward that changed, the samples of a model that is new
    or gone. Everything else determines all samples."""
    if key in ("trained_on", "clusters_sha256", "fidelity"):
        return []  # the report alone
    if key not in ("rewards", "models", "checkpoints"):
        return None
    before, now = before or {}, now or {}
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if key == "rewards":
        return [f"*/scores/{name}" for name in changed]
    return None if any(name in before and name in now for name in changed) else changed


def rewards_of(config: Config, section: Evaluate) -> dict[str, dict[str, Any]]:
    """The rewards to evaluate with: the section's, else those of score, and always the guards against a drift in looks."""
    from diffalign.backbones import family_of

    chosen = section.rewards if section.rewards is not None else config.score.rewards if config.score is not None else {}
    return {**chosen, **{guard: {} for guard in GUARDS[family_of(config.model.backbone).modality] if guard not in chosen}}


def trained_on_of(config: Config, section: Evaluate) -> list[str]:
    """Names "reward.dimension" of the scores that the pairs were chosen by."""
    if section.trained_on is not None:
        return list(section.trained_on)
    return list(config.pair.scores) if config.pair is not None else []


def models_of(config: Config, section: Evaluate) -> dict[str, tuple[Path, ...]]:
    """Name → checkpoint folders of what is compared against the base: this run's own training first."""
    own = {ALIGNED: (stage_path(config, "train") / "final",)} if config.train is not None and ALIGNED not in section.models else {}
    given = {name: (path,) if isinstance(path, str) else path for name, path in section.models.items()}
    models = own | {name: tuple(Path(path).expanduser() for path in paths) for name, paths in given.items()}
    if not models:
        raise ValueError("nothing to compare with the base: the config has no section train, and evaluate.models names no checkpoint")
    for name, path in ((name, path) for name, paths in models.items() for path in paths):
        if name in section.models and not path.is_dir():
            raise FileNotFoundError(f"evaluate.models.{name} is {str(path)!r}, which is no folder; give a LoRA, unet/ or pipeline folder")
    return models


def load_aligned(config: Config, checkpoints: Sequence[Path], base_identity: str, **loading: Any) -> Backbone:
    """The model of a checkpoint folder: a LoRA on the config's model, a denoiser in its place, or a whole diffusers pipeline.

    checkpoints  one; of LoRAs trained onto each other all of them, in order; loading  as `load_backbone` takes it
    ValueError where a checkpoint names another base than the config's, FileNotFoundError where a folder holds none of the three.
    """
    from diffalign.backbones import family_of

    first, *_ = checkpoints
    record = first / "reference.json"
    if record.is_file():
        reference = read_json(record, "put it back, or train again with `diffalign train CONFIG --redo`")
        known = [reference.get("base"), *(reference.get("ancestors") or () if reference.get("kind") == "full" else ())]
        if known[0] is not None and base_identity not in known:
            raise ValueError(
                f"{first} was trained from {reference.get('source')!r} (weights {reference['base']}), "
                f"the config's model is {config.model.source!r} (weights {base_identity}); set model.source to the former"
            )
    if all(map(holds_lora, checkpoints)):
        return load_model(config.model, adapter=(*config.model.adapters, *map(str, checkpoints)), **loading)
    if len(checkpoints) > 1:
        raise ValueError(f"{', '.join(map(str, checkpoints))} are several checkpoints and not all LoRAs: give the last one alone")
    if (first / "model_index.json").is_file():
        return load_model(config.model.other(str(first)), **loading)
    own = family_of(config.model.backbone).denoiser
    for part in (own, f"{own}_2"):  # or the second of two
        if (first / part).is_dir():
            return load_model(config.model, adapter=None, denoiser=str(first / part), **loading)
    raise FileNotFoundError(f"{first} holds none of {LORA_FILE}, {PEFT_FILE}, {own}/ or model_index.json; is training complete?")


def ancestors_of(model: Model) -> list[str]:
    """The identities of what the model's own beginnings were trained from, the first one first."""
    found: list[str] = []
    for folder in (model.denoiser, *model.adapters):
        record = Path(folder).expanduser() / "reference.json" if folder else None
        if record is not None and record.is_file():
            reference = read_json(record, "put it back, or remove the folder from model")
            found += [each for each in (*(reference.get("ancestors") or ()), reference.get("base")) if each and each not in found]
    return found


def _digest(texts: list[str]) -> str:
    return sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()


def _fingerprint(checkpoints: tuple[Path, ...]) -> str:
    return " + ".join(files_fingerprint(checkpoint) for checkpoint in checkpoints)


def requests_of(prompts: Sequence[Prompt], section: Evaluate, seed: int, sizes: Sizes, name: str) -> list[SampleRequest]:
    """One request per prompt and seed, in the sizes in turn; its seed is a function of (run's seed, prompt, k), and not generate's."""
    return [
        SampleRequest(
            candidate_id=f"{prompt.group_id}-{k:02d}-{name}",
            group_id=prompt.group_id,
            prompt=prompt.text,
            seed=candidate_seed(seed, f"evaluate\0{prompt.group_id}", k),
            steps=section.steps,
            guidance=section.guidance,
            negative_prompt=section.negative_prompt,
            size=sizes[k % len(sizes)],
            scheduler=section.scheduler,
            tags=prompt.tags,
            condition=prompt.condition,
        )
        for prompt in prompts
        for k in range(section.samples_per_prompt)
    ]


def _sample(config: Config, section: Evaluate, stage: StageFolder, prompts: Sequence[Prompt], name: str, checkpoints: tuple[Path, ...],
            sizes: Sizes, progress: Progress) -> Sizes:  # fmt: skip
    """Writes the shards of a model's samples that are missing; returns the sizes that all models share."""
    from diffalign.data.modalities import media_class
    from diffalign.data.records import modality_of_candidates, write_candidates
    from diffalign.data.shards import read_rows

    folder, per_shard = stage.path / name, section.prompts_per_shard
    blocks = [prompts[start : start + per_shard] for start in range(0, len(prompts), per_shard)]
    paths = [folder / f"shard-{index:05d}.parquet" for index in range(len(blocks))]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    total = len(prompts) * section.samples_per_prompt
    if not missing:
        media = media_class(modality_of_candidates(folder))
        return section.size or (media.shape_of(next(read_rows(folder, list(media.COLUMNS))), None),)
    backbone = load_aligned(config, checkpoints, _base_identity(config, stage)) if checkpoints else load_model(config.model)
    if not checkpoints:
        stage.record["base_identity"] = backbone.identity()
        stage.save_record()
        if section.long_prompts == "refuse":
            refuse_long_prompts([prompt.text for prompt in prompts], backbone)
    sizes = _agreed_sizes(config, section, backbone, name, sizes)
    done = total - sum(len(blocks[index]) for index in missing) * section.samples_per_prompt
    with progress.bar(f"sample {name}", total, done=done) as advance:
        for index in missing:
            requests = requests_of(blocks[index], section, config.seed, sizes, name)
            candidates = sample_requests(backbone, requests, batch_size=section.batch_size, model=name, advance=advance)
            write_candidates(paths[index], candidates)
    return sizes


def _base_identity(config: Config, stage: StageFolder) -> str:
    """The base's identity; a resumed stage that has the base's samples loads it for this alone."""
    if "base_identity" not in stage.record:
        stage.record["base_identity"] = load_model(config.model).identity()
    return stage.record["base_identity"]


def _agreed_sizes(config: Config, section: Evaluate, backbone: Backbone, name: str, sizes: Sizes) -> Sizes:
    """The sizes to sample at; ValueError where the base, the models or the training media differ and nobody allowed it (pain 18)."""
    own = tuple(map(int, backbone.size))
    for size in section.size:
        check_size(backbone, size, "evaluate.size")
    wanted = sizes or section.size or (own,)
    if section.allow_other_size:
        return wanted
    fix = "set evaluate.size to the size trained at, or evaluate.allow_other_size=true to compare all the same"
    if not section.size and own != wanted[0]:
        raise ValueError(f"model {name!r} makes {shown_size(own)}, the base {shown_size(wanted[0])}: nothing to compare; {fix}")
    trained = _trained_sizes(config) if name == ALIGNED else set()
    for size in wanted:
        if trained and size not in trained:
            known = ", ".join(map(shown_size, sorted(trained)))
            raise ValueError(f"evaluation at {shown_size(size)} of a model trained on {known}: an unfair comparison; {fix}")
    return wanted


def _trained_sizes(config: Config) -> set[tuple[int, ...]]:
    """The sizes of the media in the latent cache; empty where the run has none."""
    return {tuple(map(int, size)) for size in summary_of(config, "encode").get("sizes", [])}


def report_of(config: Config, section: Evaluate, folder: Path, prompts: Sequence[Prompt], models: Sequence[str], trained_on: Sequence[str],
              sizes: Sizes) -> dict[str, Any]:  # fmt: skip
    """report.json from the samples and scores on disk."""
    scored = {name: Scored(name, read_scored(folder, name, prompts, section.samples_per_prompt)) for name in (BASE, *models)}
    unknown = [name for name in trained_on if name not in scored[BASE].scores]
    settings = {
        "steps": section.steps,
        "guidance": section.guidance,
        "negative_prompt": section.negative_prompt,
        "scheduler": section.scheduler or "the model's own",
        "size": [list(size) for size in sizes] if len(sizes) > 1 else list(next(iter(sizes), ())),
        "seed": config.seed,
        "model": config.model.source,
    }
    texts, clusters = [prompt.text for prompt in prompts], [prompt.cluster for prompt in prompts]
    report = make_report(
        scored[BASE], [scored[name] for name in models], prompts=texts, clusters=clusters, tags=[prompt.tags for prompt in prompts],
        trained_on=trained_on, settings=settings, seed=config.seed,
    )  # fmt: skip
    for place, size in enumerate(sizes if len(sizes) > 1 else ()):
        own, *others = (Scored(n, {key: each[:, place :: len(sizes)] for key, each in scored[n].scores.items()}) for n in (BASE, *models))
        part = make_report(own, others, prompts=texts, clusters=clusters, trained_on=trained_on, seed=config.seed)
        for name in models:
            of_size = {"prompts": len(prompts), "scores": part["models"][name]["scores"]}
            report["models"][name]["tags"].setdefault("size", {})[shown_size(size)] = of_size
    for model in report["models"].values():
        model["warnings"] += [f"{name}, which the pairs were made by, is not among the evaluated rewards." for name in unknown]
    return report
