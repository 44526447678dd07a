"""encode: the latents of every candidate that a preference names, the embeds of every distinct prompt and of its condition, each once.

Writes the cache of diffalign/data/latents.py into the run's latents/. Training then runs neither VAE nor text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field, field_validator

from pipelines.config import Config, Section, settings_of
from pipelines.encode_conditions import as_cached, condition_keys, encode_conditions, plan_conditions, prompts_of
from pipelines.model import MediaSize, check_size, load_model, shown_size
from pipelines.progress import Progress
from pipelines.prompts import refuse_long_prompts
from pipelines.stage import StageFolder, open_stage, require_stage, stage_path

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.backbones import Backbone
    from diffalign.backbones.contract import Conditioned
    from diffalign.data.latent_shortcut import LatentShortcut
    from diffalign.data.modalities import Media
    from diffalign.data.records import Candidate, Preference

PROMPTS_PER_SHARD = 512
LOST = 0.02  # share of a medium's time; less is not worth a word
Sizes = dict[str, tuple[int, ...]]  # candidate_id → shape of the media at which it is encoded


class Encode(Section):
    """Settings of the stage."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    posterior: Literal["sample", "mean"] = "sample"
    batch_size: int = Field(default=64, ge=1)
    size: MediaSize | None = None  # resize to cover it, crop the centre, cut what is longer; None: each medium's own
    candidates_per_shard: int = Field(default=512, ge=1)
    flip: bool = False  # keep the latents of the mirrored images too, for flips shared by a group
    long_prompts: Literal["refuse", "truncate"] = "refuse"

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Runs the stage: see the module."""
    section = config.encode
    if section is None:
        raise ValueError("the config has no section encode; add one, for example encode: {}")
    model = {"weights": config.model.fingerprint(), "dtype": config.model.dtype}
    settings = {**settings_of(section, without=("batch_size",)), "seed": config.seed, "model": model}
    with open_stage(config, "encode", settings=settings, inputs=("pair",), redo=redo) as stage:
        if stage.is_complete:
            progress.say(f"encode: complete, {stage.summary.get('candidates')} candidates in {stage.path}")
            return
        _encode(config, section, stage, progress)


def _encode(config: Config, section: Encode, stage: StageFolder, progress: Progress) -> None:
    from diffalign.backbones import check_condition, family_of
    from diffalign.data.conditions import CONDITION
    from diffalign.data.latent_shortcut import latent_shortcut
    from diffalign.data.latents import DTYPES, CacheDescription, LatentCache, write_cache_description
    from diffalign.data.records import candidate_columns, read_preferences

    preferences = read_preferences(stage_path(config, "pair"))
    folder = require_stage(config, "encode", "generate")
    check_condition(config.model.backbone, CONDITION in candidate_columns(folder), str(folder))  # before the model is loaded
    backbone = load_model(config.model)
    prompts = list(dict.fromkeys(preference.prompt for preference in preferences))
    if section.long_prompts == "refuse":
        refuse_long_prompts(prompts, backbone)
    truncated = sum(backbone.token_count(prompt) > backbone.token_limit for prompt in prompts)
    if truncated:
        over = f"{truncated} of {len(prompts)} prompts are over {backbone.token_limit} tokens and are cut there"
        progress.say(f"encode: {over}", style="yellow")
    sizes = sizes_of(folder, preferences, section.size, backbone)
    longer = tell_of_lengths(folder, sizes, section.size, backbone, progress)
    plan = plan_shards(sizes, section.candidates_per_shard)
    encode_prompts(stage.path, prompts, backbone, section, progress)
    read = prompts_of(preferences) if family_of(config.model.backbone).reads_together else None
    keys = condition_keys(folder, preferences, sizes, backbone.rate, read)
    if keys:
        drops = cast("Conditioned", backbone).drops_condition
        entries = plan_conditions(keys, section.candidates_per_shard, flip=section.flip, drops=drops, prompts=read)
        missing, dtype = missing_shards(stage.path / "conditions", len(entries)), DTYPES[section.dtype]
        encode_conditions(stage.path, folder, entries, missing, backbone, dtype, section.batch_size, progress)
    encode_candidates(stage.path, folder, plan, sizes, keys, backbone, section, config.seed, progress)
    shapes = {"x".join(map(str, shape)): count for shape, count in latent_shapes(stage.path, plan).items()}
    description = CacheDescription(
        dtype=section.dtype, posterior=section.posterior, encoder=backbone.encoder_identity(), seed=config.seed, size=section.size,
        flip=section.flip, prompts_truncated=truncated, latent_shapes=shapes,
    )  # fmt: skip
    write_cache_description(stage.path, description)
    counts: dict[str, Any] = {"candidates": len(sizes), "prompts": len(prompts), "prompts_truncated": truncated, **longer}
    cache = LatentCache(stage.path)
    shortcut = latent_shortcut(preferences, lambda name: cache.latents([name])[0], config.seed, keys)
    if shortcut is not None:
        counts["shortcut"] = asdict(shortcut)
        if shortcut.is_suspicious:
            progress.say(warn_of_latents(shortcut), style="yellow")
    if keys:
        counts["conditions"] = len(set(keys.values()))
    stage.finish({**counts, "dtype": section.dtype, "shapes": shapes, "sizes": sorted(set(sizes.values()))})


def warn_of_latents(shortcut: LatentShortcut) -> str:
    """The warning where simple numbers of the latents tell chosen from rejected: how well, what it may mean, and what to do."""
    return (
        f"encode: the level, contrast and grain of the latents tell chosen from rejected: AUC {shortcut.auc:.2f}, at least "
        f"{shortcut.at_least:.2f} (one-sided, 95 %; chance is 0.5), fitted and tried on different prompts, {shortcut.pairs} pairs of "
        f"{shortcut.prompts} prompts. Chosen that are just brighter or sharper are told apart too, but so well it is often a trace of "
        "other models, sizes or file formats than the rejected have, and training may learn that and not the preference. Look at some "
        "pairs side by side; take both sides of one model and one format (pair.same_source: true, where the set names its models)"
    )


def sizes_of(folder: Path, preferences: Sequence[Preference], size: tuple[int, ...] | None, backbone: Backbone) -> Sizes:
    """The shape of the media at which each candidate that the preferences name will be encoded, in the order of the files.

    ValueError for candidates that are not there, a medium smaller than one latent, or a group whose sizes differ in more than their time.
    """
    from diffalign.data.modalities import media_class
    from diffalign.data.records import modality_of_candidates
    from diffalign.data.shards import read_rows

    check_size(backbone, size, "encode.size")
    modality = modality_of_candidates(folder)
    if modality != backbone.modality:
        raise ValueError(f"the candidates in {folder} are {modality}, {backbone.source!r} takes {backbone.modality}; choose another model")
    media = media_class(modality)
    wanted = {sample for preference in preferences for sample in preference.samples}
    sizes: Sizes = {}
    for row in read_rows(folder, ["candidate_id", *media.COLUMNS]):
        if row["candidate_id"] in wanted:
            own = media.shape_of(row, backbone.rate)
            whole = size or backbone.whole(own)
            if not all(whole):
                at = "" if backbone.rate is None else f" at {backbone.rate:g} a second"
                small = f"candidate {row['candidate_id']!r} is {shown_size(own)}{at}, smaller than one latent"
                is_short = backbone.rate is not None and not whole[0]  # a size cuts and scales, and makes nothing last longer
                raise ValueError(f"{small}; " + ("leave it out of the set" if is_short else "leave it out of the set, or set encode.size"))
            sizes[row["candidate_id"]] = whole
    missing = sorted(wanted - sizes.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} candidates that preferences name are not in {folder}, the first: {missing[0]!r}; "
            "make both again: diffalign pair CONFIG --redo"
        )
    in_space = {name: shape if backbone.rate is None else shape[1:] for name, shape in sizes.items()}  # lengths are the objective's affair
    mixed = [preference for preference in preferences if len({in_space[sample] for sample in preference.samples}) > 1]
    if mixed:
        found = ", ".join(map(shown_size, sorted({sizes[sample] for sample in mixed[0].samples})))
        raise ValueError(
            f"{len(mixed)} of {len(preferences)} preferences join {modality}s of different sizes, the first: group {mixed[0].group_id!r} "
            f"with {found}; set encode.size (for example encode.size={list(backbone.size)}) to bring all to one"
        )
    return sizes


def tell_of_lengths(folder: Path, sizes: Sizes, size: tuple[int, ...] | None, backbone: Backbone, progress: Progress) -> dict[str, int]:
    """Says how many media last longer than `size`, or than the model's own where that is None, how many of them are cut there, and how many
    lose more than LOST to whole latents.

    Those counts of the summary that are not 0: cut, over_length, which are encoded whole, and trimmed.
    """
    from diffalign.data.modalities import media_class
    from diffalign.data.shards import read_rows

    if backbone.rate is None:
        return {}
    media, limit = media_class(backbone.modality), (size or backbone.size)[0]
    rows = read_rows(folder, ["candidate_id", *media.COLUMNS])
    own = {name: media.shape_of(row, backbone.rate)[0] for row in rows if (name := row["candidate_id"]) in sizes}
    longer = [name for name, length in own.items() if length > limit]
    over = [sizes[name][0] for name in longer if sizes[name][0] > limit]
    cut, most = len(longer) - len(over), f"{limit / backbone.rate:.4g} s"
    if cut:
        progress.say(f"encode: {cut} of {len(sizes)} candidates last longer than {most} and are cut there", style="yellow")
    if over:
        last = f"last longer than the {most} of {backbone.source!r}, up to {max(over) / backbone.rate:.4g} s"
        fix = f"set encode.size (for example encode.size={list(backbone.size)}) to cut them"
        told = (
            f"encode: {len(over)} of {len(sizes)} candidates {last}, and are encoded whole, at lengths that it may never have seen; {fix}"
        )
        progress.say(told, style="yellow")
    trimmed = [name for name, length in own.items() if size is None and sizes[name][0] < (1 - LOST) * length]
    if trimmed:
        first = f"the first from {own[trimmed[0]] / backbone.rate:.4g} to {sizes[trimmed[0]][0] / backbone.rate:.4g} s"
        told = f"encode: {len(trimmed)} of {len(sizes)} candidates are cut to a whole number of the model's latents, {first}"
        progress.say(told, style="yellow")
    return {name: count for name, count in (("cut", cut), ("over_length", len(over)), ("trimmed", len(trimmed))) if count}


def plan_shards(sizes: Sizes, candidates_per_shard: int) -> list[list[str]]:
    """Candidate ids per shard: of one size each, in the order of the files, so that one pass over the files fills them."""
    by_size: dict[tuple[int, ...], list[str]] = {}
    for candidate, size in sizes.items():
        by_size.setdefault(size, []).append(candidate)
    return [ids[start : start + candidates_per_shard] for ids in by_size.values() for start in range(0, len(ids), candidates_per_shard)]


def encode_prompts(folder: Path, prompts: Sequence[str], backbone: Backbone, section: Encode, progress: Progress) -> None:
    """Writes the embeds of the prompts and of the empty prompt, shards that are not there yet."""
    from diffalign.data.latents import DTYPES, write_dropout_embeds, write_embeds_shard

    def embed(texts: list[str]) -> dict[str, Tensor]:
        return as_cached(backbone.embed(texts), DTYPES[section.dtype], [f"prompt {text!r}" for text in texts])

    if not (folder / "embeds" / "dropout.safetensors").is_file():
        write_dropout_embeds(folder, embed([""]))
    shards = [list(prompts[start : start + PROMPTS_PER_SHARD]) for start in range(0, len(prompts), PROMPTS_PER_SHARD)]
    missing = missing_shards(folder / "embeds", len(shards))
    done = len(prompts) - sum(len(shards[index]) for index in missing)
    with progress.bar("encode prompts", len(prompts), done=done) as advance:
        for index in missing:
            parts = []
            for batch in _batches(shards[index], section.batch_size):
                parts.append(embed(batch))
                advance(len(batch))
            write_embeds_shard(folder, index, shards[index], {name: _join([part[name] for part in parts]) for name in parts[0]})


def missing_shards(folder: Path, count: int) -> list[int]:
    """Which of `count` shards lack their tensors or their index."""
    suffixes = (".safetensors", ".parquet")
    return [index for index in range(count) if not all((folder / f"shard-{index:05d}{suffix}").is_file() for suffix in suffixes)]


def encode_candidates(cache: Path, folder: Path, plan: Sequence[Sequence[str]], sizes: Sizes, keys: Mapping[str, str],
                      backbone: Backbone, section: Encode, seed: int, progress: Progress) -> None:  # fmt: skip
    """Writes the latents of the shards that are not there yet, in one pass over the candidates; keys: of their conditions."""
    from diffalign.data.latents import write_latents_shard
    from diffalign.data.records import read_candidates

    missing = missing_shards(cache, len(plan))
    shard_of = {candidate: index for index in missing for candidate in plan[index]}
    begun = {index: _Begun(len(plan[index])) for index in missing}
    total = sum(map(len, plan))
    with progress.bar("encode", total, done=total - len(shard_of)) as advance:
        for candidate in read_candidates(folder) if missing else ():
            index = shard_of.get(candidate.candidate_id)
            if index is None:
                continue
            shard, ids = begun[index], plan[index]
            shard.batch.append(candidate)
            shard.left -= 1
            if len(shard.batch) < section.batch_size and shard.left:
                continue
            advance(_encode_waiting(shard, sizes[candidate.candidate_id], backbone, section, seed))
            if not shard.left:
                del begun[index]
                conditions, flipped = [keys[name] for name in ids] if keys else None, _join(shard.flipped) if section.flip else None
                covered = shard.covered if min(shard.covered) < 1 else None
                write_latents_shard(cache, index, ids, _join(shard.latents), flipped, conditions, covered)


@dataclass
class _Begun:
    """A shard on its way: how many of its candidates are still to come, those of the next batch, and what is known of the others."""

    left: int
    batch: list[Candidate] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    flipped: list[Tensor] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)


def _encode_waiting(shard: _Begun, size: tuple[int, ...], backbone: Backbone, section: Encode, seed: int) -> int:
    """Encodes the batch that waits and lets go of its media; how many they were."""
    batch, shard.batch = shard.batch, []
    media = media_batch(batch, size, backbone)
    shard.latents.append(_encode_batch(backbone, media, batch, section, seed, ""))
    if section.flip:
        shard.flipped.append(_encode_batch(backbone, media.flip(-1), batch, section, seed, ":flipped"))
    shard.covered += [covered_share(candidate.media, size, backbone) for candidate in batch]
    return len(batch)


def covered_share(medium: Media, size: tuple[int, ...], backbone: Backbone) -> float:
    """The share of a medium's time, from its beginning, that is left at `size`; of a video from its first frame to its last."""
    if backbone.rate is None:
        return 1.0
    own, left = type(medium).shape_of(medium.columns, backbone.rate)[0], size[0]
    return 1.0 if own <= left else (left - 1) / (own - 1) if backbone.modality == "video" else left / own


