"""Prompts written by others: a file, a folder of one file per style, or a set on a hub, with tags and conditions where it has such."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffalign.data.modalities import Media

FILES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
PARTI = {"Prompt", "Category", "Challenge"}  # columns of PartiPrompts' tsv, beside Note
CONDITION = "condition"  # the column's usual name
OTHER = "where the column says something else, set prompts.condition=null"


@dataclass(frozen=True)
class Written:
    """A prompt as somebody wrote it, what is said of it, and the image that it came with."""

    text: str
    tags: Mapping[str, str] = field(default_factory=dict)
    condition: Media | None = None


Read = Iterator[Written]


@dataclass(frozen=True)
class Where:
    """Of which file or set a row is, and the folder its paths are relative to; None on a hub."""

    name: str
    folder: Path | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns are read.

    prompt   the text's; PartiPrompts' Prompt is meant by `prompt` too
    tags     kept as tags where they say something; None: of PartiPrompts Category and Challenge, else none
    condition  of an image for each prompt, a path or its bytes; `condition` may be missing, None: none is read
    """

    prompt: str = "prompt"
    tags: Sequence[str] | None = None
    condition: str | None = CONDITION

    def among(self, known: Sequence[str], where: str) -> Columns:
        """The columns by name. ValueError where there is none of that name."""
        is_parti = set(known) >= PARTI
        prompt = "Prompt" if is_parti and self.prompt == "prompt" and "prompt" not in known else self.prompt
        tags = self.tags if self.tags is not None else ("Category", "Challenge") if is_parti else ()
        condition = None if self.condition == CONDITION and CONDITION not in known else self.condition
        wanted = [("column", prompt), *(("tags", tag) for tag in tags), *([] if condition is None else [("condition", condition)])]
        for setting, name in wanted:
            if name not in known:
                has = ", ".join(map(str, known)) or "none"
                raise ValueError(f"{where} has no column {name!r}; it has: {has}; choose with prompts.{setting}")
        return Columns(prompt, tags, condition)

    def read(self, row: Mapping[str, Any], where: Where, number: int) -> Written:
        """A row, missing columns as null ones; `number` counts from 1.

        ValueError where the prompt is no text, the condition no image; FileNotFoundError.
        """
        tags = {name: str(row[name]) for name in self.tags or () if row.get(name) not in (None, "")}
        value = None if self.condition is None else row.get(self.condition)
        condition = None if value in (None, "") else _condition(value, where, number)
        return Written(_text(row.get(self.prompt), where.name, number), tags, condition)


def read_prompts(path: Path, columns: Columns) -> Read:
    """The prompts of a file by its ending, or of a folder's .json files, each named by its style.

    .txt     one on each line
    .jsonl   a string or an object on each line
    .json    a list of strings or of objects, or {style: list of strings}: the style is a tag
    .csv, .tsv, .parquet   a table; a TSV may be quoted or not
    FileNotFoundError; ValueError on what cannot be read, with the line or row.
    """
    path = path.expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"folder {str(path)!r} holds no .json of prompts, one for each style; name a file, or another folder")
        for file in files:
            for prompt in read_prompts(file, columns):
                yield replace(prompt, tags={"style": file.stem, **prompt.tags})
        return
    if not path.is_file():
        raise FileNotFoundError(f"prompt file {str(path)!r} does not exist or is not a file; check the path (it is read from {Path.cwd()})")
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, columns)
        return
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    match path.suffix.lower():
        case ".txt":
            for line in _lines(content):
                yield Written(line.strip())
        case ".jsonl":
            lines = enumerate(_lines(content), 1)
            values = [_parse(line, f"{path}, line {number}", "each line is an object or a string") for number, line in lines]
            yield from _read_values(values, columns, path)
        case ".json":
            yield from _read_json(content, columns, path)
        case suffix:
            yield from _read_csv(content, columns, path, "\t" if suffix == ".tsv" else ",")


