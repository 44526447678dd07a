"""The prompts of a stage: drawn from a miniature world, read from a file, or written in the config."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipelines.config import Section
from reward_models.worlds import WORLDS, load_world

FILES = (".txt", ".jsonl", ".csv", ".parquet")


class Prompts(Section):
    """Where the prompts come from: exactly one of `world` (with count), `file` and `texts`."""

    world: str | None = None
    split: str = "train"
    seed: int | None = Field(default=None, ge=0)  # of the draw from a world; default: the run's seed
    file: Path | None = None
    column: str = "prompt"  # of .jsonl, .csv and .parquet
    texts: tuple[str, ...] | None = None
    count: int | None = Field(default=None, ge=1)  # from a world: how many; from a file: the first so many, default all

    @model_validator(mode="after")
    def _has_one_origin(self) -> Prompts:
        given = [name for name in ("world", "file", "texts") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of world, file and texts; got {' and '.join(given) or 'none of them'}")
        if self.world is not None and self.world not in WORLDS:
            raise ValueError(f"unknown world {self.world!r}; choose one of: {', '.join(WORLDS)}")
        if self.world is not None and self.count is None:
            raise ValueError("prompts from a world need a count, for example count: 256")
        if self.file is not None and self.file.suffix.lower() not in FILES:
            raise ValueError(f"cannot read prompts from {str(self.file)!r}; known endings: {', '.join(FILES)}")
        return self


@dataclass(frozen=True)
class Prompt:
    """A prompt of a run. Two equal texts are two prompts: group_id is place and text, not text alone."""

    group_id: str
    text: str
    tags: Mapping[str, str] = field(default_factory=dict)
    scene: str | None = None  # from a world: what it means, in the world's plainest words; other prompts may mean the same

    @property
    def cluster(self) -> str:
        """Prompts of one cluster mean the same, as far as is known: no new evidence, but more of the same."""
        return self.text if self.scene is None else self.scene


def load_prompts(prompts: Prompts, seed: int) -> list[Prompt]:
    """The prompts, in order; `seed` is the run's. FileNotFoundError; ValueError on no prompts, a blank one (which), or unreadable text."""
    scenes: Mapping[str, str] = {}
    if prompts.world is not None:
        drawn = load_world(prompts.world).prompts(prompts.split, prompts.count, seed if prompts.seed is None else prompts.seed)
        scenes = {prompt.text: prompt.scene for prompt in drawn}
        rows = [(prompt.text, {"task": prompt.task, "split": prompts.split}) for prompt in drawn]
        origin = f"the world {prompts.world!r}"
    elif prompts.file is not None:
        rows, origin = list(_read_file(prompts.file, prompts.column)), str(prompts.file)
    else:
        rows, origin = [(text, {}) for text in prompts.texts or ()], "prompts.texts"
    if prompts.count is not None:
        rows = rows[: prompts.count]
    if not rows:
        raise ValueError(f"{origin} holds no prompts; give at least one")
    for index, (text, _) in enumerate(rows):
        if not text.strip():
            raise ValueError(f"prompt {index + 1} of {origin} is blank; remove it or write what it should say")
    return [
        Prompt(f"{index:06d}-{sha256(text.encode()).hexdigest()[:8]}", text, tags, scenes.get(text))
        for index, (text, tags) in enumerate(rows)
    ]


def refuse_long_prompts(prompts: list[str], backbone: Any) -> None:
    """ValueError that names the prompts which the text encoder would cut."""
    long = [(text, count) for text in dict.fromkeys(prompts) if (count := backbone.token_count(text)) > backbone.token_limit]
    if long:
        shown = "; ".join(f"{text[:60]!r}{'…' if len(text) > 60 else ''} ({count} tokens)" for text, count in long[:3])
        raise ValueError(
            f"{len(long)} of {len(prompts)} prompts are longer than the {backbone.token_limit} tokens the text encoder takes: {shown}; "
            "shorten them, or allow the cut with long_prompts: truncate"
        )


def _read_file(path: Path, column: str) -> Iterator[tuple[str, dict[str, str]]]:
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"prompt file {str(path)!r} does not exist or is not a file; check the path (it is read from {Path.cwd()})")
    if path.suffix.lower() == ".parquet":
        from diffalign.data.shards import open_parquet, read_file

        fix = "check prompts.file, or write it again"
        with open_parquet(path, fix=fix) as file:
            _check_column(column, file.schema_arrow.names, path)
        for number, row in enumerate(read_file(path, [column], fix=fix), 1):
            yield _text(row[column], path, number), {}
        return
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    match path.suffix.lower():
        case ".txt":
            for line in _lines(content):
                yield line.strip(), {}
        case ".jsonl":
            for number, line in enumerate(_lines(content), 1):
                yield _text(_from_json(line, column, path, number), path, number), {}
        case _:
            yield from _read_csv(content, column, path)


def _lines(content: str) -> list[str]:
    """The lines of a file; unlike str.splitlines, U+2028 and its like are part of a line."""
    *lines, last = re.split(r"\r?\n", content)
    return [*lines, last] if last else lines


def _read_csv(content: str, column: str, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        table = csv.DictReader(StringIO(content, newline=""), strict=True)
        _check_column(column, list(table.fieldnames or ()), path)
        for number, row in enumerate(table, 1):
            yield _text(row[column], path, number), {}
    except csv.Error as error:
        raise ValueError(f"{path} is not readable CSV: {error}") from None


def _from_json(line: str, column: str, path: Path, number: int) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}, line {number}: not JSON ({error}); each line is an object like {{{column!r}: '…'}} or a string"
        ) from None
    if isinstance(row, dict):
        _check_column(column, list(row), path)
        return row[column]
    return row


def _check_column(column: str, known: list[str], path: Path) -> None:
    if column not in known:
        raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(map(str, known)) or 'none'}; choose with prompts.column")


def _text(value: Any, path: Path, number: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}, row {number}: the prompt is {value!r}, not text")
    return value
