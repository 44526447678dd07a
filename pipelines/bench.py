"""bench: what a training step costs beside its floor, and what encoding once saves. Ratios of medians, in turn in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipelines.config import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffalign.backbones import Backbone
    from diffalign.training.alignment import AlignmentTask
    from diffalign.training.groups import GroupBatch
    from diffalign.training.settings import Settings
    from pipelines.bench_objectives import Costs

CHANNELS = {"image": 3, "video": 3, "audio": 1}  # of the media of each modality
BENCHES = {
    "step": "a whole training step against the bare policy forward and backward plus the bare reference forward on the same tensors",
    "encode": "a training step that runs the VAE and the text encoder on its batch, against one on cached latents and embeds",
    "objectives": "forward and backward to the prediction of every objective, of stabilisers and of a learned mask, beside the forwards "
    "that they need, against diffusion_dpo's",
}


@dataclass(frozen=True)
class Ratio:
    """Medians in seconds of two things measured in turn, and their ratio; the most memory that the GPU held for both, None without one."""

    name: str
    seconds: float
    against: float
    peak_bytes: int | None = None

    @property
    def ratio(self) -> float:
        return self.seconds / self.against

    def __str__(self) -> str:
        times = f"{self.name}: {1000 * self.seconds:.1f} ms against {1000 * self.against:.1f} ms, ratio {self.ratio:.3f}"
        return times if self.peak_bytes is None else f"{times}, peak memory {self.peak_bytes / 2**30:.1f} GiB"


class Bench(Section):
    """What is measured: an objective on a model, its batch, and how many steps."""

    source: str = "bundled:shapes"  # random:sd15, random:sdxl, …: full sizes without a download
    backbone: str = "stable_diffusion"
    lora: bool = False
    objective: str = "diffusion_dpo"
    batch_size: int = Field(default=32, ge=1)
    steps: int = Field(default=30, ge=2)  # the first fifth, at least one, is warm-up
    precision: Literal["fp32", "bf16"] = "fp32"  # autocast of the denoiser; autoencoder and text encoder stay float32
    threads: int | None = Field(default=None, ge=1)  # torch's; default: its own choice
    latents: tuple[int, ...] | None = Field(default=None, min_length=2)  # objectives: (C, *S) of a sample; default: the model's own
    bare_seconds: tuple[float, float] | None = None  # objectives: of a bare step and of one forward of another model; default: measured

    @model_validator(mode="after")
    def _check(self) -> Bench:
        if self.latents is not None and self.bare_seconds is None:
            raise ValueError(
                f"latents {list(self.latents)} are not this model's, so its step is not theirs; give the seconds of the other model's bare "
                f"step and of one of its forwards: bare_seconds=[2.0, 0.5]"
            )
        return self


def run(name: str, settings: Bench) -> Ratio | Costs:
    """One of BENCHES on random pictures and prompts; ValueError for another name."""
    import torch

    if name not in BENCHES:
        raise ValueError(f"unknown bench {name!r}; choose one of: {', '.join(BENCHES)}")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="diffalign-bench-") as temporary:
        folder = Path(temporary)
        if name == "objectives":
            return _objectives(folder, settings)
        cached, training = _task(folder, settings, encode_in_step=False), _training(settings)
        if name == "step":
            return in_turn("training step / floor", cached, floor_of(cached, settings.batch_size), training, folder / "train")
        encoding, other = _task(folder, settings, encode_in_step=True), _step_of(cached, settings.batch_size)
        return in_turn("step that encodes / step on cached latents", encoding, other, training, folder / "train")


def _training(settings: Bench) -> Settings:
    from diffalign.training.settings import Settings

    return Settings(
        steps=settings.steps, batch_size=settings.batch_size, precision=settings.precision, learning_rate=1e-6,
        checkpoint_every=settings.steps, tracker=None,
    )  # fmt: skip


def _objectives(folder: Path, settings: Bench) -> Costs:
    """On the model's latents with its own bare step, or on other latents with the seconds that were given."""
    import torch

    from diffalign.training.masks import features_of
    from pipelines.bench_objectives import HEAD_CHANNELS, Bare, measure_objectives, seconds_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.latents is not None and settings.bare_seconds is not None:
        features = (HEAD_CHANNELS, *settings.latents[1:])
        return measure_objectives(settings.latents, features, settings.batch_size, settings.steps, Bare(*settings.bare_seconds), device)
    task = _task(folder, settings.model_copy(update={"objective": "diffusion_dpo"}), encode_in_step=False)
    with_reference = floor_of(task, settings.batch_size)
    shape, task.reference = tuple(task.groups.fetch([0], dropped=[False], flipped=[False]).latents.shape[2:]), None
    alone = floor_of(task, settings.batch_size)
    with features_of(task.backbone, task.backbone.denoiser, shape[1:]) as features:
        alone()
    pairs = [(seconds_of(alone), seconds_of(with_reference)) for _ in range(settings.steps)][max(1, settings.steps // 5) :]
    step, both = (median(each) for each in zip(*pairs))
    bare = Bare(step, max(0.0, both - step)) if settings.bare_seconds is None else Bare(*settings.bare_seconds)
    return measure_objectives(shape, tuple(features[0].shape[1:]), settings.batch_size, settings.steps, bare, device)


class _Measured(Exception):
    """Ends a training after the last step that is measured: before a checkpoint, which for a large model is tens of gigabytes."""


def in_turn(name: str, task: AlignmentTask, other: Callable[[], None], training: Settings, folder: Path,
            steps: int | None = None) -> Ratio:  # fmt: skip
    """Trains with the real loop, and calls `other` after every step; the first fifth is warm-up.

    steps  of the training that are measured; None: all
    """
    import logging

    import torch

    from diffalign.training.loop import train

    count = training.steps if steps is None else steps
    taken: list[float] = []
    beside: list[float] = []
    device, began = next(task.backbone.denoiser.parameters()).device.type, time.perf_counter()

    def advance(_: int) -> None:
        nonlocal began
        _wait()  # the update of the weights is of the step too
        taken.append(time.perf_counter() - began)
        started = time.perf_counter()
        with autocast(device, training.precision):
            other()
        _wait()
        began = time.perf_counter()
        beside.append(began - started)
        if len(taken) > count:  # the first call is before the first step
            raise _Measured

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(_Measured):
        train(task, training, folder, advance=advance, logger=logging.Logger("bench", logging.ERROR))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    skip = 1 + max(1, count // 5)
    return Ratio(name, median(taken[skip:]), median(beside[skip:]), peak)


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """That of the training loop."""
    import torch

    return torch.autocast(device, {"fp16": torch.float16}.get(precision, torch.bfloat16), enabled=precision != "fp32")


def floor_of(task: AlignmentTask, batch_size: int, micro_batch_size: int | None = None) -> Callable[[], None]:
    """The forwards and the backward that no implementation can do without, on the tensors of one drawn micro-batch, over and over."""
    import torch

    from diffalign.training.visits import Visit

    micro = micro_batch_size or batch_size
    visits = [Visit(index % task.group_count, 0, repeat) for index in range(micro) for repeat in range(task.draws)]
    batch, noised, timestep = task.draw(visits)
    device = next(task.backbone.denoiser.parameters()).device
    count = noised.sample.shape[1]
    sample, every = noised.sample.flatten(0, 1).to(device), timestep.repeat_interleave(count).to(device)
    embeds = {key: value.repeat_interleave(count, 0).to(device) for key, value in batch.embeds.items()}
    at_once, reference = task.samples_per_forward or len(sample), task.reference
    parts = [slice(first, first + at_once) for first in range(0, len(sample), at_once)]
    target = torch.zeros_like(sample)

    def predict(denoiser: nn.Module, rows: slice) -> Tensor:
        return task.backbone.predict(denoiser, sample[rows], every[rows], {key: value[rows] for key, value in embeds.items()})

    def floor() -> None:
        for _ in range(batch_size // micro):
            if reference is not None:
                with reference.use() as denoiser:
                    for rows in parts:
                        predict(denoiser, rows)
            for rows in parts:
                torch.nn.functional.mse_loss(predict(task.modules["denoiser"], rows), target[rows]).backward()
        for parameter in task.backbone.denoiser.parameters():
            parameter.grad = None

    return floor


def _step_of(task: AlignmentTask, batch_size: int) -> Callable[[], None]:
    """A step on cached latents with its own optimiser state, outside the loop: forwards, loss, backward, clipping, update."""
    import itertools

    import torch

    from diffalign.training.visits import Visit

    parameters = [parameter for parameter in task.backbone.denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    draws = itertools.count()

    def step() -> None:
        draw = next(draws)
        measured = task.measure([Visit(index % task.group_count, draw) for index in range(batch_size)])
        measured.value.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _EncodingGroups:
    """Groups that encode their media and prompts each time they are fetched, as scripts without a cache do."""

    difficulty = None

    def __init__(self, backbone: Backbone, cached: Any, media: Tensor):
        self.backbone, self.cached, self.media = backbone, cached, media

    def __len__(self) -> int:
        return len(self.cached)

    def shape(self, group: int) -> tuple[int, ...]:
        return self.cached.shape(group)

    def describe(self, group: int) -> str:
        return self.cached.describe(group)

    def fetch(self, groups: Sequence[int], *, dropped: Sequence[bool], flipped: Sequence[bool],
              unconditioned: Sequence[bool] | None = None) -> GroupBatch:  # fmt: skip
        from dataclasses import replace

        import torch

        batch = self.cached.fetch(groups, dropped=dropped, flipped=flipped)
        count = batch.latents.shape[1]
        rows = [count * group + sample for group in groups for sample in range(count)]
        with torch.autocast(next(self.backbone.denoiser.parameters()).device.type, enabled=False):
            latents = self.backbone.encode(self.media[rows], seeds=rows)
            embeds = self.backbone.embed([self.cached.preferences[group].prompt for group in groups])
        return replace(batch, latents=latents.view_as(batch.latents), embeds=embeds)


def _task(folder: Path, settings: Bench, *, encode_in_step: bool) -> AlignmentTask:
    """An alignment task on random media, with its cache written to folder once."""
    import torch

    from diffalign.backbones import check_condition, family_of, load_backbone
    from diffalign.data.latents import (
        CacheDescription,
        LatentCache,
        write_cache_description,
        write_dropout_embeds,
        write_embeds_shard,
        write_latents_shard,
    )
    from diffalign.data.records import Preference
    from diffalign.noising import load_noising
    from diffalign.objectives import OBJECTIVES, build_objective
    from diffalign.training.alignment import AlignmentTask, Sampling
    from diffalign.training.groups import CachedGroups
    from diffalign.training.lora import Lora, add_lora, unfreeze
    from diffalign.training.reference import AdapterOff, FrozenCopy

    objective, lora = build_objective(settings.objective), settings.lora
    needs = OBJECTIVES[settings.objective]
    if needs.own_samples or needs.rows not in ("pairs", "positives"):
        raise ValueError(
            f"bench step and encode train on random pairs, of which {settings.objective!r} makes no use; choose one of pairs, such as "
            f"diffusion_dpo, or see it in: diffalign bench objectives"
        )
    check_condition(settings.backbone, False, "a benchmark")
    backbone = load_backbone(settings.backbone, settings.source, device="cuda" if torch.cuda.is_available() else "cpu")
    groups = 2 * settings.batch_size
    media = torch.rand(2 * groups, CHANNELS[backbone.modality], *backbone.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cache = folder / "latents"
    ids, prompts = [f"c{index}" for index in range(2 * groups)], [f"a picture {index}" for index in range(groups)]
    if not cache.exists():
        latents = torch.cat([backbone.encode(media[row : row + 1], seeds=[row]) for row in range(len(media))])
        write_latents_shard(cache, 0, ids, latents)
        write_embeds_shard(cache, 0, prompts, backbone.embed(prompts))
        write_dropout_embeds(cache, backbone.embed([""]))
        write_cache_description(cache, CacheDescription(dtype="float32", posterior="sample", encoder=settings.backbone))
    preferences = [Preference(f"g{index}", prompts[index], (ids[2 * index], ids[2 * index + 1])) for index in range(groups)]
    if not encode_in_step:
        backbone.offload_encoders()
    family = family_of(settings.backbone)
    if lora:
        add_lora(backbone.denoiser, Lora(), 0, family.lora_targets, family.unreached)
    reference = None
    if needs.reference:
        reference = AdapterOff(backbone.denoiser) if lora else FrozenCopy(backbone.denoiser)
    if not lora:
        unfreeze(backbone.denoiser, family.unreached)
    # Any: an _EncodingGroups is no CachedGroups, but the task asks for no more than both have.
    source_of_groups: Any = CachedGroups(LatentCache(cache), preferences, needs.rows)
    if encode_in_step:
        source_of_groups = _EncodingGroups(backbone, source_of_groups, media)
    return AlignmentTask(
        backbone, source_of_groups, objective, needs,
        load_noising("shared"), reference, sampling=Sampling(), seed=0, identity={}, write_weights=lambda denoiser, path: None,
    )  # fmt: skip
