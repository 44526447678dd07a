"""VideoDPO's pairs (Liu et al. 2024, arXiv:2412.14167): video1 preferred to video2, with the score of the pair."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows


def videodpo(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two videos, the first preferred. `score`, whose meaning the set leaves open, is a tag of both.

    source     the JSON, another table of these columns, or a hub id (`split` and `revision` are for it)
    folder     subfolder beside the file that the paths are relative to
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Pair:
        tags = tags_of(row.values, ("score",))
        first, second = (Side(row.values[name], name, tags=tags) for name in ("video1", "video2"))
        return Pair(row.values["frame_caption"], first, second)

    required = ("video1", "video2", "frame_caption")
    rows = stream_rows(source, required=required, optional=("score",), split=split, revision=revision)
    return import_rows("videodpo", rows, judge, report, max_samples, folder)
