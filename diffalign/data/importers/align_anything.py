"""align-anything (Ji et al. 2024, arXiv:2412.15838), its subsets text-to-image, text-to-audio and text-to-video."""

from __future__ import annotations

from collections.abc import Iterator

from diffalign.data.importers.judged import Pair, import_rows, sides_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

VERDICTS = ("overall_image", "overall_audio", "overall_video")
PREFERRED = {"1": 1.0, "2": 0.0}  # → P(response_1 preferred)


def align_anything(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two responses, the one whose number overall_image, overall_audio or overall_video says preferred.

    source     Parquet (file, folder or glob), another table of these columns, or a hub id (`split` and `revision` are for it)
    folder     subfolder beside the file that the paths are relative to, where the responses are files
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Pair:
        name = next(name for name in VERDICTS if name in row.values)
        verdict = row.values[name]
        number = str(int(verdict)) if isinstance(verdict, float) and verdict.is_integer() else str(verdict)
        if number not in PREFERRED:
            raise ValueError(f"{name} is {verdict!r}; it is 1 or 2, the number of the preferred response")
        return Pair(row.values["prompt"], *sides_of(row.values, ("response_1", "response_2")), probability=PREFERRED[number])

    required = ("prompt", "response_1", "response_2", VERDICTS)
    rows = stream_rows(source, required=required, split=split, revision=revision)
    return import_rows("align_anything", rows, judge, report, max_samples, folder)
