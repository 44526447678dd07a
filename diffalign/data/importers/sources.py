"""Where the rows of a table come from: a file, a folder or glob of Parquet files, or a hub id through `datasets` (streaming):
owner/name, or owner/name:subset where a set has several.

The settings of importers that choose among the rows: `split` is of a hub's set (default train), and of local files that are named as a
hub's are, SPLIT-00000-of-00001.parquet, in folders inside too. Without it a folder with files of several splits is its train, and all other
sources are read whole. `revision` is of a hub's set alone. Where they cannot be obeyed they are refused.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.data.delimited import open_table
from diffalign.data.importers.json_list import json_items
from diffalign.data.shards import open_parquet, read_file

FETCH_AGAIN = "fetch it again, or check the path"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")  # owner/name:subset, of a set with several
Column = str | tuple[str, ...]  # a name, or several of which one is enough
SPLIT_FILE = re.compile(r"(?P<split>.+?)-\d+(-of-\d+)?(-\w+)?\.parquet")
SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class SourceRow:
    """A row, where it stands (for messages), and the folder its paths are relative to (None on a hub)."""

    values: Mapping[str, Any]
    where: str
    folder: Path | None


def stream_rows(
    source: str,
    *,
    required: Sequence[Column],
    optional: Sequence[str] | None = (),
    split: str | None = None,
    revision: str | None = None,
    advice: str = "",
) -> Iterator[SourceRow]:
    """Rows of `source`, a few at a time, with the required and those of the optional columns that exist (None: every column).

    required   names; of a tuple of names one is enough
    Raises FileNotFoundError where there is nothing, ValueError naming the missing columns with the expected ones (and `advice`), or for a
    split or revision that the source does not have.
    """
    wanted = None if optional is None else [*(name for entry in required for name in alternatives(entry)), *optional]
    paths = source_paths(source)
    if not paths:
        yield from _hub_rows(source, required, wanted, split or "train", revision, advice)
        return
    for path in _paths_of_split(source, paths, split, revision):
        for index, values in enumerate(_file_rows(path, required, wanted, advice)):
            yield SourceRow(values, f"{path.name} row {index}", path.parent)


def source_paths(source: str) -> list[Path]:
    """The files behind a source in sorted order; none for a hub id. FileNotFoundError where it is neither."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{source!r} has the suffix {path.suffix!r}; known are: {', '.join(SUFFIXES)}")
        return [path]
    if path.is_dir():
        paths = sorted(path.rglob("*.parquet"))
        if not paths:
            raise FileNotFoundError(f"folder {source!r} holds no .parquet file; name one file ({', '.join(SUFFIXES)}) or another folder")
        return paths
    if any(sign in source for sign in "*?["):
        paths = sorted(found for found in map(Path, glob.glob(str(path), recursive=True)) if found.is_file())  # noqa: PTH207 (absolute patterns)
        if not paths:
            raise FileNotFoundError(f"no file matches {source!r}; check the pattern")
        return paths
    if HUB_ID.fullmatch(source):
        return []
    raise FileNotFoundError(f"{source!r} is no file, folder, pattern or hub id (owner/name, or owner/name:subset); check the path")


def _paths_of_split(source: str, paths: Sequence[Path], split: str | None, revision: str | None) -> Sequence[Path]:
    if revision is not None:
        raise ValueError(f"revision {revision!r} is of a set on a hub, and {source!r} is on this machine; remove it")
    named = {path: match["split"] for path in paths if (match := SPLIT_FILE.fullmatch(path.name))}
    known = sorted(set(named.values()))
    if split is None and (len(known) < 2 or not Path(source).expanduser().is_dir()):
        return paths
    wanted = split or "train"
    chosen = [path for path in paths if named.get(path) == wanted]
    if not chosen:
        raise ValueError(
            f"{source!r} has no files of the split {wanted!r}, which are named {wanted}-00000.parquet and so on; its splits: "
            f"{', '.join(known) or 'none'}; set split to one of them, or name the files by a pattern, without split"
        )
    return chosen


