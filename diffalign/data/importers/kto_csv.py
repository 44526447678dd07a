"""Diffusion-KTO's processed Pick-a-Pic (Li et al. 2024, arXiv:2404.04465): a CSV of single images with a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from diffalign.data.importers.judged import Labelled, Side, import_rows
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

LABELS = {"exclusive_win": 1, "exclusive_lose": 0, "intersection": None}


def kto_csv(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    intersection: Literal["skip", "wanted", "unwanted"] = "skip",
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per row: an image and its label, 1 for exclusive_win, 0 for exclusive_lose.

    source     the CSV, another table of these columns, or a hub id (`split`, `revision`: see sources.py)
    folder     subfolder beside the file that the paths are relative to, such as train
    intersection   what to do with images that won here and lost there: skip them, or count them as wanted or unwanted
    max_samples  stop after so many rows kept
    """
    mixed = {"skip": None, "wanted": 1, "unwanted": 0}
    if intersection not in mixed:
        raise ValueError(f"intersection is {intersection!r}; choose one of: {', '.join(mixed)}")
    labels = LABELS | {"intersection": mixed[intersection]}

    def judge(row: SourceRow) -> Labelled | None:
        word = row.values["label"]
        if not isinstance(word, str) or word not in labels:
            raise ValueError(f"label is {word!r}; it is one of: {', '.join(labels)}")
        label = labels[word]
        return None if label is None else Labelled(row.values["caption"], Side(row.values["file_path"], "0", tags={"label": word}), label)

    rows = stream_rows(source, required=("file_path", "caption", "label"), split=split, revision=revision)
    return import_rows("kto_csv", rows, judge, report, max_samples, folder)
