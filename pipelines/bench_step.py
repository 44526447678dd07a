"""bench step CONFIG: what a step of a config's training costs, on made-up latents and embeds of its model, beside its floor."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from pipelines.config import Config, Section, load_config, read_section
from pipelines.config_file import read_override

if TYPE_CHECKING:
    from diffalign.backbones import Backbone
    from diffalign.backbones.contract import Conditioned
    from diffalign.data.records import Preference
    from pipelines.train import Train

GROUPS = 16  # made-up ones; the time of a step depends on their shapes alone
PROMPT = "a photo of a cat"
COLUMNS = (
    "config", "model", "trained", "reference", "forwards", "size", "groups in a step", "seconds per step", "ratio to its floor",
    "peak memory", "machine",
)  # fmt: skip


class Timing(Section):
    """Settings of the bench beside the config's."""

    steps: int = Field(default=10, ge=2)  # that are run; the first fifth, at least one, is warm-up
    threads: int | None = Field(default=None, ge=1)  # torch's; default: its own choice


@dataclass(frozen=True)
class StepCost:
    """Median seconds of a step and of its floor, the most memory that was held in bytes, and what else its row of a table says.

    peak_bytes  of the GPU while the steps ran; on a CPU of the process since it began
    """

    what: tuple[str, ...]  # the first seven of COLUMNS
    seconds: float
    floor: float
    peak_bytes: int
    machine: str

    def __str__(self) -> str:
        """A markdown table of one row."""
        measured = (f"{self.seconds:.3g}", f"{self.seconds / self.floor:.3f}", f"{self.peak_bytes / 2**30:.1f} GiB")
        rows = (COLUMNS, ("---",) * len(COLUMNS), (*self.what, *measured, self.machine))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure_step(source: str, overrides: Sequence[str]) -> StepCost:
    """The step of the config at `source`; overrides without a point of Timing's names are the bench's own, the others the config's.

    Media have encode.size, or the model's own. The batch is the config's too, however long it takes: train.batch_size=8 is a short one.
    ValueError as of a config that does not fit, and where it has no section train.
    """
    own = [override for override in overrides if read_override(override)[0][0] in Timing.model_fields]
    config = load_config(source, [override for override in overrides if override not in own])
    return _measure(config, Path(source).stem, read_section(Timing, own))


def _measure(config: Config, name: str, timing: Timing) -> StepCost:
    import torch

    from diffalign.training.reference_errors import errors_ahead
    from pipelines.bench import autocast, floor_of, in_turn
    from pipelines.memory import release_memory
    from pipelines.model import load_model
    from pipelines.train import section_of
    from pipelines.train_task import build_task

    if timing.threads is not None:
        torch.set_num_threads(timing.threads)
    section = section_of(config)
    # Of sft_steps the first alone would be seen; a curriculum has its stages in the run's steps.
    changes = {"sft_steps": 0, "tracker": None, "checkpoint_every": section.steps + timing.steps}
    with tempfile.TemporaryDirectory(prefix="diffalign-bench-") as temporary:
        folder = Path(temporary)
        # An inversion ahead of training is kept; other predictions are made, which is what a step costs.
        kept = folder / "kept" if section.reference_errors == "ahead" and section.reference_cache is not None else None
        section = section.model_copy(update={"steps": max(section.steps, timing.steps), "reference_cache": kept, **changes})
        config = config.model_copy(update={"run": folder, "train": section})
        backbone = load_model(config.model)
        size = _make_up(config, section, backbone, folder)
        backbone.offload_encoders()
        release_memory()
        task = build_task(config, folder / "preferences", folder / "latents", backbone)
        if section.reference_errors == "ahead":  # of the steps that are run
            task.known_error = errors_ahead(task, section.model_copy(update={"steps": timing.steps}), folder / "train", {}).of
        device = next(backbone.denoiser.parameters()).device.type
        micro = section.micro_batch_size or section.batch_size
        with autocast(device, section.precision):  # an inversion runs the networks for its draw
            floor = floor_of(task, section.batch_size, micro)
        found = in_turn("training step / floor", task, floor, section, folder / "train", timing.steps)
    peak = _peak_of_process() if found.peak_bytes is None else found.peak_bytes
    machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return StepCost((name, *_described(config, section, size, micro)), found.seconds, found.against, peak, machine)


def _described(config: Config, section: Train, size: Sequence[int], micro: int) -> tuple[str, ...]:
    """What a row of the table says of a config, from its model to its groups."""
    from diffalign.objectives import OBJECTIVES
    from pipelines.model import shown_size

    lora, base = section.lora, config.model.quantise or config.model.dtype
    trained = "all" if lora is None else f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank} on {base}"
    reference = section.reference.name
    if OBJECTIVES[section.objective["name"]].reference is None:
        reference = "none"
    elif lora is None and reference == "initial":
        reference = f"{section.reference_dtype} copy" + (" in main memory" if section.reference_device == "cpu" else "")
        reference = "errors made ahead" if section.reference_errors == "ahead" else reference
    forwards = f"{section.objective['name']}, {section.precision}" + (", checkpointing" if section.gradient_checkpointing else "")
    groups = f"{section.batch_size} = {section.batch_size // micro} × {micro}"
    if section.draws > 1:
        groups += f", {section.draws} draws of each"
    if section.samples_per_forward is not None:
        groups += f", {section.samples_per_forward} samples at once"
    return config.model.source, f"{trained}, {section.optimizer}", reference, forwards, shown_size(size), groups


