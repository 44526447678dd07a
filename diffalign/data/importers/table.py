"""Any table of chosen and rejected: CSV, TSV, JSON, JSONL, Parquet or a hub id, with its columns named in the settings."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Pair, Side, import_rows, number_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

MEANING = "P(chosen preferred), a number in 0 … 1 (0.5 a tie)"


def table(
    source: str,
    *,
    report: ImportReport,
    prompt: str = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    label: str | None = None,
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two images and their pair.

    source     a file (.csv .tsv .json .jsonl .parquet), a folder or glob of Parquet, or a hub id
    prompt, chosen, rejected   names of the columns. Media are bytes, {"bytes", "path"}, or a path relative to the file; a path that
               leaves its folder and a URL stop the import (PermissionError)
    label      column of P(chosen preferred) in 0 … 1, or None: chosen always is. 0.5 is a tie, below 0.5 the order is turned round; a
               value other than 0 and 1 is kept as win_probability (votes)
    max_samples  stop after so many pairs kept
    """
    columns = [prompt, chosen, rejected, *([label] if label else [])]
    if len(set(columns)) < len(columns):
        raise ValueError(f"the columns {columns} are not distinct; name one column each for prompt, chosen, rejected and label")

    def judge(row: SourceRow) -> Pair:
        columns = {"chosen": chosen, "rejected": rejected}
        first, second = (Side(row.values[name], side, tags={"side": side}, column=name) for side, name in columns.items())
        return Pair(row.values[prompt], first, second, 1.0 if label is None else number_of(row.values, label, MEANING))

    advice = "Name your columns in the settings prompt, chosen, rejected, label."
    rows = stream_rows(source, required=columns, split=split, revision=revision, advice=advice)
    return import_rows("table", rows, judge, report, max_samples)
