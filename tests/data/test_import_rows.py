"""What a row may say, and what becomes of it: soft votes and ties either way round, and values that no column holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_media import png

from diffalign.data.exported import layout_row
from diffalign.data.importers import ImportedGroup, ImportReport, build_import
from diffalign.data.modalities.image import Image
from diffalign.data.records import Candidate, Preference


def read(name: str, source: Path, **settings: Any) -> tuple[list[ImportedGroup], ImportReport]:
    imported = build_import(name, str(source), **settings)
    return list(imported.groups), imported.report


def records(folder: Path, *rows: dict[str, Any]) -> Path:
    """Rows with a prompt, the pictures 0.png and 1.png, and what they say beside it."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    media = [{"path": f"{number}.png"} for number in range(2)]
    path = folder / "own.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "p", "candidates": media, "preferences": []} | row) for row in rows))
    return path


def exported(folder: Path, **said: Any) -> Path:
    """A pair of 0.png and 1.png as `diffalign export` writes it, but as JSON, with paths."""
    candidates = [Candidate(f"c{number}", "g", "p", Image.from_bytes(png(number)), seed=number) for number in range(2)]
    row = layout_row(Preference("g", "p", ("c0", "c1"), source="s"), candidates)
    for number, column in enumerate(("chosen", "rejected")):
        (folder / f"{number}.png").write_bytes(png(number))
        row[column] = f"{number}.png"
    path = folder / "pairs.json"
    path.write_text(json.dumps([row | said]))
    return path


def told(group: ImportedGroup) -> tuple[Any, ...]:
    """Of its one preference: the places of its samples, P(first preferred), scores and segments."""
    [row] = group.preferences
    place = {candidate.candidate_id: number for number, candidate in enumerate(group.candidates)}
    return [place[sample] for sample in row.samples], row.win_probability, row.scores, row.segment_labels


SOFT = [
    (0.1, [1, 0], 0.9, -1),
    (0.5, [0, 1], 0.5, 1),
    (0.75, [0, 1], 0.75, 1),
    (0, [1, 0], 1.0, -1),
    (1, [0, 1], 1.0, 1),
    (None, [0, 1], None, 1),
]


@pytest.mark.parametrize(("given", "order", "probability", "sign"), SOFT)
def test_of_soft_votes_the_likelier_sample_is_the_chosen_one(
    given: float | None, order: list[int], probability: float | None, sign: int, tmp_path: Path
) -> None:
    """In both importers that read the columns of a preference as they stand; scores and spans turn with the samples."""
    expected = (order, probability, (2.0, 3.0)[::sign], (sign, -sign, 0))
    said = {"scores": [2.0, 3.0], "segment_labels": [1, -1, 0]}
    row = {"preferences": [{"type": "segments", "order": [0, 1], "probability": given, **said}]}
    assert told(read("records", records(tmp_path, row))[0][0]) == expected
    assert told(read("table", exported(tmp_path, win_probability=given, **said), exported=True)[0][0]) == expected


@pytest.mark.parametrize("kind", ["pair", "segments"])
def test_a_nested_order_is_a_tie_of_a_pair_too(kind: str, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = [{"order": [[0, 1]]}, {"order": [[1, 0]], "probability": 0.5}, {"order": [[0, 1]], "probability": 0.9}]
    groups, report = read("records", records(tmp_path, *({"preferences": [{"type": kind, **each}]} for each in said)))
    assert [told(group)[:2] for group in groups] == [([0, 1], 0.5), ([1, 0], 0.5)]
    assert (report.tied, report.broken) == (2, 1) and "order is [[0, 1]], a tie, and probability 0.9, which is none" in report.reasons[0]
