"""What a row may say, and what becomes of it: soft votes and ties either way round, and values that no column holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_media import mp4, png

from diffalign.data.exported import layout_row
from diffalign.data.importers import ImportedGroup, ImportReport, build_import
from diffalign.data.modalities.image import Image
from diffalign.data.records import (
    KINDS,
    Candidate,
    Kind,
    Preference,
    read_candidates,
    read_preferences,
    write_candidates,
    write_preferences,
)


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


def exported_row(kind: Kind = "pair") -> dict[str, Any]:
    """A preference of 0.png and 1.png as `diffalign export` writes it, but with paths."""
    media: dict[str, Any] = {"pair": {"chosen": "0.png", "rejected": "1.png"}, "list": {"samples": ["0.png", "1.png"]}}.get(
        kind, {"media": "0.png"}
    )
    candidates = [Candidate(f"c{number}", "g", "p", Image.from_bytes(png(number)), "m", number) for number in range(2)]
    ids, labels = (("c0",), (1,)) if kind == "labelled" else (("c0", "c1"), None)
    return layout_row(Preference("g", "p", ids, kind, labels, source="s"), candidates[: len(ids)]) | media


def exported(folder: Path, **said: Any) -> Path:
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    path = folder / "pairs.json"
    path.write_text(json.dumps([exported_row() | said]))
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


HALF = "a \ud800 fox"
SCORES = {"visual quality": 4, "temporal consistency": 3, "dynamic degree": 3, "text-to-video alignment": 2, "factual consistency": 1}
PAIR = {"chosen": "0.png", "rejected": "1.png"}
SAMPLES = [
    {
        "path": f"{number}.png", "id": f"c{number}", "model": "m", "seed": number, "steps": 5, "guidance": 2.5, "negative_prompt": "n",
        "parent": "c", "tags": {"a": "b"},
    }
    for number in range(2)
]  # fmt: skip
SAID = {
    "type": "segments", "order": [0, 1], "probability": 0.7, "weight": 1.0, "source": "s", "aspect": "a", "scores": [1.0, 0.5],
    "segment_labels": [1, 0], "user": "u", "context": "c",
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {  # importer → a row with all that it reads, in JSON
    "hpdv2": {"prompt": "p", "image_path": ["0.png", "1.png"], "rank": [1, 2], "human_preference": [1, 0]},
    "hpdv3": {"prompt": "p", "path1": "0.png", "path2": "1.png", "model1": "m", "confidence": 0.9, "choice_dist": [9, 1], "source": "s"},
    "imagerewarddb": {"prompt_id": "i", "prompt": "p", "image_path": "0.png", "image_amount_in_total": 2, "rank": 1, "classification": "c"},
    "rapidata": {
        "prompt": "p", "image1": "0.png", "image2": "1.png", "model1": "m", "weighted_results_image1_preference": 0.7,
        "weighted_results_image2_preference": 0.3,
    },
    "vision_reward": {"prompt": "p", "image": "0.png", "annotation": {"a": 1}, "meta_result": [[1]], "meta_mask": [[1]]},
    "videoalign": {"path_A": "0.mp4", "path_B": "1.mp4", "prompt": "p", "VQ": "A", "fps_A": 8},
    "videofeedback": {"id": "0", "text prompt": "p", **SCORES},
    "align_anything": {"prompt": "p", "response_1": "0.png", "response_2": "1.png", "overall_image": 1},
    "audio_alpaca": {"prompt": "p", **PAIR, "strategy": "s"},
    "kto_csv": {"file_path": "0.png", "caption": "p", "label": "exclusive_win"},
    "table": {"prompt": "p", **PAIR, "label": 1, "condition": "0.png"},
    "records": {"id": "g", "prompt": "p", "negative_prompt": "n", "condition": "0.png", "candidates": SAMPLES, "preferences": [SAID]},
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {"table": {"label": "label", "condition": "condition"}, "hpdv3": {"probability": "choice_dist"}}
WRONG = [
    None,
    "",
    "x",
    HALF,
    "x" * 5000,
    True,
    0.3,
    -1,
    10**30,
    10**400,
    float("nan"),
    [],
    ["A"],
    [1, 2],
    [None, 0],
    {},
    {"a": [1]},
    {"path": 3},
]
DEEP = "[" * 900 + "]" * 900


def wrong_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row with each of its values, also of the objects in its lists, another one."""
    found = [row | {name: value} for name in row for value in (*WRONG, json.loads(DEEP))]
    for name, values in row.items():
        if isinstance(values, list):
            for place, value in enumerate(values):
                others = wrong_rows(value) if isinstance(value, dict) else WRONG
                found += [row | {name: [*values[:place], other, *values[place + 1 :]]} for other in others]
        elif isinstance(values, dict):
            found += [row | {name: other} for other in wrong_rows(values)]
    return found


def good_rows(name: str) -> list[dict[str, Any]]:
    """What stands before a wrong row, and is kept."""
    if name == "records":
        return [{"prompt": "p", "candidates": [{"path": "0.png"}, {"path": "1.png"}], "preferences": [{"type": "pair", "order": [0, 1]}]}]
    if name == "imagerewarddb":
        return [ROWS[name] | {"prompt_id": "j", "rank": rank} for rank in (1, 2)]
    return [ROWS[name]]


