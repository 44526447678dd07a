"""generate: prompts → candidates/. K samples for each prompt, every one reproducible alone from its recorded seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from pipelines.config import Model, Section, settings_of
from pipelines.memory import release_memory
from pipelines.model import MediaSize, check_size, load_model, model_name
from pipelines.progress import Progress
from pipelines.prompts import Prompt, Prompts, check_conditions, load_prompts, refuse_long_prompts
from pipelines.stage import StageFolder, open_stage
from pipelines.strategies import Guided, Perturbed, Real, Source, vary_media
from pipelines.wrong_prompts import wrong_prompts

if TYPE_CHECKING:
    from diffalign.backbones import Backbone
    from diffalign.data.modalities import Media
    from diffalign.data.records import Candidate
    from pipelines.config import Config


def one_or_more(value: Any) -> Any:
    """A single value stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def one_or_more_sizes(value: Any) -> Any:
    """A single size stands for a list of one, and so does null for none."""
    several = isinstance(value, list | tuple) and all(isinstance(size, list | tuple) for size in value)
    return () if value is None else value if several else (value,)


class Generate(Section):
    """Sampling of candidates. `steps`, `guidance`, `size` and `models` may be lists: sample k of every prompt takes entry k, cycled.

    So do samples of wrong prompts, but for the steps: see `perturbed.steps`.
    """

    prompts: Prompts
    samples_per_prompt: int = Field(default=4, ge=1)
    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(one_or_more), Field(min_length=1)] = (20,)
    guidance: Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(one_or_more), Field(min_length=1)] = (3.0,)
    models: Annotated[tuple[str | Model, ...], BeforeValidator(one_or_more)] = ()  # sources, or sections as `model`; empty: the config's
    negative_prompt: str = ""
    scheduler: str | None = None  # default: the model's own
    size: Annotated[tuple[MediaSize, ...], BeforeValidator(one_or_more_sizes)] = ()  # of the media; empty: the model's own
    long_prompts: Literal["refuse", "truncate"] = "refuse"
    batch_size: int = Field(default=64, ge=1)  # speed and memory only
    prompts_per_shard: int = Field(default=32, ge=1)
    guided: Guided | None = Field(default=None, exclude_if=lambda value: value is None)
    perturbed: Perturbed | None = Field(default=None, exclude_if=lambda value: value is None)

    @field_serializer("models")
    def _models_as_given(self, models: tuple[str | Model, ...]) -> list[Any]:
        """Without their defaults: what an entry does not say, it has of the config's model."""
        return [each if isinstance(each, str) else each.model_dump(mode="json", exclude_unset=True) for each in models]

    @property
    def steps_of_wrong(self) -> int:
        """The steps of samples of wrong prompts."""
        given = None if self.perturbed is None else self.perturbed.steps
        return given or max(self.steps)

    @model_validator(mode="after")
    def _check(self) -> Generate:
        if self.guided is not None and self.scheduler is not None:
            raise ValueError(
                f"scheduler {self.scheduler!r} is of samples from noise alone; those of guided follow DPM-Solver++(2M) whatever it says: "
                f"remove generate.scheduler or generate.guided"
            )
        return self


@dataclass(frozen=True)
class SampleRequest:
    """One sample to make: everything that determines it, besides the weights.

    asked     what is sampled, where that is not the group's prompt
    strength  the share of the timesteps to which the group's real medium is noised first; None: from noise alone
    """

    candidate_id: str
    group_id: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    negative_prompt: str = ""
    size: tuple[int, ...] | None = None
    scheduler: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    asked: str | None = None
    strength: float | None = None
    condition: Media | None = None


def candidate_seed(seed: int, group_id: str, k: int) -> int:
    """The seed of sample k of a group, below 2**63: a function of (run's seed, group, k) alone, so each sample can be made again alone."""
    return int.from_bytes(sha256(f"{seed}\0{group_id}\0{k}".encode()).digest()[:8], "big") >> 1


