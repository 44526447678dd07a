"""Any table of chosen and rejected: CSV, TSV, JSON, JSONL, Parquet or a hub id, with its columns named in the settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from diffalign.data.importers.media import media_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import stream_rows
from diffalign.data.records import Candidate, Preference


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
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; give 1 or more, or null for all")
    advice = "Name your columns in the settings prompt, chosen, rejected, label."
    for row in stream_rows(source, required=columns, split=split, revision=revision, advice=advice):
        if max_samples is not None and report.kept >= max_samples:
            return
        group_id = f"table-{report.read:07d}"
        report.read += 1
        text = row.values[prompt]
        if not isinstance(text, str) or not text.strip():
            report.skipped += 1
            continue
        try:
            probability = 1.0 if label is None else _probability(row.values, label)
            media = [media_of(row.values[name], f"{row.where} {name}", row.folder) for name in (chosen, rejected)]
        except (ValueError, FileNotFoundError) as error:
            report.count_broken(row.where, error)
            continue
        candidates = tuple(
            Candidate(f"{group_id}-{side}", group_id, text, image, tags={"side": side})
            for side, image in zip(("chosen", "rejected"), media, strict=True)
        )
        first, second = candidates if probability >= 0.5 else candidates[::-1]
        preference = Preference(
            group_id=group_id,
            prompt=text,
            samples=(first.candidate_id, second.candidate_id),
            win_probability=None if probability in (0, 1) else max(probability, 1 - probability),
            source="table",
        )
        yield report.count_kept(ImportedGroup(group_id, text, candidates, (preference,)))


def _probability(values: Mapping[str, Any], label: str) -> float:
    try:
        probability = float(values[label])
    except (TypeError, ValueError):
        probability = math.nan
    if not 0 <= probability <= 1:
        raise ValueError(f"{label} is {values[label]!r}; it is P(chosen preferred), a number in 0 … 1 (0.5 a tie)")
    return probability
