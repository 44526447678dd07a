"""Pick-a-Pic v1 and v2 (Kirstain et al. 2023, arXiv:2305.01569), or any copy of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffalign.data.importers.media import media_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import check_columns, stream_rows
from diffalign.data.records import Candidate, Preference

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
    split: str = "train",
    revision: str | None = None,
    max_samples: int | None = None,
    where: Mapping[str, Any] | None = None,
) -> Iterator[ImportedGroup]:
    """One group per comparison: two images, and the pair (label_0 1: the first preferred, 0: the second, 0.5: a tie).

    source       folder, glob or file of Parquet, or a hub id (streamed with `datasets`; `split` and `revision` are for it)
    max_samples  stop after so many comparisons kept
    where        row filter: column → allowed value or list of allowed values, such as {"model_0": ["sd21", "sdxl"]}
    Ties are kept with win_probability 0.5: the pairing setting `ties` decides. One click is no vote count, so others have None.
    """
    conditions = {name: allowed if isinstance(allowed, list | tuple) else [allowed] for name, allowed in (where or {}).items()}
    check_columns((*REQUIRED, *OPTIONAL), list(conditions), "the filter `where`: Pick-a-Pic")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; give 1 or more, or null for all")
    for row in stream_rows(source, required=(*REQUIRED, *conditions), optional=OPTIONAL, split=split, revision=revision, advice=NO_URLS):
        if max_samples is not None and report.kept >= max_samples:
            return
        values, number = row.values, report.read
        report.read += 1
        if not _wanted(values, conditions):
            report.skipped += 1
            continue
        try:
            group = _group(values, f"pickapic-{number:07d}", row.where)
        except ValueError as error:
            report.count_broken(row.where, error)
            continue
        yield report.count_kept(group)


def _wanted(values: Mapping[str, Any], conditions: Mapping[str, Sequence[Any]]) -> bool:
    labelled = values.get("has_label") is not False
    return labelled and bool((values["caption"] or "").strip()) and all(values[name] in allowed for name, allowed in conditions.items())


def _group(values: Mapping[str, Any], group_id: str, where: str) -> ImportedGroup:
    label = values["label_0"]
    if label not in (0, 0.5, 1):
        raise ValueError(f"label_0 is {label!r}; it is 1 (first preferred), 0 (second) or 0.5 (tie)")
    other = values.get("label_1")
    if other is not None and other != 1 - label:
        raise ValueError(f"label_0 {label} and label_1 {other} do not add up to 1")
    candidates = tuple(
        Candidate(
            candidate_id=f"{group_id}-{side}",
            group_id=group_id,
            prompt=values["caption"],
            media=media_of(_bytes(values[f"jpg_{side}"]), f"{where} jpg_{side}"),
            model=values.get(f"model_{side}") or "",
            tags={name: str(values[name]) for name in (f"image_{side}_uid", "ranking_id", "created_at") if values.get(name) is not None},
        )
        for side in (0, 1)
    )
    first, second = (1, 0) if label == 0 else (0, 1)
    user = values.get("user_id")
    preference = Preference(
        group_id=group_id,
        prompt=values["caption"],
        samples=(candidates[first].candidate_id, candidates[second].candidate_id),
        win_probability=0.5 if label == 0.5 else None,
        source="pickapic",
        user=None if user is None else str(user),
    )
    return ImportedGroup(group_id, values["caption"], candidates, (preference,))


def _bytes(value: Any) -> Any:
    """The bytes of a column, plain or in `datasets`' struct; a path beside them is ignored."""
    return value.get("bytes") if isinstance(value, dict) else value
