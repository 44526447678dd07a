"""Any table of chosen and rejected: CSV, TSV, JSON, JSONL, Parquet or a hub id, with its columns named in the settings.

Or a table that `diffalign export` wrote, of pairs, ranked lists or labelled samples, with all that it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffalign.data.conditions import CONDITION
from diffalign.data.exported import LAYOUTS, MEDIA_COLUMNS, OF_SAMPLES, SAID, facts_of, said_of
from diffalign.data.importers.fields import shown
from diffalign.data.importers.judged import Judged, Labelled, Pair, Ranking, Side, import_rows, number_of
from diffalign.data.importers.media import condition_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.modalities import Media
from diffalign.data.records import Kind

MEANING = "P(chosen preferred), a number in 0 … 1 (0.5 a tie)"


def table(
    source: str,
    *,
    report: ImportReport,
    prompt: str = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    label: str | None = None,
    condition: str | None = None,
    exported: bool = False,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two samples and their pair.

    source     a file (.csv .tsv .json .jsonl .parquet), a folder or glob of Parquet, or a hub id (`split`, `revision`: see sources.py)
    prompt, chosen, rejected   names of the columns. Media are bytes, {"bytes", "path"}, or a path relative to the file; a path that
               leaves its folder and a URL stop the import (PermissionError)
    label      column of P(chosen preferred) in 0 … 1, or None: chosen always is. 0.5 is a tie, below 0.5 the order is turned round; a
               value other than 0 and 1 is kept as win_probability (votes)
    condition  column of the image that each prompt came with, as media are, or None: there is none
    exported   the table is one of `diffalign export`: pairs, lists or labelled samples by its columns, everything as it was but the ids,
               one group per row; the settings of columns do not apply
    max_samples  stop after so many rows kept
    """
    if exported:
        yield from _exported(source, report, split, revision, max_samples)
        return
    columns = [prompt, chosen, rejected, *([label] if label else []), *([condition] if condition else [])]
    if len(set(columns)) < len(columns):
        raise ValueError(f"the columns {columns} are not distinct; name one column each for prompt, chosen, rejected, label, condition")

    def judge(row: SourceRow) -> Pair:
        columns = {"chosen": chosen, "rejected": rejected}
        image = None if condition is None else _condition(row, condition)
        first, second = (Side(row.values[name], side, tags={"side": side}, column=name, condition=image) for side, name in columns.items())
        return Pair(row.values[prompt], first, second, 1.0 if label is None else number_of(row.values, label, MEANING))

    advice = "Name your columns in the settings prompt, chosen, rejected, label, condition."
    rows = stream_rows(source, required=columns, split=split, revision=revision, advice=advice)
    yield from import_rows("table", rows, judge, report, max_samples)


def _exported(
    source: str, report: ImportReport, split: str | None, revision: str | None, max_samples: int | None
) -> Iterator[ImportedGroup]:
    media = tuple(name for names in MEDIA_COLUMNS.values() for name in names)
    required = ("prompt", media, *SAID, *OF_SAMPLES.names)
    optional = ("label", CONDITION)
    rows = stream_rows(source, required=required, optional=optional, split=split, revision=revision, advice="Or leave `exported` out.")
    return import_rows("table", rows, _as_exported, report, max_samples)


def _condition(row: SourceRow, column: str) -> Media:
    return condition_of(row.values[column], f"{row.where} {column}", row.folder)


def _as_exported(row: SourceRow) -> Judged:
    values = row.values
    condition = _condition(row, CONDITION) if values.get(CONDITION) is not None else None
    kind: Kind | None = next((kind for kind in LAYOUTS if all(name in values for name in MEDIA_COLUMNS[kind])), None)
    if kind is None:
        raise ValueError(f"it has no media; give the columns {' or '.join(' and '.join(names) for names in MEDIA_COLUMNS.values())}")
    media = values["samples"] if kind == "list" else [values[name] for name in MEDIA_COLUMNS[kind]]
    for name, given in (("samples", media), *((name, values[name]) for name in OF_SAMPLES.names)):
        if not isinstance(given, list) or len(given) != len(media):
            raise ValueError(f"{name} is {shown(given)}; it is a list with a value for each sample")
    sides = [_side(values, place, value, condition) for place, value in enumerate(media)]
    if kind == "list":
        return Ranking(values["prompt"], sides, range(len(sides)), said=said_of(values))
    if kind == "labelled":
        if values.get("label") not in (0, 1):
            raise ValueError(f"label is {shown(values.get('label'))}; it is 1 (wanted) or 0 (unwanted)")
        return Labelled(values["prompt"], sides[0], values["label"], said=said_of(values))
    return Pair(values["prompt"], sides[0], sides[1], said=said_of(values))


def _side(values: Mapping[str, Any], place: int, media: Any, condition: Media | None) -> Side:
    facts = facts_of(values, place)
    return Side(media, str(place), facts.pop("model"), facts.pop("tags"), facts=facts, condition=condition)
