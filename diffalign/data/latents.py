"""The latent cache: what encode writes once and training reads every step.

    latents/
      cache.json                       how the latents were made; written last, so a cache without it is unfinished
      shard-00000.safetensors          "latents" (n, C, *S), and "flipped" (n, C, *S) where mirrored images were asked for
      shard-00000.parquet              candidate_id, row: the index of that shard, written after it; where there are conditions their key
      embeds/shard-00000.safetensors   one tensor per embedding key, (p, ...), one row per distinct prompt
      embeds/shard-00000.parquet       prompt, row
      embeds/dropout.safetensors       the same keys for the empty prompt, (1, ...)
      conditions/shard-00000.*         the same for what came with the prompts, a row for each condition and size (conditions.py), of a
                                     model that reads it together with its prompt for each of both

Latents of one shard have one shape; shards may differ. Files are memory-mapped and only the rows asked for are read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffalign.data.conditions import CONDITION, FLIPPED, dropped_key, is_read_with_prompt, unprompted_key
from diffalign.data.shards import open_parquet, write_shard

COVERED = "covered"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class CacheDescription:
    """How a cache was made.

    dtype      of latents and embeds
    posterior  "sample" (one draw per candidate, of `seed`) or "mean"
    encoder    identity of the weights that encoded (`Backbone.encoder_identity`)
    size       (height, width) that images were resized and cropped to, or None: each image's own
    flip       whether latents of the mirrored images are kept too
    prompts_truncated              prompts over the encoder's limit that were cut
    latent_shapes                  "4x8x8" → how many candidates have it
    """

    dtype: str
    posterior: str
    encoder: str
    seed: int = 0
    size: tuple[int, ...] | None = None
    flip: bool = False
    prompts_truncated: int = 0
    latent_shapes: dict[str, int] = field(default_factory=dict)


def write_latents_shard(folder: Path, index: int, ids: Sequence[str], latents: Tensor, flipped: Tensor | None = None,
                        conditions: Sequence[str] | None = None, covered: Sequence[float] | None = None) -> None:  # fmt: skip
    """Writes shard `index`: latents (n, C, *S) of the n candidates in order, then its index. Both appear by atomic rename.

    conditions  the key of each candidate's, where they have one
    covered     the share of each medium's time, from its beginning, that its latents are of; None: all
    """
    if len(ids) != len(latents) or len(set(ids)) != len(ids):
        counts = f"{len(ids)} ids, {len(set(ids))} distinct, {len(latents)} rows"
        raise ValueError(f"a latents shard needs one row per distinct candidate, got {counts}")
    if flipped is not None and flipped.shape != latents.shape:
        raise ValueError(f"mirrored latents have shape {tuple(flipped.shape)}, latents {tuple(latents.shape)}; they must be equal")
    tensors = {"latents": latents} | ({} if flipped is None else {"flipped": flipped})
    _write_tensors(folder / f"shard-{index:05d}.safetensors", tensors)
    _write_index(folder / f"shard-{index:05d}.parquet", "candidate_id", ids, {CONDITION: conditions, COVERED: covered})


def write_embeds_shard(folder: Path, index: int, prompts: Sequence[str], embeds: Mapping[str, Tensor]) -> None:
    """Writes shard `index` of `folder`/embeds: each tensor (p, ...) with one row per prompt in order, then its index."""
    _write_embeds(folder / "embeds", index, "prompt", prompts, embeds)


def write_conditions_shard(folder: Path, index: int, keys: Sequence[str], embeds: Mapping[str, Tensor]) -> None:
    """Writes shard `index` of `folder`/conditions: each tensor (p, ...) with one row per key in order, then its index."""
    _write_embeds(folder / "conditions", index, CONDITION, keys, embeds)


def _write_embeds(folder: Path, index: int, key: str, values: Sequence[str], embeds: Mapping[str, Tensor]) -> None:
    rows = {name: len(tensor) for name, tensor in embeds.items()}
    if set(rows.values()) - {len(values)} or len(set(values)) != len(values):
        counts = f"{len(values)} {key}s, {len(set(values))} distinct, rows {rows}"
        raise ValueError(f"an embeds shard needs one row per distinct {key}, got {counts}")
    _write_tensors(folder / f"shard-{index:05d}.safetensors", embeds)
    _write_index(folder / f"shard-{index:05d}.parquet", key, values)


def write_dropout_embeds(folder: Path, embeds: Mapping[str, Tensor]) -> None:
    """Keeps the empty prompt's embeds, each (1, ...): what a dropped prompt is replaced by."""
    _write_tensors(folder / "embeds" / "dropout.safetensors", embeds)


