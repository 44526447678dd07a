"""CRPO, the preferences of TangoFlux (Hung et al. 2024, arXiv:2412.21037): JSON of captions, chosen and reject sounds."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows


def crpo(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two sounds, `chosen` preferred to `reject`; the duration (seconds) is a tag of both.

    source     JSON or JSONL, another table of these columns, or a hub id (`split` and `revision` are for it)
    folder     subfolder beside the file that the paths are relative to
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Pair:
        tags = tags_of(row.values, ("duration",))
        chosen, rejected = (Side(row.values[name], name, tags=tags) for name in ("chosen", "reject"))
        return Pair(row.values["captions"], chosen, rejected)

    required = ("captions", "chosen", "reject")
    rows = stream_rows(source, required=required, optional=("duration",), split=split, revision=revision)
    return import_rows("crpo", rows, judge, report, max_samples, folder)
