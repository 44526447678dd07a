"""encode, of the conditions that prompts came with: each once for each size of the media it stands beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipelines.progress import Progress

if TYPE_CHECKING:
    import torch

    from diffalign.backbones import Backbone
    from diffalign.backbones.contract import Conditioned
    from diffalign.data.records import Preference


@dataclass(frozen=True)
class Entry:
    """A row of the cache.

    size       of the media beside it
    candidate  one that has the condition; None: of the dropped one
    prompt     that is read together with it
    """

    key: str
    size: tuple[int, ...]
    candidate: str | None
    is_flipped: bool = False
    prompt: str | None = None


def prompts_of(preferences: Sequence[Preference]) -> dict[str, str]:
    """Candidate → the prompt it is compared under. ValueError where there are several."""
    prompts: dict[str, str] = {}
    for preference in preferences:
        for sample in preference.samples:
            if prompts.setdefault(sample, preference.prompt) != preference.prompt:
                raise ValueError(
                    f"candidate {sample!r} is compared under {prompts[sample]!r} and {preference.prompt!r}, and the model reads a prompt "
                    f"together with its condition; compare it under one"
                )
    return prompts


def condition_keys(
    folder: Path, preferences: Sequence[Preference], sizes: Mapping[str, tuple[int, ...]], rate: float | None,
    prompts: Mapping[str, str] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Candidate → key of its condition, in the order of the files; {} where there are none. `sizes` are those of `encode.sizes_of`.

    Beside media in time a condition is encoded at the longest length of the set, as samples of a group may differ in it.
    rate     of the backbone's media; None: they are not in time
    prompts  candidate → the prompt that is read together with its condition, where the model does so
    ValueError where the samples of a preference have different ones, or one at several sizes.
    """
    from diffalign.data.conditions import CONDITION, condition_id, condition_key, condition_of_row
    from diffalign.data.records import candidate_columns
    from diffalign.data.shards import read_rows

    if CONDITION not in candidate_columns(folder):
        return {}
    longest = max(size[0] for size in sizes.values()) if sizes else 0
    keys: dict[str, str] = {}
    for row in read_rows(folder, ["candidate_id", CONDITION]):
        candidate = row["candidate_id"]
        condition = condition_of_row(row[CONDITION], f"candidate {candidate}")
        if candidate in sizes and condition is not None:
            size = sizes[candidate] if rate is None else (longest, *sizes[candidate][1:])
            keys[candidate] = condition_key(condition_id(condition), size, (prompts or {}).get(candidate))
    _check_shared(preferences, keys)
    return keys


def _check_shared(preferences: Sequence[Preference], keys: Mapping[str, str]) -> None:
    mixed = [preference for preference in preferences if len({keys.get(sample) for sample in preference.samples}) > 1]
    if not mixed:
        return
    parts = [keys.get(sample, "").partition("@") for sample in mixed[0].samples]
    if len({identity for identity, _, _ in parts}) == 1:
        sizes = ", ".join(sorted({size for _, _, size in parts}))
        what, fix = f"several sizes ({sizes})", "samples share a condition at one size: set encode.size"
    else:
        what, fix = "different conditions", "samples are compared under one: give each condition a group of its own"
    count = f"{len(mixed)} of {len(preferences)}"
    raise ValueError(f"{count} preferences join samples of {what}, the first: group {mixed[0].group_id!r}; {fix}")


def plan_conditions(
    keys: Mapping[str, str], per_shard: int, *, flip: bool, drops: bool, prompts: Mapping[str, str] | None = None
) -> list[list[Entry]]:
    """The rows of each shard, of one size each, every key once.

    flip     mirrored ones too
    drops    for each size, what stands for a dropped condition too
    prompts  as for `condition_keys`; each condition with the empty prompt too
    """
    from diffalign.data.conditions import FLIPPED, dropped_key, unprompted_key

    by_size: dict[tuple[int, ...], dict[str, Entry]] = {}
    for candidate, key in keys.items():
        size = tuple(map(int, key.partition("@")[2].split("x")))
        entries = by_size.setdefault(size, {dropped_key(key): Entry(dropped_key(key), size, None)} if drops else {})
        for own, prompt in {unprompted_key(key): "", key: prompts[candidate]}.items() if prompts else [(key, None)]:
            entries.setdefault(own, Entry(own, size, candidate, prompt=prompt))
            if flip:
                entries.setdefault(own + FLIPPED, Entry(own + FLIPPED, size, candidate, is_flipped=True, prompt=prompt))
    rows = [list(entries.values()) for entries in by_size.values()]
    return [each[start : start + per_shard] for each in rows for start in range(0, len(each), per_shard)]


def encode_conditions(cache: Path, folder: Path, plan: Sequence[Sequence[Entry]], missing: Sequence[int], backbone: Backbone,
                      dtype: torch.dtype, batch_size: int, progress: Progress) -> None:  # fmt: skip
    """Writes the shards of conditions that are not there yet."""
    import torch

    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.latents import write_conditions_shard
    from diffalign.data.modalities.image import Image, fit

    family, files = cast("Conditioned", backbone), CandidateFiles(folder)

    def condition(entry: Entry) -> Image | None:
        own = None if entry.candidate is None else cast("Image", files[entry.candidate].condition)
        if own is None or not entry.is_flipped:
            return own
        height, width = entry.size[-2:]
        return Image.from_pixels(fit(own.pixels(), (height, width))[:, ::-1])  # as samples are: cut, then mirrored

    total = sum(map(len, plan))
    with progress.bar("encode conditions", total, done=total - sum(len(plan[index]) for index in missing)) as advance:
        for index in missing:
            parts = []
            for start in range(0, len(plan[index]), batch_size):
                batch = plan[index][start : start + batch_size]
                read = [entry.prompt for entry in batch if entry.prompt is not None]
                options = {"prompts": read} if read else {}
                embeds = family.embed_condition([condition(entry) for entry in batch], batch[0].size, **options)
                parts.append(as_cached(embeds, dtype, [_named(entry) for entry in batch]))
                advance(len(batch))
            whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            write_conditions_shard(cache, index, [entry.key for entry in plan[index]], whole)


def _named(entry: Entry) -> str:
    condition = "the dropped condition" if entry.candidate is None else f"the condition of candidate {entry.candidate!r}"
    return condition if entry.prompt is None else f"{condition} with prompt {entry.prompt!r}"


def as_cached(embeds: Mapping[str, torch.Tensor], dtype: torch.dtype, rows: Sequence[str]) -> dict[str, torch.Tensor]:
    """Embeds (N, …) on the CPU in the cache's dtype; ValueError where some are not finite there. rows: what each is of."""
    found = {name: value.to("cpu", dtype) for name, value in embeds.items()}
    for name, value in found.items():
        finite = value.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            first = int((~finite).nonzero()[0, 0])
            own = bool(embeds[name][first].isfinite().all())
            fix = (
                f"they are over what {dtype} holds: set encode.dtype=bfloat16 or float32"
                if own
                else "half precision overflows in some text encoders: set model.dtype=bfloat16 or float32 (encode.dtype may stay as it is)"
            )
            raise ValueError(f"{name} of {int((~finite).sum())} rows is not finite, the first of {rows[first]}; {fix}")
    return found