def requests_for(prompt: Prompt, generate: Generate, seed: int, wrong: Sequence[tuple[str, str]] = ()) -> list[SampleRequest]:
    """The K requests of a prompt, then those of `wrong` ones (strategy, text); request k takes entry k of each list, cycled."""
    from diffalign.data.records import ASKED, STRATEGY, STRENGTH

    guided, group = generate.guided, prompt.group_id
    own: list[tuple[str, str | None]] = [("", None)] * generate.samples_per_prompt
    strengths = [None if guided is None else guided.strength(seed, group, k) for k in range(len(own) + len(wrong))]
    return [
        SampleRequest(
            candidate_id=f"{group}-{k:02d}",
            group_id=group,
            prompt=prompt.text,
            seed=candidate_seed(seed, group, k),
            steps=generate.steps[k % len(generate.steps)] if text is None else generate.steps_of_wrong,
            guidance=generate.guidance[k % len(generate.guidance)],
            negative_prompt=generate.negative_prompt,
            size=generate.size[k % len(generate.size)] if generate.size else None,
            scheduler=generate.scheduler,
            tags={
                **prompt.tags,
                **({} if text is None else {STRATEGY: strategy, ASKED: text}),
                **({} if strength is None else {STRENGTH: str(strength)}),
            },
            asked=text,
            strength=strength,
            condition=prompt.condition,
        )
        for k, ((strategy, text), strength) in enumerate(zip([*own, *wrong], strengths, strict=True))
    ]


def sample_requests(
    backbone: Backbone,
    requests: list[SampleRequest],
    *,
    batch_size: int,
    model: str,
    real: Source | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Candidate]:
    """The candidates of the requests, in their order; batched over prompts wherever steps, guidance, size and so on are equal.

    model    what the records call it
    real     what requests with a strength start from
    advance  called with the number of samples after each batch
    """
    from diffalign.data.records import Candidate

    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        key = (request.steps, request.guidance, request.negative_prompt, request.size, request.scheduler, request.strength is None)
        alike.setdefault(key, []).append(index)
    made: dict[int, Candidate] = {}
    for (steps, guidance, negative_prompt, size, scheduler, is_free), indices in alike.items():
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            asked = [requests[index].asked or requests[index].prompt for index in batch]
            seeds = [requests[index].seed for index in batch]
            options: dict[str, Any] = {"steps": steps, "guidance": guidance, "negative_prompt": negative_prompt, "size": size}
            conditions = [condition for index in batch if (condition := requests[index].condition) is not None]
            if conditions:
                options["conditions"] = conditions
            starts: list[Real] = []
            if is_free or real is None:
                made_now = backbone.sample(asked, seeds, scheduler=scheduler, **options)
            else:
                starts = [real(requests[index].prompt, size or backbone.size, backbone.rate) for index in batch]
                strengths = [requests[index].strength or 0.0 for index in batch]
                made_now = vary_media(backbone, [start.media for start in starts], asked, seeds, strengths, **options)
            if len(made_now) != len(batch):
                raise ValueError(f"model {model!r} gave {len(made_now)} samples for {len(batch)} prompts; its backbone's sample() is wrong")
            parents = [start.candidate_id for start in starts] or [None] * len(batch)
            for index, media, parent in zip(batch, made_now, parents, strict=True):
                request = requests[index]
                made[index] = Candidate(
                    candidate_id=request.candidate_id,
                    group_id=request.group_id,
                    prompt=request.prompt,
                    media=media,
                    model=model,
                    seed=request.seed,
                    steps=request.steps,
                    guidance=request.guidance,
                    negative_prompt=request.negative_prompt or None,
                    parent=parent,
                    tags=request.tags,
                    condition=request.condition,
                )
            advance(len(batch))
    return [made[index] for index in range(len(requests))]


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Makes the shards of candidates/ that are missing. Shard = one model × one block of prompts, so a model is loaded once at most."""
    from diffalign.data.records import write_candidates

    generate = config.generate
    if generate is None:
        raise ValueError(
            "the config has no section generate; add one with prompts, for example generate: {prompts: {texts: [a red circle]}}"
        )
    prompts = load_prompts(generate.prompts, config.seed)
    turns = [config.model.other(entry) for entry in generate.models] or [config.model]  # sample k is of the model whose turn k is
    most = generate.samples_per_prompt + (generate.perturbed.count if generate.perturbed is not None else 0)
    models = [model for index, model in enumerate(turns[:most]) if model not in turns[:index]]
    _check_models(models)
    for model in models:
        check_conditions(model, prompts, "generate.prompts")
    if generate.guided is not None and prompts[0].condition is not None:
        raise ValueError("generate.guided starts from the media of a set, and generate.prompts has conditions; remove one of them")
    real = generate.guided.source(config.seed) if generate.guided is not None else None
    blocks = [prompts[start : start + generate.prompts_per_shard] for start in range(0, len(prompts), generate.prompts_per_shard)]

    # Of the files the shards alone are the result: answers of a language model that no candidate is made of bind nobody to their settings.
    settings, outputs = _settings(config, generate, prompts, models), ("shard-*.parquet",)
    with open_stage(config, "generate", settings=settings, outputs=outputs, redo=redo) as stage:
        missing = stage.missing(len(models) * len(blocks))
        if stage.is_complete and not missing:
            progress.say(f"generate: {stage.summary['candidates']} candidates are in {stage.path}; nothing to do")
            return
        wrong = _wrong(config, generate, prompts, stage, progress)

        def requests_of(model: Model, block: list[Prompt]) -> list[SampleRequest]:
            return [
                request
                for prompt in block
                for k, request in enumerate(requests_for(prompt, generate, config.seed, wrong.get(prompt.group_id, ())))
                if turns[k % len(turns)] == model
            ]

        total = sum(len(requests_of(model, block)) for model in models for block in blocks)
        work = [
            (model, [(index, block) for index, block in enumerate(blocks, start=place * len(blocks)) if index in missing])
            for place, model in enumerate(models)
        ]
        left = sum(len(requests_of(model, block)) for model, shards in work for _, block in shards)
        with progress.bar("generate", total, done=total - left) as advance:
            for model, shards in work:
                if not shards:
                    continue
                backbone = load_model(model)
                for size in generate.size:
                    check_size(backbone, size, "generate.size")
                if generate.long_prompts == "refuse":
                    refuse_long_prompts([prompt.text for prompt in prompts], backbone)
                for index, block in shards:
                    requests, name = requests_of(model, block), model_name(model)
                    candidates = sample_requests(backbone, requests, batch_size=generate.batch_size, model=name, real=real, advance=advance)
                    write_candidates(stage.shard(index), candidates)
                del backbone
                release_memory()  # the next model must not find this one in memory
        summary = {"prompts": len(prompts), "candidates": total, "models": [model_name(model) for model in models]}
        stage.finish(summary | {key: stage.record[key] for key in ("usage", "unanswered") if key in stage.record})
    progress.say(f"generate: {total} candidates for {len(prompts)} prompts in {stage.path}")


def _wrong(
    config: Config, generate: Generate, prompts: list[Prompt], stage: StageFolder, progress: Progress
) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Group → its slightly wrong prompts, as strategy and text."""
    perturbed = generate.perturbed
    if perturbed is None:
        return {}
    if perturbed.endpoint is None:
        return {prompt.group_id: perturbed.wrong(prompt.text, generate.prompts.world, config.seed, prompt.group_id) for prompt in prompts}
    found = wrong_prompts(stage, perturbed, [prompt.text for prompt in prompts], progress)
    return {prompt.group_id: found[prompt.text] for prompt in prompts}


