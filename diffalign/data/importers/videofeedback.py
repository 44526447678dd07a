"""VideoFeedback, the training set of VideoScore (He et al. 2024, arXiv:2406.15252): single videos with five scores from 1 to 4."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Labelled, Side, import_rows, number_of, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

ASPECTS = ("visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency")


def videofeedback(
    source: str,
    *,
    report: ImportReport,
    aspect: str | None = None,
    threshold: float = 2.5,
    folder: str | None = None,
    suffix: str = ".mp4",
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: a video, its score, and label 1 where the score is at or above the threshold. Nothing here compares two videos,
    so the rows are unpaired (kind "labelled"); all scores are tags of the video.

    source     JSON, Parquet (file, folder or glob) or another table of these columns
    aspect     one of ASPECTS; None: the mean of those that a row has
    threshold  1 … 4; the middle by default
    folder, suffix   the video of a row is folder/ID+suffix beside the file, for ID the column `id`; `video link` is never fetched
    max_samples  stop after so many rows kept
    """
    if aspect is not None and aspect not in ASPECTS:
        raise ValueError(f"aspect is {aspect!r}; choose one of: {', '.join(ASPECTS)}, or null for their mean")

    def judge(row: SourceRow) -> Labelled:
        names = [aspect] if aspect else [name for name in ASPECTS if row.values.get(name) is not None]
        if not names:
            raise ValueError(f"no score; a row has some of: {', '.join(ASPECTS)}")
        score = sum(number_of(row.values, name, "a score from 1 to 4") for name in names) / len(names)
        name = str(row.values["id"])
        video = Side(name if name.endswith(suffix) else name + suffix, "0", tags=tags_of(row.values, ASPECTS), column="id")
        return Labelled(row.values["text prompt"], video, int(score >= threshold), score)

    required = ("id", "text prompt", aspect or ASPECTS)
    rows = stream_rows(source, required=required, optional=ASPECTS, split=split, revision=revision)
    return import_rows("videofeedback", rows, judge, report, max_samples, folder)
