"""ImageRewardDB (Xu et al. 2023, arXiv:2304.05977): one row per image, ranked among those of its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from diffalign.data.importers.judged import Ranking, Side, import_rows, number_of, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows

REQUIRED = ("prompt_id", "prompt", ("image", "image_path"), "image_amount_in_total", "rank")
TAGS = ("prompt_id", "classification", "overall_rating", "image_text_alignment_rating", "fidelity_rating")
LOADED = "Its loading script is nothing that `datasets` runs any more: take the JSON or the Parquet."


def imagerewarddb(
    source: str,
    *,
    report: ImportReport,
    folder: str | None = None,
    pairs: bool = False,
    split: str | None = None,
    revision: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per prompt_id: its images and their ranking (rank 1 is best; equal ranks are ties). Rows are counted by prompt.

    source     JSON, Parquet (file, folder or glob), another table of these columns, or a hub id (`split`, `revision`: see sources.py)
    folder     subfolder beside the file that the paths are relative to
    pairs      every two images of a prompt as a pair, instead of one list with win shares as scores
    max_samples  stop after so many prompts kept
    A prompt waits in memory until it has image_amount_in_total rows; one that is left incomplete at the end is taken as it is.
    """

    def judge(row: SourceRow) -> Ranking:
        members: Sequence[SourceRow] = row.values["members"]
        sides = [
            Side(member.values.get("image") or member.values.get("image_path"), str(place), tags=tags_of(member.values, TAGS))
            for place, member in enumerate(members)
        ]
        ranks = [number_of(member.values, "rank", "1 for the best, and so on") for member in members]
        return Ranking(members[0].values["prompt"], sides, ranks, pairs)

    optional = [name for name in TAGS if name not in REQUIRED]
    rows = stream_rows(source, required=REQUIRED, optional=optional, split=split, revision=revision, advice=LOADED)
    return import_rows("imagerewarddb", _by_prompt(rows), judge, report, max_samples, folder)


def _by_prompt(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """Rows {"members": the rows of a prompt_id}, each as soon as it is complete."""
    waiting: dict[str, list[SourceRow]] = {}
    for row in rows:
        members = waiting.setdefault(str(row.values["prompt_id"]), [])
        members.append(row)
        if len(members) == _amount(row.values["image_amount_in_total"]):
            yield _joined(waiting.pop(str(row.values["prompt_id"])))
    yield from map(_joined, waiting.values())


def _amount(value: Any) -> float | None:
    """A number, however the column has it; None for anything else, whose prompt is left incomplete."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _joined(members: list[SourceRow]) -> SourceRow:
    where = f"{members[0].where}, prompt_id {members[0].values['prompt_id']!r}"
    return SourceRow({"members": members}, where, members[0].folder)