def read_hub_prompts(source: str, columns: Columns, split: str, revision: str | None) -> Read:
    """The prompts of a set on a hub, streamed, its other columns left out. ValueError naming the columns that it lacks."""
    from diffalign.data.importers.sources import stream_rows

    prompt = ("prompt", "Prompt") if columns.prompt == "prompt" else (columns.prompt,)
    named = [*(columns.tags or ()), *([] if columns.condition in (None, CONDITION) else [columns.condition])]
    required = [prompt, *dict.fromkeys(name for name in named if name not in prompt)]
    may_be = [*sorted(PARTI), *([CONDITION] if columns.condition == CONDITION else [])]
    optional = [name for name in may_be if name not in (*prompt, *named)]
    advice = "Choose with prompts.column, prompts.tags and prompts.condition."
    rows = stream_rows(source, required=required, optional=optional, split=split, revision=revision, advice=advice)
    found: Columns | None = None
    for number, row in enumerate(rows, 1):
        found = found or columns.among(list(row.values), source)
        yield found.read(row.values, Where(source), number)


def _read_parquet(path: Path, columns: Columns) -> Read:
    from diffalign.data.shards import open_parquet, read_file

    fix = "check prompts.file, or write it again"
    with open_parquet(path, fix=fix) as file:
        found = columns.among(file.schema_arrow.names, str(path))
    names = [found.prompt, *(found.tags or ()), *([] if found.condition is None else [found.condition])]
    for number, row in enumerate(read_file(path, names, fix=fix), 1):
        yield found.read(row, Where(str(path), path.parent), number)


def _lines(content: str) -> list[str]:
    """The lines of a file; unlike str.splitlines, U+2028 and its like are part of a line."""
    *lines, last = re.split(r"\r?\n", content)
    return [*lines, last] if last else lines


def _read_csv(content: str, columns: Columns, path: Path, delimiter: str) -> Read:
    from diffalign.data.delimited import open_table

    try:
        table = open_table(StringIO(content, newline=""), delimiter)
        found = columns.among(list(table.fieldnames or ()), str(path))
        for number, row in enumerate(table, 1):
            yield found.read(row, Where(str(path), path.parent), number)
    except csv.Error as error:
        raise ValueError(f"{path} is not readable {'TSV' if delimiter == '	' else 'CSV'}: {error}") from None


def _read_json(content: str, columns: Columns, path: Path) -> Read:
    values = _parse(content, str(path), "it is a list of prompts, or {style: list of prompts}")
    styles = values if isinstance(values, dict) else {"": values}
    for style, prompts in styles.items():
        if not isinstance(prompts, list):
            raise ValueError(f"{path}: {style or 'it'} is {type(prompts).__name__}, not a list; give a list of prompts, or {{style: list}}")
    named = [style for style, prompts in styles.items() for _ in prompts]
    found = _read_values([value for prompts in styles.values() for value in prompts], columns, path)
    for style, prompt in zip(named, found, strict=True):
        yield replace(prompt, tags={"style": style, **prompt.tags}) if style else prompt


def _read_values(values: Sequence[Any], columns: Columns, path: Path) -> Read:
    """Prompts that are strings, or objects with columns: each has some of those that the file has."""
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        columns = columns.among(list(dict.fromkeys(name for value in objects for name in value)), str(path))
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield columns.read(value, Where(str(path), path.parent), number)
        else:
            yield Written(_text(value, str(path), number))


def _condition(value: Any, where: Where, number: int) -> Media:
    """The image of a row: bytes, {"bytes", "path"}, or a path inside the folder of the file. It is not decoded yet."""
    from diffalign.data.conditions import check_is_image
    from diffalign.data.importers.media import inside
    from diffalign.data.modalities.image import Image

    row = f"{where.name}, row {number}, condition"
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return check_is_image(Image.from_bytes(value, name=row), row)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{row} is {type(value).__name__}; give the path of an image, or its bytes; {OTHER}")
    path = inside(where.folder, value, row)
    if not path.is_file():
        raise FileNotFoundError(f"{row} is {value!r}, and there is no file {str(path)!r}; mend the path; {OTHER}")
    return check_is_image(Image.from_path(path), row)


def _parse(text: str, where: str, shape: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); {shape}") from None


def _text(value: Any, where: str, number: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}, row {number}: the prompt is {value!r}, not text")
    return value