@pytest.mark.parametrize("name", ROWS)
def test_nothing_that_a_row_says_stops_an_import(name: str, tmp_path: Path) -> None:
    for wrong in wrong_rows(ROWS[name]):
        after = [ROWS[name] | {"prompt_id": wrong["prompt_id"], "rank": 2}] if name == "imagerewarddb" else []
        check_rows(tmp_path, name, [*good_rows(name), wrong, *after], SETTINGS.get(name, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_a_row_says_stops_the_import_of_an_export(kind: Kind, tmp_path: Path) -> None:
    row = exported_row(kind)
    good = row | {"group_id": "before", "candidate_ids": [f"{name} before" for name in row["candidate_ids"]]}
    for wrong in wrong_rows(row):
        check_rows(tmp_path, "table", [good, wrong], {"exported": True})


def check_rows(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Each row is counted, what is kept can be written and comes back, and a reason is text."""
    if not (folder / "0.png").exists():
        for number in range(2):
            (folder / f"{number}.png").write_bytes(png(number))
            (folder / f"{number}.mp4").write_bytes(mp4(number))
    (folder / "set.json").write_text(json.dumps(rows))
    groups, report = read(name, folder / "set.json", **settings)
    assert 1 <= report.kept == len(groups) and report.kept + report.skipped + report.broken == report.read
    assert all(row.where.startswith("set.json row ") and row.reason.encode() for row in report.broken_rows)
    for group in groups[1:]:
        write_candidates(folder / "c" / "shard-0.parquet", group.candidates)
        write_preferences(folder / "p" / "shard-0.parquet", group.preferences)
        assert tuple(read_preferences(folder / "p")) == group.preferences
        assert [row.tags for row in read_candidates(folder / "c")] == [row.tags for row in group.candidates]


BROKEN: list[tuple[str, dict[str, Any], str]] = [  # importer, what its row says, and the reason that is told
    ("hpdv2", {"rank": None, "human_preference": 1}, "human_preference is 1 for 2 images; it is 0 or 1 for each of two"),
    ("videoalign", {"VQ": ["A"]}, "VQ is ['A']; it is one of: A, B, same"),
    ("kto_csv", {"label": ["x"]}, "label is ['x']; it is one of: exclusive_win"),
    ("records", {"preferences": [SAID | {"probability": "0.9"}]}, "probability is '0.9'; it is a number in 0 … 1, that the first of the"),
    ("records", {"preferences": [SAID | {"order": 3}]}, "order is 3; it counts the record's 2 candidates from 0"),
    ("records", {"preferences": [SAID | {"order": [0, None]}]}, "order is [0, None]; it counts the record's 2 candidates from 0"),
    ("records", {"preferences": [SAID | {"scores": ["a", 1]}]}, "scores[0] is 'a'; it is a finite number"),
    ("records", {"preferences": [{"type": "scores", "scores": ["a", 1]}]}, "scores are ['a', 1] for 2 samples; give a number for each"),
    ("records", {"candidates": [SAMPLES[0] | {"tags": ["a"]}, SAMPLES[1]]}, "tags is ['a']; it is an object of texts"),
    ("records", {"candidates": [SAMPLES[0] | {"seed": "x"}, SAMPLES[1]]}, "seed is 'x'; it is a whole number of at most 64 bits"),
    ("records", {"candidates": [SAMPLES[0] | {"model": 3}, SAMPLES[1]]}, "model is 3; it is text"),
    ("records", {"prompt": HALF}, r"prompt holds '\ud800' at character 2, half a character; write the whole one, or remove it"),
    ("table", {"prompt": HALF}, r"prompt holds '\ud800' at character 2, half a character"),
    ("table", {"chosen": HALF}, r"set.json row 1 chosen holds '\ud800' at character 2, half a character"),
    ("table", {"chosen": "x" * 5000}, "is longer than a path may be; give a relative path, or bytes"),
]


@pytest.mark.parametrize(("name", "said", "reason"), BROKEN)
def test_a_broken_row_says_what_it_should_hold(name: str, said: dict[str, Any], reason: str, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        (tmp_path / f"{number}.mp4").write_bytes(mp4(number))
    (tmp_path / "set.json").write_text(json.dumps([*good_rows(name), ROWS[name] | said]))
    _, report = read(name, tmp_path / "set.json", **SETTINGS.get(name, {}))
    assert report.broken == 1 and report.reasons[0].startswith("set.json row 1: ") and reason in report.reasons[0]


def test_what_a_record_leaves_out_or_says_in_numbers(tmp_path: Path) -> None:
    """Null is as good as nothing; a tag may be a number; a whole number may end in .0."""
    media = [{"path": f"{number}.png", "tags": {"level": number, "none": None}, "seed": 3.0, "model": None} for number in range(2)]
    said = {"type": "pair", "order": [0, 1], "weight": None, "source": None, "probability": None, "user": None}
    [group], _ = read("records", records(tmp_path, {"candidates": media, "preferences": [said], "id": None}))
    assert [(row.tags, row.seed, row.model) for row in group.candidates] == [({"level": "0"}, 3, ""), ({"level": "1"}, 3, "")]
    [row] = group.preferences
    assert (row.weight, row.source, row.win_probability, row.user) == (1.0, "records", None, None)


@pytest.mark.parametrize(
    ("name", "stems"), [("two_folders", (b"chosen/a\xff", b"rejected/a\xff")), ("suffix_folder", (b"a\xff_w", b"a\xff_l"))]
)
def test_names_of_files_that_are_no_text_are_broken_rows(name: str, stems: tuple[bytes, bytes], tmp_path: Path) -> None:
    for stem in (*stems, *(stem.replace(b"\xff", b"") for stem in stems)):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + stem + b".png"))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(0))
        path.with_suffix(".txt").write_text("a fox")
    groups, report = read(name, tmp_path)
    assert (len(groups), report.broken) == (1, 1)
    assert report.reasons == [r"a\udcff: tag 'name' holds '\udcff' at character 1, half a character; write the whole one, or remove it"]
