"""train: preference rows and cached latents → an aligned model, by any objective of the table."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from diffalign.training.lora import Lora
from diffalign.training.own_samples import OwnSamples
from diffalign.training.reference import ReferenceSettings
from diffalign.training.settings import FREE, RECORDED, Settings
from pipelines.config import Config, Section, files_fingerprint, source_fingerprint
from pipelines.json_file import read_json
from pipelines.progress import Progress
from pipelines.stage import RECORD, StageFolder, open_stage, require_stage, stage_path
from pipelines.train_reference import check_errors_ahead, check_reference


class MaskSettings(Section):
    """See `diffalign.training.masks.Mask`."""

    kind: Literal["activation", "learned"] = "activation"
    offset: float = Field(default=0.0, description="weight of an average position, in standard deviations; higher is less sparse")
    scale: float = Field(default=0.1, gt=0, description="of a learned mask's steps against the policy's")


class Train(Settings):
    """The training stage: an objective and what it acts on, beside the optimisation settings of `diffalign.training.settings`."""

    objective: dict[str, Any] = Field(
        default={"name": "diffusion_dpo"}, description="a name of `diffalign methods`, or a mapping with its arguments"
    )
    noising: dict[str, Any] = Field(default={"name": "shared"}, description="a name of NOISINGS, or a mapping with its arguments")
    stabilisers: dict[str, dict[str, Any]] = Field(default={}, description="names of STABILISERS with their arguments, in any order")
    scores: tuple[str, ...] = Field(
        default=(), description="reward.dimension of each score the objective reads, of this run; none: what the rows were ranked by"
    )
    standardise_scores: bool = Field(default=False, description="each score less its mean over all samples, over its deviation")
    reference: ReferenceSettings = Field(
        default=ReferenceSettings(),
        exclude_if=lambda reference: reference == ReferenceSettings(),
        description="what drift is measured from: initial, on_policy, previous_stage, {name: ema, decay: …}, {name: adapter, adapter: …}",
    )
    teacher: Path | None = Field(
        default=None, description="a checkpoint further on than the base (RUN/train/final of an earlier run), for objectives that read one"
    )
    teacher_draws: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda draws: draws == 1,
        description="of timestep and noise, over which a teacher's map of a sample is a mean, made once and kept; 1: those of the step",
    )
    mask: MaskSettings | None = Field(default=None, description="weights of positions, for objectives that read them")
    own_samples: OwnSamples | None = Field(
        default=None,
        exclude_if=lambda own: own is None,
        description="what the policy samples for its training; None: the defaults where the objective reads own samples",
    )
    sft_steps: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda steps: not steps,
        description="of the steps, the first ones, on the error of the preferred samples alone, as Tango 2 does; a frozen reference stays",
    )
    lora: Lora | None = Field(default=None, description="train an adapter, the base under it being the initial reference; None: all of it")
    reference_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the frozen copy in full fine-tuning"
    )
    reference_device: Literal["same", "cpu"] = Field(default="same", description="of a frozen copy between uses; cpu: in main memory")
    reference_cache: Path | None = Field(
        default=None, description="folder that keeps what the frozen reference predicts, for other runs on the same rows with the same seed"
    )
    reference_errors: Literal["live", "ahead"] = Field(
        default="live",
        exclude_if=lambda errors: errors == "live",
        description="live: made step by step; ahead: of full fine-tuning, all before the first step, so that no frozen copy is in memory",
    )
    samples_per_forward: int | None = Field(
        default=None,
        ge=1,
        description="of a micro-batch, whose groups have several: at most so many run at once, and run again for the gradient; None: all",
    )
    draws: int = Field(
        default=1,
        ge=1,
        exclude_if=lambda draws: draws == 1,
        description="of timestep and noise for each group of a batch in one step, each a row of the forward; 39 in Flow-DPO's release",
    )
    prompt_dropout: float = Field(default=0.0, ge=0, le=1, description="share of groups trained with the empty prompt")
    flip: float = Field(default=0.0, ge=0, le=1, description="share of groups mirrored as a whole; needs encode.flip")
    seed: int | None = Field(default=None, ge=0, description="of order, noise, timesteps and LoRA; None: the run's seed")  # type: ignore[assignment]  # resolved before it is used
    timesteps: tuple[float, float] = Field(default=(0.0, 1.0), description="range of the scheduler's timesteps to train on, in [0, 1]")

    @field_validator("objective", "noising", "reference", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Train:
        from diffalign.noising import load_noising
        from diffalign.objectives import OBJECTIVES, build_objective, defaults
        from diffalign.stabilisers import build_stabilisers, check_rows

        if "name" not in self.objective:
            raise ValueError(f"objective {self.objective!r} has no name; write {{name: diffusion_dpo, beta: 2000}}")
        build_objective(**self.objective)
        # Defaults too: the file a run keeps says every number it trained with, whatever they become later.
        name = self.objective["name"]
        object.__setattr__(self, "objective", {"name": name, **defaults(name), **self.objective})
        if self.lora is None and self.reference_dtype != "float32" and self.precision == "fp32":
            raise ValueError(
                f"reference_dtype {self.reference_dtype!r} with precision 'fp32': a half-precision copy cannot take float32 inputs; "
                f"set precision to bf16 or fp16, or reference_dtype to float32"
            )
        if self.reference_device == "cpu" and self.teacher is None and (self.lora is not None or self.reference.name != "initial"):
            raise ValueError("reference_device 'cpu' is of a frozen copy, and LoRA or a reference that moves has none; remove it")
        if self.reference.name != "initial":
            check_reference(self, OBJECTIVES[name])
        for field, example in GIVEN.items():
            if field in OBJECTIVES[name].reads and getattr(self, field) is None:
                raise ValueError(f"objective {name!r} reads a {field}; add one, for example train: {{{field}: {example}}}")
            if field not in OBJECTIVES[name].reads and getattr(self, field) is not None:
                raise ValueError(f"objective {name!r} reads no {field}; remove train.{field}, or choose an objective that does")
        if self.teacher_draws > 1 and (self.teacher is None or self.reference.name not in ("initial", "adapter")):
            raise ValueError(
                f"teacher_draws {self.teacher_draws} remember how far a teacher is from a frozen reference; teacher is "
                f"{str(self.teacher)!r}, reference {self.reference.name!r}: remove teacher_draws, or set train.teacher and "
                f"reference: initial"
            )
        load_noising(**self.noising)
        build_stabilisers(self.stabilisers)
        check_rows(self.stabilisers, name, "pairs" if OBJECTIVES[name].is_pairwise else OBJECTIVES[name].rows)
        if OBJECTIVES[name].rows == "segments" and not self.stabilisers.get("kl_correction", {"through_winner": True}).get(
            "through_winner"
        ):
            raise ValueError(
                f"stabiliser 'kl_correction' of objective {name!r} needs through_winner: true (TDPO-1): of a clip that is judged by spans "
                f"either may be the winner"
            )
        if "kl_correction" in self.stabilisers and OBJECTIVES[name].reference is None:
            raise ValueError(f"stabiliser 'kl_correction' acts on the drift, and objective {name!r} has no reference; remove one of them")
        low, high = self.timesteps
        if not 0 <= low < high <= 1:
            raise ValueError(f"timesteps {list(self.timesteps)} is no range in [0, 1]; write [low, high] with low < high")
        self._check_own_samples(name, OBJECTIVES[name].own_samples)
        if self.reference_errors == "ahead":
            check_errors_ahead(self, OBJECTIVES[name])
        if self.sft_steps and OBJECTIVES[name].rows not in RANKED:
            raise ValueError(
                f"sft_steps train on the preferred sample of a group, and objective {name!r} has {OBJECTIVES[name].rows}; "
                f"remove train.sft_steps"
            )
        if self.sft_steps >= self.steps:
            raise ValueError(f"sft_steps {self.sft_steps} of {self.steps} steps leave none for {name!r}; give fewer, or objective: sft")
        return self

    @property
    def ranks_by_scores(self) -> bool:
        """Whether the objective's judgement is `scores`, whatever the order of the samples."""
        from diffalign.objectives import OBJECTIVES

        needs = OBJECTIVES[self.objective["name"]]
        return bool(self.scores) and (needs.rows == "lists" or "scores or win_probability" in needs.reads)

    def facts(self) -> dict[str, Any]:
        """What determines the weights, as JSON: also how a batch is split, where groups of one forward meet."""
        from diffalign.objectives import OBJECTIVES

        meets = OBJECTIVES[self.objective["name"]].whole_batch or self.stabilisers.get("winner_safeguard", {}).get("scope") == "batch"
        split = {"micro_batch_size"} if meets and self.micro_batch_size is not None else set()
        return self.model_dump(mode="json", exclude=FREE - RECORDED - split)

    def _check_own_samples(self, name: str, reads: bool) -> None:
        """Own samples, their noising and an objective that reads them go together; every path has a point in the range of timesteps."""
        is_trajectory = self.noising["name"] == "trajectory"
        for key, is_given in (("noising: trajectory", is_trajectory), ("own_samples", self.own_samples is not None)):
            if is_given and not reads:
                raise ValueError(f"objective {name!r} reads no own samples; remove train.{key}, or choose an objective that does: dro")
        if not reads:
            return
        if self.draws > 1:
            raise ValueError(
                f"draws {self.draws} of each group, and objective {name!r} draws its groups with its own samples; "
                f"remove train.draws, and raise batch_size for more rows in a step"
            )
        if not is_trajectory:
            raise ValueError(
                f"objective {name!r} reads own samples, noising {self.noising['name']!r} has none; set train.noising: trajectory"
            )
        own, (low, high) = self.own_samples or OwnSamples(), self.timesteps
        object.__setattr__(self, "own_samples", own)
        least = ceil(round(1 / (high - low), 6))  # rounded: 0.5 − 0.4 is a little under a tenth
        if own.steps < least:
            raise ValueError(
                f"own_samples.steps {own.steps}: of a path in so few, some have no point in train.timesteps {[low, high]}; "
                f"set own_samples.steps to {least} or more"
            )


