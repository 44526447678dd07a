"""VisionRewardDB-Image and -Video (Xu et al. 2024, arXiv:2412.21059): single media with a checklist, or pairs of videos with an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from diffalign.data.importers.judged import Judged, Labelled, Pair, Side, import_rows, number_of, sides_of, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

REQUIRED = ("prompt", ("image", "video_path", "video1_path"), ("annotation", "standard_answer"))
OPTIONAL = ("internal_id", "meta_result", "meta_mask", "video2_path")
ANSWERS = {"1": 1.0, "video1": 1.0, "2": 0.0, "video2": 0.0, "tie": 0.5, "same": 0.5}  # → P(the first preferred)


def vision_reward(
    source: str,
    *,
    report: ImportReport,
    aspect: str | None = None,
    threshold: float = 0.5,
    folder: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row. Rows with `annotation` judge one image or video: they become unpaired rows (kind "labelled") with a score and
    label 1 at or above the threshold. Rows with `standard_answer` compare video1_path and video2_path: they become pairs.

    source     Parquet (file, folder or glob), another table of these columns, or a hub id (`split`, `revision`: see sources.py)
    aspect     a dimension of `annotation`, whose value is the score; None: the share of the questions asked (meta_mask above 0) that
               are answered yes (meta_result above 0)
    threshold  of that score
    folder     subfolder beside the file that the paths are relative to
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Judged:
        values, tags = row.values, tags_of(row.values, ("internal_id",))
        if values.get("standard_answer") is not None:
            answer = str(values["standard_answer"]).strip().lower()
            if answer not in ANSWERS:
                raise ValueError(f"standard_answer is {values['standard_answer']!r}; it is one of: {', '.join(ANSWERS)}")
            return Pair(values["prompt"], *sides_of(values, ("video1_path", "video2_path")), probability=ANSWERS[answer])
        column = "image" if values.get("image") is not None else "video_path"
        score = _yes_share(values) if aspect is None else number_of(_annotation(values), aspect, "a number of `annotation`")
        return Labelled(values["prompt"], Side(values.get(column), "0", tags=tags, column=column), int(score >= threshold), score)

    rows = stream_rows(source, required=REQUIRED, optional=OPTIONAL, split=split, revision=revision)
    return import_rows("vision_reward", rows, judge, report, max_samples, folder)


def _annotation(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found = values.get("annotation")
    if not isinstance(found, Mapping):
        raise ValueError(f"annotation is {found!r}; it is a score for each dimension")
    return found


def _yes_share(values: Mapping[str, Any]) -> float:
    answers, asked = _flat(values.get("meta_result")), _flat(values.get("meta_mask"))
    if len(answers) != len(asked) or not any(mask > 0 for mask in asked):
        raise ValueError(
            f"meta_result has {len(answers)} answers, meta_mask {len(asked)} marks; give as many, one above 0, or set `aspect`"
        )
    return fmean(float(answer > 0) for answer, mask in zip(answers, asked, strict=True) if mask > 0)


def _flat(values: Any) -> list[float]:
    """Numbers in lists of any depth, in their order."""
    if isinstance(values, list):
        return [number for value in values for number in _flat(value)]
    return [values] if isinstance(values, int | float) else []