def write_cache_description(folder: Path, description: CacheDescription) -> None:
    """Writes cache.json, the last file of a cache."""
    _write_bytes(folder / "cache.json", (json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n").encode())


def read_cache_description(folder: Path) -> CacheDescription:
    """What cache.json says. FileNotFoundError where there is none, ValueError where it cannot be read."""
    path = Path(folder) / "cache.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no finished latent cache (no cache.json); run `diffalign encode CONFIG` first")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("size") is not None:
            values["size"] = tuple(values["size"])
        description = CacheDescription(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a cache description ({error}); encode again with `diffalign encode CONFIG --redo`") from error
    if description.dtype not in DTYPES:
        raise ValueError(f"{path} says dtype {description.dtype!r}; allowed are {', '.join(DTYPES)}; encode again with --redo")
    return description


def open_tensors(path: Path) -> safe_open:
    """The tensors of a file of the cache, mapped. ValueError where it is missing or cut short."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); encode again with `diffalign encode CONFIG --redo`") from error


class _Rows:
    """Rows by key over the shards of one folder: an index read at once, tensors mapped when first touched."""

    def __init__(self, folder: Path, key: str, what: str):
        self._key, self._what = key, what
        self._shards = sorted(folder.glob("shard-*.parquet"))
        self._maps: dict[tuple[int, str], Tensor] = {}
        self._bytes: dict[tuple[int, str], np.ndarray] = {}
        self._handles: dict[int, safe_open] = {}
        self.place: dict[str, tuple[int, int]] = {}
        for number, path in enumerate(self._shards):
            with open_parquet(path) as file:
                table = file.read([key, "row"])
            for value, row in zip(table.column(key).to_pylist(), table.column("row").to_pylist(), strict=True):
                self.place[value] = (number, row)

    def said(self, column: str) -> dict[str, Any]:
        """Key → what the index says of it in another column; nothing where it has none."""
        found: dict[str, Any] = {}
        for path in self._shards:
            with open_parquet(path) as file:
                if column in file.schema_arrow.names:
                    table = file.read([self._key, column])
                    found |= dict(zip(table.column(self._key).to_pylist(), table.column(column).to_pylist(), strict=True))
        return found

    def _handle(self, shard: int) -> safe_open:
        if shard not in self._handles:
            self._handles[shard] = open_tensors(self._shards[shard].with_suffix(".safetensors"))
        return self._handles[shard]

    def names(self, shard: int = 0) -> list[str]:
        return sorted(self._handle(shard).keys())

    def tensor(self, shard: int, name: str) -> Tensor:
        """The mapped tensor `name` of a shard; nothing is read before its rows are."""
        if (shard, name) not in self._maps:
            if name not in self.names(shard):
                raise ValueError(f"{self._shards[shard].with_suffix('.safetensors')} holds {self.names(shard)}, not {name!r}")
            tensor = self._handle(shard).get_tensor(name)
            self._maps[shard, name] = tensor
            self._bytes[shard, name] = tensor.reshape(len(tensor), -1).view(torch.uint8).numpy()
        return self._maps[shard, name]

    def find(self, keys: Sequence[str]) -> list[tuple[int, int]]:
        try:
            return [self.place[key] for key in keys]
        except KeyError:
            missing = [key for key in keys if key not in self.place]
            raise KeyError(
                f"{len(missing)} of {len(keys)} {self._what} are not in the latent cache (it holds {len(self.place)}), "
                f"the first: {missing[0]!r}; the preferences changed after encoding: run `diffalign encode CONFIG --redo`"
            ) from None

    def gather(self, places: Sequence[tuple[int, int]], names: Sequence[str]) -> Tensor:
        """Rows (n, ...) of the tensor `names[i]` at `places[i]`, copied as bytes: indexing tensors would cost ten times as much."""
        first = self.tensor(places[0][0], names[0])
        rows = np.empty((len(places), first[0].nbytes), np.uint8)
        blocks = self._bytes
        for i, (shard, row) in enumerate(places):
            key = (shard, names[i])
            if key not in blocks or self._maps[key].shape[1:] != first.shape[1:]:
                self._require_same_shape(places, names)
            rows[i] = blocks[key][row]
        return torch.from_numpy(rows).view(first.dtype).reshape(len(places), *first.shape[1:])

    def _require_same_shape(self, places: Sequence[tuple[int, int]], names: Sequence[str]) -> None:
        shapes = Counter(tuple(self.tensor(shard, name).shape[1:]) for (shard, _), name in zip(places, names, strict=True))
        if len(shapes) > 1:
            raise ValueError(f"one batch asks for {self._what} of different shapes, {dict(shapes)}; batch by shape, or set encode.size")


class LatentCache:
    """A finished cache, opened for reading. Holds the index in memory and maps tensors on demand; safe to fork."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.description = read_cache_description(self.folder)
        self.dtype = DTYPES[self.description.dtype]
        self._latents = _Rows(self.folder, "candidate_id", "candidates")
        self._embeds = _Rows(self.folder / "embeds", "prompt", "prompts")
        self._conditions = _Rows(self.folder / "conditions", CONDITION, "conditions")
        self._condition_of = self._latents.said(CONDITION)
        self._covered = self._latents.said(COVERED)
        if not self._latents.place or not self._embeds.place:
            raise ValueError(f"the latent cache {self.folder} is empty; encode again with `diffalign encode CONFIG --redo`")

    def __len__(self) -> int:
        return len(self._latents.place)

    def __contains__(self, candidate_id: str) -> bool:
        return candidate_id in self._latents.place

    def latents(self, ids: Sequence[str], flipped: Sequence[bool] | None = None) -> Tensor:
        """Latents (n, C, *S) of the candidates in order, in the cache's dtype; of the mirrored image where `flipped` says so.

        KeyError for a candidate that was not encoded; ValueError for mixed shapes, or for flips that were not encoded.
        """
        if not ids:
            raise ValueError("latents of no candidate were asked for; give at least one candidate_id")
        names = ["latents"] * len(ids)
        if flipped is not None and any(flipped):
            if not self.description.flip:
                raise ValueError("mirrored latents were not encoded; set encode.flip=true and run `diffalign encode CONFIG --redo`")
            names = ["flipped" if flip else "latents" for flip in flipped]
        return self._latents.gather(self._latents.find(ids), names)

    def embeds(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each embedding key's rows (n, ...) for the prompts in order. KeyError for a prompt that was not encoded."""
        if not prompts:
            raise ValueError("embeds of no prompt were asked for; give at least one prompt")
        places = self._embeds.find(prompts)
        return {name: self._embeds.gather(places, [name] * len(places)) for name in self._embeds.names(places[0][0])}

    @property
    def conditioned(self) -> bool:
        """Whether prompts came with conditions."""
        return bool(self._condition_of)

    @property
    def reads_together(self) -> bool:
        """Whether each prompt was read together with its condition, so that `conditions` gives the embeds of both."""
        return any(map(is_read_with_prompt, self._condition_of.values()))

    def conditions(self, ids: Sequence[str], flipped: Sequence[bool], dropped: Sequence[bool],
                   unprompted: Sequence[bool] | None = None) -> dict[str, Tensor]:  # fmt: skip
        """Each embedding key's rows (n, ...) of the candidates' conditions in order; {} in a cache without.

        flipped     mirrored, as their latents
        dropped     what stands for no condition; where the cache has none of that, the family always has its condition
        unprompted  read together with the empty prompt, where they are with a prompt
        """
        if not self._condition_of:
            return {}
        keys = []
        for sample, flip, drop, is_unprompted in zip(ids, flipped, dropped, unprompted or [False] * len(ids), strict=True):
            own = unprompted_key(self._condition_of[sample]) if is_unprompted else self._condition_of[sample]
            is_dropped = drop and dropped_key(own) in self._conditions.place
            keys.append(dropped_key(own) if is_dropped else own + FLIPPED * flip)
        places = self._conditions.find(keys)
        return {name: self._conditions.gather(places, [name] * len(places)) for name in self._conditions.names(places[0][0])}

    def dropout_embeds(self) -> dict[str, Tensor]:
        """The empty prompt's embeds, each (1, ...)."""
        with open_tensors(self.folder / "embeds" / "dropout.safetensors") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}

    def shape(self, candidate_id: str) -> tuple[int, ...]:
        """(C, *S) of one candidate."""
        [(shard, _)] = self._latents.find([candidate_id])
        return tuple(self._latents.tensor(shard, "latents").shape[1:])

    def covered(self, candidate_id: str) -> float:
        """The share of the candidate's time, from its beginning, that its latents are of: below 1 where it was cut."""
        return self._covered.get(candidate_id, 1.0)

    def shapes(self) -> dict[tuple[int, ...], int]:
        """How many candidates have each latent shape (C, *S)."""
        per_shard = Counter(shard for shard, _ in self._latents.place.values())
        counts: Counter[tuple[int, ...]] = Counter()
        for shard, count in per_shard.items():
            counts[tuple(self._latents.tensor(shard, "latents").shape[1:])] += count
        return dict(counts)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    _write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _write_index(path: Path, key: str, values: Sequence[str], more: Mapping[str, Sequence[Any] | None] | None = None) -> None:
    """more: other columns, those that are None left out."""
    columns = {key: values, "row": range(len(values)), **{name: column for name, column in (more or {}).items() if column is not None}}
    types = {"row": pa.int32(), COVERED: pa.float64()}
    schema = pa.schema([pa.field(name, types.get(name, pa.string()), nullable=False) for name in columns])
    write_shard(path, [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)], schema)


def _write_bytes(path: Path, content: bytes) -> None:
    """The file appears whole or not at all: written beside its place, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
