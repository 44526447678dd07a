"""Parquet shards `shard-*.parquet`: written whole or not at all, read in order, and opened by `datasets` with media decoded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MEDIA_ROWS = 100  # rows per row group where there are media: what a reader holds at once
MAKE_AGAIN = "delete it and run its stage again, which makes missing shards"  # the fix for a damaged file of ours; a user's own has another


def write_shard(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, features: dict[str, dict[str, Any]] | None = None) -> None:
    """Write rows as one zstd Parquet file that appears complete or not at all (same folder, fsync, rename).

    features   column → `datasets` feature of the columns that are more than their Arrow type, such as {"media": Image.feature()};
               stored as the `huggingface` schema metadata, which makes `datasets.load_dataset("parquet", …)` decode them
    Raises ValueError on a column that the schema lacks, on a missing or null value of a column that may not be null, and on a wrong type.
    """
    path = Path(path)
    features = features or {}
    _check(rows, schema, path)
    if features:
        schema = schema.with_metadata({**(schema.metadata or {}), "huggingface": json.dumps({"info": {"features": features}})})
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"rows of {str(path)!r} do not fit their schema: {error}; expected {_describe(schema)}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                if table.num_rows:  # an empty row group is more than `datasets` can read; no row group is fine
                    writer.write_table(table, row_group_size=MEDIA_ROWS if features else None)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder in order of their number. FileNotFoundError where the folder or its shards are missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {str(folder)!r} does not exist; run the stage that writes it first")
    paths = sorted(folder.glob("shard-*.parquet"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise FileNotFoundError(f"folder {str(folder)!r} holds no shard-*.parquet; run the stage that writes it first")
    return paths


def read_rows(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a folder's shards in order, a row group at a time. `columns` reads only those (media stay on disk if left out)."""
    for path in shard_paths(folder):
        yield from read_file(path, columns)


def read_file(path: Path, columns: Sequence[str] | None = None, *, fix: str = MAKE_AGAIN) -> Iterator[dict[str, Any]]:
    """The rows of one Parquet file, streamed. ValueError on a file that is no Parquet (with the fix) or lacks a column."""
    with open_parquet(path, fix=fix) as file:
        known = file.schema_arrow.names
        for column in columns or ():
            if column not in known:
                raise ValueError(f"{str(path)!r} has no column {column!r}; it has: {', '.join(known)}")
        try:
            for batch in file.iter_batches(batch_size=MEDIA_ROWS, columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{str(path)!r} is damaged ({error}); {fix}") from error


def open_parquet(path: Path, *, fix: str = MAKE_AGAIN) -> pq.ParquetFile:
    """The open file. FileNotFoundError where there is none, ValueError with the fix where it is no Parquet."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist or is not a file; check the path")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{str(path)!r} is no readable Parquet file ({error}); {fix}") from error


def count_rows(folder: Path) -> int:
    """How many rows a folder's shards hold; reads footers only."""
    total = 0
    for path in shard_paths(folder):
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def _check(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    names, required = set(schema.names), [field.name for field in schema if not field.nullable]
    for index, row in enumerate(rows):
        # Arrow drops unknown keys silently and writes null into fields that forbid it; both would surface far from here.
        unknown = [name for name in row if name not in names]
        if unknown:
            raise ValueError(f"row {index} for {str(path)!r} has unknown columns {unknown}; the schema has: {', '.join(schema.names)}")
        missing = [name for name in required if row.get(name) is None]
        if missing:
            raise ValueError(f"row {index} for {str(path)!r} lacks {missing}, which may not be null")


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets folders be opened (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