RANKED = ("pairs", "lists", "segments")  # rows whose index 0 is the preferred sample
GIVEN = {"teacher": "runs/earlier/train/final", "mask": "{kind: activation}"}  # what some objectives read, each a setting

# Checkpoints, speed.jsonl and what a tracker writes are for this run alone.
RESULT = ("final/**/*", "metrics.jsonl")


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Trains, or resumes, into RUN/train; RUN/train/final holds the weights as plain diffusers loads them."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from diffalign.training.loop import PATIENCE
    from pipelines.model import device_of

    section = section_of(config)
    # Before the model: it says which GPU is this process's. It opens the process group, so it knows how long one waits there.
    is_main = PartialState(cpu=device_of(config.model) == "cpu", timeout=PATIENCE).is_main_process
    progress = progress if is_main else Progress(silent=True)
    settings = {"train": section.facts() | ({} if redo else _recorded(config)), "model": config.model.fingerprint()}
    if section.teacher is not None:
        settings["teacher"] = files_fingerprint(teacher_folder(section.teacher))
    if section.reference.adapter is not None:
        settings["reference"] = source_fingerprint(section.reference.adapter)
    with open_stage(config, "train", settings=settings, inputs=("pair", "encode"), outputs=RESULT, redo=redo, is_main=is_main) as stage:
        # The others wait here until the first process has opened the stage, and do what it found.
        [is_done] = broadcast_object_list([stage.is_complete])
        if is_done:
            progress.say("train: nothing to do, it is complete")
        else:
            _train(config, section, stage, is_main=is_main, progress=progress)
    # Together: a process that ends while another still listens to it takes that one down with it.
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def _recorded(config: Config) -> dict[str, Any]:
    """What the run's record says of the settings of RECORDED, which may have changed since; nothing where there is none."""
    path = stage_path(config, "train") / RECORD
    made = read_json(path, "train again with --redo").get("settings", {}).get("train", {}) if path.exists() else {}
    return {name: made[name] for name in RECORDED if name in made}


