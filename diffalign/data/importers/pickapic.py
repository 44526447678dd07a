"""Pick-a-Pic v1 and v2 (Kirstain et al. 2023, arXiv:2305.01569), or any copy of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, check_columns, stream_rows

REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0")
OPTIONAL = (
    *("label_1", "has_label", "are_different", "best_image_uid", "image_0_uid", "image_1_uid", "model_0", "model_1"),
    *("ranking_id", "user_id", "created_at", "num_example_per_prompt"),
)
NO_URLS = "Copies without images (`_no_images`) cannot be used: their URLs give AccessDenied and are never fetched."


def pickapic(
    source: str,
    *,
    report: ImportReport,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
    where: Mapping[str, Any] | None = None,
) -> Iterator[ImportedGroup]:
    """One group per comparison: two images, and the pair (label_0 1: the first preferred, 0: the second, 0.5: a tie).

    source       folder, glob or file of Parquet, or a hub id (streamed with `datasets`; `split`, `revision`: see sources.py)
    max_samples  stop after so many comparisons kept
    where        row filter: column → allowed value or list of allowed values, such as {"model_0": ["sd21", "sdxl"]}
    Ties are kept with win_probability 0.5: the pairing setting `ties` decides. One click is no vote count, so others have None.
    """
    conditions = {name: allowed if isinstance(allowed, list | tuple) else [allowed] for name, allowed in (where or {}).items()}
    check_columns((*REQUIRED, *OPTIONAL), list(conditions), "the filter `where`: Pick-a-Pic")

    def judge(row: SourceRow) -> Pair | None:
        return _pair(row.values) if _wanted(row.values, conditions) else None

    rows = stream_rows(source, required=(*REQUIRED, *conditions), optional=OPTIONAL, split=split, revision=revision, advice=NO_URLS)
    return import_rows("pickapic", rows, judge, report, max_samples)


def _wanted(values: Mapping[str, Any], conditions: Mapping[str, Sequence[Any]]) -> bool:
    labelled = values.get("has_label") is not False
    return labelled and all(values[name] in allowed for name, allowed in conditions.items())


def _pair(values: Mapping[str, Any]) -> Pair:
    label = values["label_0"]
    if label not in (0, 0.5, 1):
        raise ValueError(f"label_0 is {label!r}; it is 1 (first preferred), 0 (second) or 0.5 (tie)")
    other = values.get("label_1")
    if other is not None and other != 1 - label:
        raise ValueError(f"label_0 {label} and label_1 {other} do not add up to 1")
    first, second = (
        Side(
            _bytes(values[f"jpg_{side}"]),
            side,
            model=values.get(f"model_{side}") or "",
            tags=tags_of(values, (f"image_{side}_uid", "ranking_id", "created_at")),
            column=f"jpg_{side}",
        )
        for side in ("0", "1")
    )
    user = values.get("user_id")
    return Pair(values["caption"], first, second, label, said={"user": None if user is None else str(user)})


def _bytes(value: Any) -> Any:
    """The bytes of a column, plain or in `datasets`' struct; a path beside them is ignored."""
    return value.get("bytes") if isinstance(value, dict) else value