def _encode_batch(backbone: Backbone, media: Tensor, batch: Sequence[Candidate], section: Encode, seed: int, suffix: str) -> Tensor:
    from diffalign.data.latents import DTYPES

    seeds = [posterior_seed(seed, candidate.candidate_id + suffix) for candidate in batch] if section.posterior == "sample" else None
    latents = backbone.encode(media, seeds=seeds).to("cpu", DTYPES[section.dtype])
    finite = latents.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        first = batch[int((~finite).nonzero()[0, 0])].candidate_id
        raise ValueError(
            f"the latents of {int((~finite).sum())} candidates are not finite, the first: {first!r}; "
            "half precision overflows in some VAEs: set model.dtype=float32 (and encode.dtype=bfloat16 where the cache should stay small)"
        )
    return latents


def posterior_seed(seed: int, candidate_id: str) -> int:
    """Seed (63 bits) of a candidate's posterior sample, of the run's seed and its id alone: no batch or order changes it."""
    return int.from_bytes(sha256(f"posterior:{seed}:{candidate_id}".encode()).digest()[:8], "big") >> 1


def media_batch(batch: Sequence[Candidate], size: tuple[int, ...], backbone: Backbone) -> Tensor:
    """The candidates' media (N, C, *size), float32 in [−1, 1], at the backbone's rate and with its channels."""
    import torch

    return torch.from_numpy(np.stack([candidate.media.tensor(size, backbone.rate, backbone.channels) for candidate in batch]))


def latent_shapes(folder: Path, plan: Sequence[Sequence[str]]) -> dict[tuple[int, ...], int]:
    """How many candidates have each latent shape, from the headers of the shards."""
    from diffalign.data.latents import open_tensors

    shapes: dict[tuple[int, ...], int] = {}
    for index, ids in enumerate(plan):
        with open_tensors(folder / f"shard-{index:05d}.safetensors") as file:
            shape = tuple(file.get_slice("latents").get_shape()[1:])
        shapes[shape] = shapes.get(shape, 0) + len(ids)
    return shapes


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _join(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts))
