"""Human Preference Dataset v2 (Wu et al. 2023, arXiv:2306.09341): train.json holds pairs, test.json ranked lists of nine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffalign.data.importers.judged import Judged, Pair, Ranking, Side, import_rows
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

REQUIRED = ("prompt", ("file_path", "image_path"), ("human_preference", "rank"))
VERDICTS: dict[tuple[int, ...], float] = {(1, 0): 1.0, (0, 1): 0.0, (0, 0): 0.5, (1, 1): 0.5}  # human_preference → P(first preferred)


def hpdv2(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    pairs: bool = False,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two images and their pair (human_preference), or n images and their ranking (rank, lower is better).

    source     train.json or test.json, a copy of their columns in any table, or a hub id (`split`, `revision`: see sources.py)
    folder     subfolder beside the file that the paths are relative to, such as train
    pairs      every two images of a ranking as a pair, instead of one list with win shares as scores
    max_samples  stop after so many rows kept
    """

    def judge(row: SourceRow) -> Judged:
        images = row.values.get("file_path") or row.values.get("image_path")
        if not isinstance(images, list):
            raise ValueError(f"file_path and image_path give {images!r}; one of them is a list of the images")
        sides = [Side(image, str(place), column=f"image {place}") for place, image in enumerate(images)]
        if row.values.get("rank") is not None:
            return Ranking(row.values["prompt"], sides, row.values["rank"], pairs)
        return _pair(row.values, sides)

    rows = stream_rows(source, required=REQUIRED, split=split, revision=revision)
    return import_rows("hpdv2", rows, judge, report, max_samples, folder)


def _pair(values: Mapping[str, Any], sides: Sequence[Side]) -> Pair:
    said = values.get("human_preference")
    probability = next((value for verdict, value in VERDICTS.items() if said == list(verdict)), None)
    if probability is None or len(sides) != 2:
        raise ValueError(f"human_preference is {said!r} for {len(sides)} images; it is 0 or 1 for each of two (equal: a tie)")
    return Pair(values["prompt"], sides[0], sides[1], probability)