def _train(config: Config, section: Train, stage: StageFolder, *, is_main: bool, progress: Progress) -> None:
    from diffalign.training.loop import train
    from diffalign.training.reference_errors import errors_ahead
    from pipelines.train_task import build_task

    task = build_task(config, require_stage(config, "train", "pair"), require_stage(config, "train", "encode"))
    if is_main:
        (stage.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        progress.say(_describe(section, len(task.groups)))
        if said := _warning_of(config, section):
            progress.logger("train").warning(said)
    if section.reference_errors == "ahead":
        made_of = {key: stage.record.get(key) for key in ("settings", "inputs")}
        with progress.bar("reference", section.steps - section.sft_steps) as advance:
            task.known_error = errors_ahead(task, section, stage.path, made_of, advance=advance).of
    with progress.bar("train", section.steps) as advance:
        named = section.model_copy(update={"tracker_run": section.tracker_run or config.run.resolve().name})
        train(task, named, stage.path, advance=advance, logger=progress.logger("train"), config=config.to_values())
    if is_main:
        saved = {} if task.cache is None else {"seconds_saved": round(task.cache.saved, 2)}
        work = _work(stage.path / "speed.jsonl")
        stage.finish({"groups": len(task.groups), **saved, **work, **_last_metrics(stage.path / "metrics.jsonl")})


def teacher_folder(path: Path) -> Path:
    """The folder of train.teacher; FileNotFoundError where there is none, with the command that makes it where it is a method's own."""
    from pipelines.config import load_config
    from pipelines.config_file import bundled_configs

    if path.expanduser().is_dir():
        return path.expanduser()
    fix = "give RUN/train/final of an earlier run"
    method = bundled_configs() / "methods" / f"{path.parent.parent.name}.yaml"
    if method.is_file() and weights_path(load_config(method)) == path:
        fix = f"make it first: diffalign run configs/methods/{method.name}"
    raise FileNotFoundError(f"train.teacher is {str(path)!r}, which is no folder; {fix}")


def weights_path(config: Config) -> Path:
    """Where a config's training leaves its weights."""
    return stage_path(config, "train") / "final"


def section_of(config: Config) -> Train:
    """The section with its seed resolved, and with the layers that its LoRA adapts."""
    from diffalign.backbones import family_of

    section = config.train
    if section is None:
        raise ValueError("the config has no section train; add one, for example train: {steps: 1000}")
    if section.seed is None:
        section = section.model_copy(update={"seed": config.seed})
    if section.lora is None or section.lora.targets is not None:
        return section
    targets = family_of(config.model.backbone).lora_targets
    return section.model_copy(update={"lora": section.lora.model_copy(update={"targets": targets})})


def _describe(section: Train, groups: int) -> str:
    import os

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    micro = section.micro_batch_size or max(1, section.batch_size // ranks)
    beta = section.objective.get("beta")
    return (
        f"train: {section.objective['name']} on {groups} groups; effective batch {section.batch_size} = {micro} × "
        f"{section.batch_size // (micro * ranks)} × {ranks} (per device × accumulation × ranks); lr {section.learning_rate:g}"
        + (f"; {section.draws} draws of each group" if section.draws > 1 else "")
        + (f"; beta {beta:g} on mean-reduced errors" if beta is not None else "")
    )


def _warning_of(config: Config, section: Train) -> str | None:
    """What a reader must know before the first step."""
    from diffalign.objectives import OBJECTIVES

    is_guided = config.generate is not None and config.generate.guided is not None
    if not is_guided or section.noising["name"] != "shared" or OBJECTIVES[section.objective["name"]].rows not in RANKED:
        return None
    return (
        "samples of a group come from one real medium (generate.guided) and get one noise, under which what they share may be unlearnt "
        "(Wu et al. 2025, arXiv:2506.03517, appendix B); set train.noising=independent"
    )


def _last_metrics(path: Path, window: int = 20) -> dict[str, float]:
    import json
    from statistics import fmean

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[-window:]]
    return {
        name: fmean(line[name] for line in lines if name in line)
        for name in ("loss", "rewards/accuracies", "win_adv", "lose_adv")
        if name in lines[-1]
    }


def _work(path: Path) -> dict[str, float]:
    """Passes of samples through the networks in the mean step (diffalign/training/work.py); none where the steps did not count them."""
    from statistics import fmean

    from pipelines.report import read_metrics

    series = read_metrics(path)
    return {f"{name}_per_step": fmean(count for _, count in series[name]) for name in ("forwards", "backwards") if name in series}
