"""Any table of chosen and rejected: CSV, TSV, JSON, JSONL, Parquet or a hub id, with its columns named in the settings.

Or a table that `diffalign export` wrote, of pairs, ranked lists or labelled samples, with all that it says.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.exported import exported_groups
from diffalign.data.importers.judged import Pair, Side, import_rows, number_of
from diffalign.data.importers.media import condition_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.modalities import Media

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
    exported   the table is one of `diffalign export`: pairs, lists or labelled samples by its columns, everything as it was, also groups
               and ids; the settings of columns do not apply
    max_samples  stop after so many rows, or exported groups, kept
    """
    if exported:
        yield from exported_groups(source, report, split, revision, max_samples)
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


def _condition(row: SourceRow, column: str) -> Media:
    return condition_of(row.values[column], f"{row.where} {column}", row.folder)
