"""Rapidata's pairs of text-to-image models: votes of many people, weighted, for three aspects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from diffalign.data.importers.judged import Pair, import_rows, number_of, sides_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

ASPECTS = {"overall": "preference", "alignment": "alignment", "coherence": "coherence"}  # setting → end of the columns


def rapidata(
    source: str,
    *,
    report: ImportReport,
    aspect: Literal["overall", "alignment", "coherence"] = "overall",
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two images, and the share of the weighted votes as win_probability of the better one.

    source     Parquet (file, folder or glob), another table of these columns, or a hub id (`split`, `revision`: see sources.py)
    aspect     overall (columns weighted_results_image*_preference), alignment or coherence; a row without votes on it is skipped
    max_samples  stop after so many rows kept
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect is {aspect!r}; choose one of: {', '.join(ASPECTS)}")
    votes = [f"weighted_results_image{side}_{ASPECTS[aspect]}" for side in (1, 2)]

    def judge(row: SourceRow) -> Pair | None:
        if any(row.values[name] is None for name in votes):
            return None
        first, second = (number_of(row.values, name, "a share of the votes") for name in votes)
        if first < 0 or second < 0 or first + second == 0:
            raise ValueError(f"{' and '.join(votes)} are {first} and {second}; they are shares of the votes, and not both 0")
        sides = sides_of(row.values, ("image1", "image2"), ("model1", "model2"))
        return Pair(row.values["prompt"], *sides, probability=first / (first + second), votes=True, said={"context": aspect})

    required = ("prompt", "image1", "image2", *votes)
    rows = stream_rows(source, required=required, optional=("model1", "model2"), split=split, revision=revision)
    return import_rows("rapidata", rows, judge, report, max_samples)
