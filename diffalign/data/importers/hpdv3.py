"""Human Preference Dataset v3, HPDv3 and HPDv3++ (Ma et al. 2025, arXiv:2508.03789): JSON of pairs, path1 preferred."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from diffalign.data.importers.fields import is_number
from diffalign.data.importers.judged import Pair, import_rows, number_of, sides_of, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

REQUIRED = ("prompt", "path1", "path2")
OPTIONAL = ("model1", "model2", "confidence", "choice_dist", "source")


def hpdv3(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    probability: Literal["confidence", "choice_dist"] | None = None,
    minimum_confidence: float | None = None,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: two images, the first preferred.

    source       the JSON, a copy of its columns in any table, or a hub id (`split`, `revision`: see sources.py)
    folder       subfolder beside the file that the paths are relative to
    probability  column that says P(path1 preferred): confidence, or choice_dist, the two counts of votes, whose larger one is path1's
                 wherever it stands, as the release reads it. None: the order alone. A confidence below ½ turns the pair round
    minimum_confidence  rows below it are skipped, and rows without one
    max_samples  stop after so many rows kept
    """
    if probability not in (None, "confidence", "choice_dist"):
        raise ValueError(f"probability is {probability!r}; choose confidence, choice_dist, or null")

    def judge(row: SourceRow) -> Pair | None:
        values = row.values
        if minimum_confidence is not None and (values.get("confidence") is None or number_of(values, "confidence") < minimum_confidence):
            return None
        odds = 1.0
        if probability == "confidence":
            odds = number_of(values, "confidence", "P(path1 preferred), a number in 0 … 1")
        elif probability == "choice_dist":
            odds = _share(values.get("choice_dist"))
        first, second = sides_of(values, ("path1", "path2"), ("model1", "model2"))
        context = tags_of(values, ("source",)).get("source")
        return Pair(values["prompt"], first, second, odds, votes=probability is not None, said={"context": context})

    rows = stream_rows(source, required=REQUIRED, optional=OPTIONAL, split=split, revision=revision)
    return import_rows("hpdv3", rows, judge, report, max_samples, folder)


def _share(votes: object) -> float:
    if not isinstance(votes, list | tuple) or len(votes) != 2 or not all(is_number(vote) and vote >= 0 for vote in votes):
        raise ValueError(f"choice_dist is {votes!r}; it is two counts of votes")
    if not sum(votes):
        raise ValueError(f"choice_dist is {votes!r}: nobody voted")
    return max(votes) / sum(votes)
