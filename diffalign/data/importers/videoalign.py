"""VideoAlign's preferences (Liu et al. 2025, arXiv:2501.13918): CSV of pairs of videos judged on three aspects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

ASPECTS = ("VQ", "MQ", "TA")
PREFERRED = {"A": 1.0, "B": 0.0, "same": 0.5}  # → P(A preferred)


def videoalign(
    source: str,
    *,
    report: ImportReport,
    aspect: Literal["VQ", "MQ", "TA"] = "VQ",
    folder: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: the videos A and B, and which is better; "same" is a tie.

    source     the CSV, another table of these columns, or a hub id (`split`, `revision`: see sources.py)
    aspect     VQ (visual quality), MQ (motion quality) or TA (text alignment); it is the pair's context
    folder     subfolder beside the file that the paths are relative to, such as videos
    max_samples  stop after so many rows kept
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect is {aspect!r}; choose one of: {', '.join(ASPECTS)}")

    def judge(row: SourceRow) -> Pair:
        verdict = row.values[aspect]
        if not isinstance(verdict, str) or verdict not in PREFERRED:
            raise ValueError(f"{aspect} is {verdict!r}; it is one of: {', '.join(PREFERRED)}")
        first, second = (
            Side(
                row.values[f"path_{end}"],
                end,
                model=str(row.values.get(f"{end}_model") or ""),
                tags=tags_of(row.values, (f"fps_{end}", f"num_frames_{end}")),
                column=f"path_{end}",
            )
            for end in ("A", "B")
        )
        return Pair(row.values["prompt"], first, second, PREFERRED[verdict], said={"context": aspect})

    required = ("path_A", "path_B", "prompt", aspect)
    optional = ("A_model", "B_model", "fps_A", "num_frames_A", "fps_B", "num_frames_B")
    rows = stream_rows(source, required=required, optional=optional, split=split, revision=revision)
    return import_rows("videoalign", rows, judge, report, max_samples, folder)
