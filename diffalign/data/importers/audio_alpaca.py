"""Audio-Alpaca (Majumder et al. 2024, Tango 2, arXiv:2404.09956): chosen and rejected sounds, and how the rejected one was made."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.records import STRATEGY  # the public column has this name


def audio_alpaca(
    source: str,
    *,
    report: ImportReport,
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two sounds, the chosen one preferred; `strategy` is the pair's context and a tag of the rejected sound.

    source     Parquet (file, folder or glob), another table of these columns, or a hub id (`split` and `revision` are for it)
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Pair:
        tags = tags_of(row.values, (STRATEGY,))
        rejected = Side(row.values["rejected"], "rejected", tags=tags)
        return Pair(row.values["prompt"], Side(row.values["chosen"], "chosen"), rejected, said={"context": tags.get(STRATEGY)})

    required = ("prompt", "chosen", "rejected")
    rows = stream_rows(source, required=required, optional=(STRATEGY,), split=split, revision=revision)
    return import_rows("audio_alpaca", rows, judge, report, max_samples)