def alternatives(entry: Column) -> tuple[str, ...]:
    """The names of a column, of which one is enough."""
    return (entry,) if isinstance(entry, str) else entry


def check_columns(found: Sequence[str], required: Sequence[Column], where: str, advice: str = "") -> None:
    """ValueError naming the missing columns, the expected and the found ones."""
    missing = [entry for entry in required if not set(alternatives(entry)) & set(found)]
    if missing:
        lacks, expected = (", ".join(" or ".join(alternatives(entry)) for entry in entries) for entries in (missing, required))
        raise ValueError(
            f"{where} lacks the columns {lacks}; expected {expected}, found {', '.join(map(str, found)) or 'none'}."
            f"{' ' + advice if advice else ''}"
        )


def _file_rows(path: Path, required: Sequence[Column], wanted: Sequence[str] | None, advice: str) -> Iterator[Mapping[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, required, wanted, advice)
    elif suffix in (".csv", ".tsv"):
        yield from csv_rows(path, required, advice, "\t" if suffix == ".tsv" else ",")
    else:
        for values in json_rows(path, lines=suffix == ".jsonl"):
            check_columns(list(values), required, repr(str(path)), advice)
            yield values


def _parquet_rows(path: Path, required: Sequence[Column], wanted: Sequence[str] | None, advice: str) -> Iterator[Mapping[str, Any]]:
    with open_parquet(path, fix=FETCH_AGAIN) as file:
        found = file.schema_arrow.names
    check_columns(found, required, repr(str(path)), advice)
    columns = found if wanted is None else [name for name in wanted if name in found]
    yield from read_file(path, columns, fix=FETCH_AGAIN)


def csv_rows(path: Path, required: Sequence[Column], advice: str, delimiter: str) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = open_table(file, delimiter)
            check_columns(reader.fieldnames or [], required, repr(str(path)), advice)
            yield from reader
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is no readable CSV in UTF-8 ({error}); save it again as UTF-8 CSV") from error


def json_rows(path: Path, *, lines: bool) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        try:
            values = (json.loads(line) for line in file if line.strip()) if lines else json_items(file)
            for number, row in enumerate(values, 1):  # noqa: B007 (the message below reads it)
                if not isinstance(row, dict):
                    raise TypeError(f"expected an object, got {type(row).__name__}")
                yield row
        except (ValueError, TypeError, RecursionError) as error:
            shape = "one JSON object per line" if lines else "a JSON list of objects"
            raise ValueError(f"{str(path)!r} after row {number}: {error}; it must be {shape}, in UTF-8") from error


def _hub_rows(
    source: str, required: Sequence[Column], wanted: Sequence[str] | None, split: str, revision: str | None, advice: str
) -> Iterator[SourceRow]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{source!r} is no local path; reading it from the hub needs: pip install 'diffalign[datasets]'") from error
    rows: Any = datasets.load_dataset(*source.split(":"), split=split, revision=revision, streaming=True)
    if rows.features is not None:
        check_columns(list(rows.features), required, repr(source), advice)
        for name, feature in rows.features.items():
            kinds = (datasets.Image, datasets.Audio, datasets.Video)
            inner: Any = getattr(feature, "feature", None)  # of a list
            if isinstance(feature, kinds):
                rows = rows.cast_column(name, type(feature)(decode=False))  # bytes, which our own checks then decode
            elif isinstance(inner, kinds):
                rows = rows.cast_column(name, datasets.Sequence(type(inner)(decode=False)))
        if wanted is not None:
            rows = rows.select_columns([name for name in wanted if name in rows.features])
    for index, values in enumerate(rows):
        if index == 0:
            check_columns(list(values), required, repr(source), advice)
        yield SourceRow(values, f"{source} row {index}", None)