def _check_models(models: Sequence[Model]) -> None:
    """ValueError where some make images and others sounds, or where two have one name, which the records could not tell apart."""
    from diffalign.backbones import family_of

    makes = {model_name(model): family_of(model.backbone).modality for model in models}
    if len(set(makes.values())) > 1:
        raise ValueError(f"generate.models make media of several kinds: {', '.join(f'{name} {kind}s' for name, kind in makes.items())}")
    if len(makes) < len(models):
        names = [model_name(model) for model in models]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"generate.models has two models that the records would both call {twice!r}; give one a folder of another name")


def _settings(config: Config, generate: Generate, prompts: list[Prompt], models: list[Model]) -> dict[str, Any]:
    """Whatever determines the candidates: the section, the run's seed, the prompts themselves, the weights."""
    texts = json.dumps([prompt.identity for prompt in prompts], ensure_ascii=False)
    own = {"backbone": config.model.backbone, "dtype": config.model.dtype}
    weights = {}
    for model in models:
        other = [given for key, value in own.items() if (given := getattr(model, key)) != value]
        weights[model_name(model)] = " ".join([*other, model.fingerprint()])
    section = dict(settings_of(generate, without=("batch_size",)))
    section["models"] = [model_name(config.model.other(entry)) for entry in generate.models]
    if generate.guided is not None and generate.guided.media is not None:
        section["guided"]["files"] = generate.guided.fingerprint
    if section.get("perturbed"):
        section["perturbed"] = {key: value for key, value in section["perturbed"].items() if key not in ("at_once", "max_unanswered")}
        if len(set(generate.steps)) > 1:  # it matters which
            section["perturbed"]["steps"] = generate.steps_of_wrong
    return {**section, "seed": config.seed, "prompts_sha256": sha256(texts.encode()).hexdigest(), "model": {**own, "weights": weights}}