def _make_up(config: Config, section: Train, backbone: Backbone, folder: Path) -> tuple[int, ...]:
    """Writes preferences/, latents/ and scores/ of the kind that the config's training reads; the shape of the media they stand for."""
    import torch

    from diffalign.backbones import family_of
    from diffalign.data.conditions import FLIPPED, condition_key, dropped_key, unprompted_key
    from diffalign.data.latents import (
        CacheDescription,
        write_cache_description,
        write_conditions_shard,
        write_dropout_embeds,
        write_embeds_shard,
        write_latents_shard,
    )
    from diffalign.data.records import write_preferences
    from pipelines.bench import CHANNELS
    from pipelines.model import check_size

    wanted = None if config.encode is None else config.encode.size
    check_size(backbone, wanted, "encode.size")
    size, cache = wanted or backbone.size, folder / "latents"
    media = torch.rand(1, backbone.channels or CHANNELS[backbone.modality], *size) * 2 - 1
    [latent] = backbone.encode(media, seeds=None)
    rows = _rows(config, section, latent.shape[1])
    samples = [sample for row in rows for sample in row.samples]
    latents = torch.randn(len(samples), *latent.shape, generator=torch.Generator().manual_seed(0))
    conditions: list[str] = []
    if family_of(config.model.backbone).takes_condition:
        read, family = PROMPT if family_of(config.model.backbone).reads_together else None, cast("Conditioned", backbone)
        key = condition_key("made up", size, read)
        made = family.embed_condition([_picture(size)], size, **({} if read is None else {"prompts": [read]}))
        entries = {own + flipped: made for own in {key, unprompted_key(key)} for flipped in ("", FLIPPED)}
        if family.drops_condition:
            entries[dropped_key(key)] = family.embed_condition([None], size)
        joined = {name: torch.cat([each[name] for each in entries.values()]) for name in made}
        write_conditions_shard(cache, 0, list(entries), joined)
        conditions = [key] * len(samples)
    write_latents_shard(cache, 0, samples, latents, latents.flip(-1), conditions or None)
    prompts, embeds = [row.prompt for row in rows], backbone.embed([PROMPT])
    write_embeds_shard(cache, 0, prompts, {name: value.repeat_interleave(len(prompts), 0) for name, value in embeds.items()})
    write_dropout_embeds(cache, backbone.embed([""]))
    write_cache_description(cache, CacheDescription(dtype="float32", posterior="mean", encoder="made up", flip=True))
    write_preferences(folder / "preferences" / "shard-00000.parquet", rows)
    _write_scores(folder, section.scores, samples)
    return size


def _rows(config: Config, section: Train, length: int) -> list[Preference]:
    """GROUPS rows of the kind that the objective takes: a list has as many samples as pair says, or two.

    length  of the latents' first axis after the channels, which segments divide
    """
    from diffalign.data.records import Preference
    from diffalign.objectives import OBJECTIVES

    kind = OBJECTIVES[section.objective["name"]].rows
    count = 2
    if config.pair is not None and config.pair.rule in ("ranked_list", "imported"):
        count = config.pair.length or (2 if config.generate is None else config.generate.samples_per_prompt)
    count = 1 if kind == "labelled" else count
    rows: list[Preference] = []
    for group in range(GROUPS):
        samples = tuple(f"{group}-{place}" for place in range(count))
        said: dict[str, Any] = {"kind": "pair" if count == 2 else "list", "scores": tuple(_score(group, place) for place in range(count))}
        if kind == "labelled":
            said = {"kind": "labelled", "labels": (group % 2,)}
        if kind == "segments":
            said["segment_labels"] = tuple((-1) ** place for place in range(length))
        rows.append(Preference(f"g{group}", f"{PROMPT}, {group}", samples, **said))
    return rows


def _score(group: int, place: int) -> float:
    """In (0, 1), lower for each place of a group, by another step in each: a curriculum finds its order."""
    return 0.9 / (1 + place * (1 + group / GROUPS))


def _write_scores(folder: Path, names: Sequence[str], samples: Sequence[str]) -> None:
    """The scores "reward.dimension" of the samples, as the stage score writes them."""
    import pyarrow as pa

    from diffalign.data.shards import write_shard

    dimensions: dict[str, list[str]] = {}
    for name in names:
        reward, _, dimension = name.partition(".")
        dimensions.setdefault(reward, []).append(dimension)
    for reward, own in dimensions.items():
        schema = pa.schema([("candidate_id", pa.string()), *((dimension, pa.float64()) for dimension in own)])
        rows = [{"candidate_id": name, **dict.fromkeys(own, _score(*map(int, name.split("-"))))} for name in samples]
        write_shard(folder / "scores" / reward / "shard-00000.parquet", rows, schema)


def _picture(size: Sequence[int]) -> Any:
    import numpy as np

    from diffalign.data.modalities.image import Image

    return Image.from_pixels(np.random.default_rng(0).integers(0, 256, (*size[-2:], 3), np.uint8))


def _peak_of_process() -> int:
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
