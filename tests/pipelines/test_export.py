"""Exported sets: what others open, what comes back when they are imported, and what the card says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_backbone import Loader, fake_config, loader  # noqa: F401 (a fixture)
from test_import_media import config_of, two_folders
from tiny_media import flac, mp4, png, wav
from typer.testing import CliRunner

from diffalign.data import candidate_files
from diffalign.data.candidate_files import CandidateFiles
from diffalign.data.importers import ImportedGroup, build_import
from diffalign.data.modalities import media_class
from diffalign.data.modalities.image import Image
from diffalign.data.record_lines import record_of
from diffalign.data.records import (
    Candidate,
    Preference,
    read_candidates,
    read_preferences,
    read_scores,
    write_candidates,
    write_preferences,
)
from pipelines.cli import app
from pipelines.config import Config
from pipelines.export import run
from pipelines.generate import run as generate
from pipelines.pair import run as pair
from pipelines.progress import Progress
from pipelines.score import run as score
from pipelines.stage import open_stage

QUIET = Progress(silent=True)
RULES: dict[str, dict[str, Any]] = {
    "pairs": {"rule": "best_vs_rest"},
    "lists": {"rule": "ranked_list"},
    "labelled": {"rule": "labelled"},
}


@pytest.fixture
def scored(tmp_path: Path, loader: Loader) -> Config:  # noqa: F811
    config = fake_config(tmp_path / "run", score={"rewards": {"sharpness": {}, "contrast": {}}}, pair={"by": "contrast.score"})
    generate(config, progress=QUIET)
    score(config, progress=QUIET)
    return config


def paired(scored: Config, name: str) -> Config:
    section = {"by": "contrast.score", **RULES[name]}
    if name == "labelled":
        section["threshold"] = sorted(read_scores(scored.run / "scores")["contrast.score"].values())[12]
    config = Config.model_validate(scored.model_dump(mode="json", exclude_none=True) | {"pair": section})
    pair(config, redo=True, progress=QUIET)
    return config


def read(name: str, source: Path, **settings: Any) -> list[ImportedGroup]:
    return list(build_import(name, str(source), **settings).groups)


def told(preference: Preference, of: dict[str, Candidate]) -> tuple[Any, ...]:
    """All that a preference and its samples say, but for ids."""
    row = replace(preference, group_id="", samples=tuple(map(str, range(len(preference.samples)))))
    members = [of[sample] for sample in preference.samples]
    facts = [
        (
            each.model,
            each.seed,
            each.steps,
            each.guidance,
            each.negative_prompt,
            dict(each.tags),
            each.condition and each.condition.encoded(),
        )
        for each in members
    ]
    return row, facts, [each.media.encoded() for each in members]


def told_of_run(config: Config) -> list[tuple[Any, ...]]:
    of = {row.candidate_id: row for row in read_candidates(config.run / "candidates")}
    return [told(row, of) for row in read_preferences(config.run / "preferences")]


def told_of_import(groups: list[ImportedGroup]) -> list[tuple[Any, ...]]:
    of = {row.candidate_id: row for group in groups for row in group.candidates}
    return [told(row, of) for group in groups for row in group.preferences]


@pytest.mark.parametrize("name", RULES)
def test_a_set_comes_back_as_it_was(name: str, scored: Config, tmp_path: Path) -> None:
    config = paired(scored, name)
    folder = run(config, tmp_path / "out", progress=QUIET)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == ["README.md", f"data/{name}/train-00000.parquet"]
    assert told_of_import(read("table", folder / "data", exported=True)) == told_of_run(config)
    assert len(told_of_run(config)) == {"pairs": 18, "lists": 6, "labelled": 24}[name]


@pytest.mark.parametrize("name", RULES)
def test_datasets_opens_it_with_media_decoded(name: str, scored: Config, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    config = paired(scored, name)
    folder = run(config, tmp_path / "out", progress=QUIET)
    opened = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    of = {row.candidate_id: row.media for row in read_candidates(config.run / "candidates")}
    rows = read_preferences(config.run / "preferences")
    assert len(opened) == len(rows) and opened["prompt"][:] == [row.prompt for row in rows]
    for found, row in zip(opened, rows, strict=True):
        media = found["samples"] if name == "lists" else [found[column] for column in ("chosen", "rejected", "media") if column in found]
        assert [np.asarray(each).tolist() for each in media] == [of[sample].pixels().tolist() for sample in row.samples]  # type: ignore[attr-defined]
        assert found["candidate_ids"] == list(row.samples) and found["scores"] == list(row.scores or ())
    if name == "labelled":
        assert sorted(opened["label"][:]) == [0] * 12 + [1] * 12


@pytest.mark.parametrize(("modality", "feature"), [("video", "Video"), ("audio", "Audio")])
def test_videos_and_sounds_are_embedded_to_the_bit(modality: str, feature: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, "two_folders", two_folders(tmp_path / "set", modality))
    pair(config, progress=QUIET)
    folder = run(config, tmp_path / "out", progress=QUIET)
    shard = folder / "data" / "pairs" / "train-00000.parquet"
    features = json.loads(pq.read_schema(shard).metadata[b"huggingface"])["info"]["features"]
    assert features == {"chosen": {"_type": feature}, "rejected": {"_type": feature}}
    good, bad = (mp4, mp4) if modality == "video" else (wav, flac)
    again = read("table", folder / "data" / "pairs")  # by the columns that any table has
    expected = [make(number) for index in range(3) for make, number in ((good, 2 * index), (bad, 2 * index + 1))]
    assert [row.media.encoded() for group in again for row in group.candidates] == expected
    assert told_of_import(read("table", folder / "data" / "pairs", exported=True)) == told_of_run(config)


@pytest.mark.parametrize(("modality", "feature"), [("video", "Video"), ("audio", "Audio")])
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_opens_videos_and_sounds(modality: str, feature: str, streaming: bool, tmp_path: Path) -> None:
    """As a user does: the columns are media to it, their files come undecoded to the bit, and our own decoders read them. To decode
    them itself it asks for torchcodec, and says so; the card says it too."""
    datasets = pytest.importorskip("datasets")
    config = config_of(tmp_path, "two_folders", two_folders(tmp_path / "set", modality))
    pair(config, progress=QUIET)
    folder = run(config, tmp_path / "out", progress=QUIET)
    opened = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming)
    kind = getattr(datasets, feature)
    assert isinstance(opened.features["chosen"], kind) and isinstance(opened.features["rejected"], kind)
    if find_spec("torchcodec") is None:  # .ci/run installs it after the suite
        with pytest.raises(ImportError, match="torchcodec"):
            next(iter(opened))
    else:
        first, sample = next(iter(opened)), read_preferences(config.run / "preferences")[0].samples[0]
        medium = {row.candidate_id: row.media for row in read_candidates(config.run / "candidates")}[sample]
        if modality == "video":
            assert np.array_equal(first["chosen"][:].permute(0, 2, 3, 1).numpy(), medium.frames())
        else:
            assert np.array_equal(first["chosen"].get_all_samples().data.numpy(), medium.waveform())
    for column in ("chosen", "rejected"):
        opened = opened.cast_column(column, kind(decode=False))
    of = {row.candidate_id: row.media for row in read_candidates(config.run / "candidates")}
    rows = read_preferences(config.run / "preferences")
    found = list(opened)
    assert [row["candidate_ids"] for row in found] == [list(row.samples) for row in rows] and len(found) == 3
    for row in found:
        for column, sample in zip(("chosen", "rejected"), row["candidate_ids"], strict=True):
            medium = media_class(modality).from_bytes(row[column]["bytes"])
            decode = "frames" if modality == "video" else "waveform"
            assert np.array_equal(getattr(medium, decode)(), getattr(of[sample], decode)())
    assert "`pip install torchcodec`" in (folder / "README.md").read_text()


def hand_made(run_folder: Path, judges: tuple[str, ...] = ("people", "vlm", "pick", "people")) -> Config:
    """A run with a pair that is a tie, a pair with segments, a list with a tie, and labels; two groups, one of them without preference."""
    config = fake_config(run_folder, generate={}, pair={"by": "contrast.score"})
    draw = np.random.default_rng(0)
    candidates = [
        Candidate(
            f"{group}-{k}", group, f"a {group}", Image.from_pixels(draw.integers(0, 256, (8, 8, 3), np.uint8)), "sd", k, 5, 2.5, "ugly",
            tags={"task": "count", "k": str(k)},
        )
        for group in ("fox", "owl", "yak")
        for k in range(4)
    ]  # fmt: skip
    preferences = [
        Preference("fox", "a fox", ("fox-2", "fox-0"), win_probability=0.5, user="u1"),
        Preference("fox", "a fox", ("fox-0", "fox-3"), win_probability=0.93, segment_labels=(1, -1, 0), weight=0.5, context="motion"),
        Preference("fox", "a fox", ("fox-1", "fox-3", "fox-0"), "list", scores=(2.0, 1.5, 1.5), context="overall"),
        Preference("owl", "a owl", ("owl-3",), "labelled", labels=(0,), scores=(0.25,)),
    ]
    with open_stage(config, "generate", settings={}) as stage:
        for index in range(3):
            write_candidates(stage.shard(index), candidates[index::3])
        stage.finish({})
    with open_stage(config, "pair", settings={}, inputs=("generate",)) as stage:
        write_preferences(stage.shard(0), [replace(row, source=judge) for row, judge in zip(preferences, judges, strict=True)])
        stage.finish({})
    return config


def test_records_say_what_was_said(tmp_path: Path) -> None:
    config = hand_made(tmp_path / "run")
    folder = run(config, tmp_path / "out", form="jsonl", progress=QUIET)
    fox, owl = map(json.loads, (folder / "records.jsonl").read_text(encoding="utf-8").splitlines())
    assert (fox["id"], fox["prompt"], fox["negative_prompt"], fox["meta"]) == ("fox", "a fox", "ugly", {"tags": ["task: count"]})
    ids = [each["id"] for each in fox["candidates"]]
    assert sorted(ids) == ["fox-0", "fox-1", "fox-2", "fox-3"]
    order = {name: place for place, name in enumerate(ids)}
    assert fox["preferences"] == [
        {
            "type": "pair", "aspect": "overall", "order": [order["fox-2"], order["fox-0"]], "probability": 0.5, "weight": 1.0,
            "source": "people", "user": "u1",
        },
        {
            "type": "segments", "aspect": "motion", "order": [order["fox-0"], order["fox-3"]], "probability": 0.93, "weight": 0.5,
            "source": "vlm", "segment_labels": [1, -1, 0], "context": "motion",
        },
        {
            "type": "ranking", "aspect": "overall", "order": [order["fox-1"], [order["fox-3"], order["fox-0"]]], "weight": 1.0,
            "source": "pick", "scores": [2.0, 1.5, 1.5], "context": "overall",
        },
    ]  # fmt: skip
    assert [(each["type"], each["labels"], each["scores"]) for each in owl["preferences"]] == [("binary", [0], [0.25])]
    of = {row.candidate_id: row.media.encoded() for row in read_candidates(config.run / "candidates")}
    assert {each["id"]: (folder / each["path"]).read_bytes() for each in fox["candidates"]} == {name: of[name] for name in ids}
    assert len(list((folder / "media").iterdir())) == 8  # of the group without a preference, nothing


def test_records_come_back_with_their_ids(tmp_path: Path) -> None:
    config = hand_made(tmp_path / "run")
    folder = run(config, tmp_path / "out", form="jsonl", progress=QUIET)
    groups = read("records", folder / "records.jsonl")
    assert [row for group in groups for row in group.preferences] == read_preferences(config.run / "preferences")
    assert told_of_import(groups) == told_of_run(config)
    assert [group.prompt for group in read("records", folder / "records.jsonl", aspect="motion")] == ["a fox"]
    table = run(config, tmp_path / "tables", progress=QUIET)  # three kinds, three tables
    layouts = {kind: [row for row in told_of_run(config) if row[0].kind == kind] for kind in ("pair", "list", "labelled")}
    for kind, name in (("pair", "pairs"), ("list", "lists"), ("labelled", "labelled")):
        assert told_of_import(read("table", table / "data" / name, exported=True)) == layouts[kind]


def test_an_empty_negative_prompt_of_a_record_comes_back_as_one(tmp_path: Path) -> None:
    """Beside a sample with another: what a record says of all its samples would be neither."""
    said = ("ugly", "", None)
    made = [
        Candidate(f"c{k}", "g", "p", Image.from_bytes(png(k)), negative_prompt=negative, tags={"k": str(k)})
        for k, negative in enumerate(said)
    ]
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    record = record_of(made, [f"{k}.png" for k in range(3)], [Preference("g", "p", ("c0", "c1"))], {})
    (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n")
    [group] = read("records", tmp_path / "records.jsonl")
    assert [each.negative_prompt for each in group.candidates] == list(said)


def exported(folder: Path) -> list[ImportedGroup]:
    return read("table", folder, exported=True)


def family(run_folder: Path) -> tuple[Config, list[Candidate], list[Preference]]:
    """A run of two groups with a condition, whose pairs share samples made of a real one; the last pair is of the first group again."""
    config = fake_config(run_folder, generate={}, pair={"by": "contrast.score"})
    made = [
        Candidate(
            f"{group}{k}", group, f"a {group}", Image.from_bytes(png(10 * place + k)), parent=f"real-{group}" if k else None,
            condition=Image.from_bytes(png(90 + place)),
        )
        for place, group in enumerate(("fox", "owl"))
        for k in range(3)
    ]  # fmt: skip
    pairs = [("fox", 0, 1), ("fox", 0, 2), ("owl", 2, 1), ("fox", 2, 1)]
    said = [Preference(group, f"a {group}", (f"{group}{one}", f"{group}{other}")) for group, one, other in pairs]
    with open_stage(config, "generate", settings={}) as stage:
        write_candidates(stage.shard(0), made)
        stage.finish({})
    with open_stage(config, "pair", settings={}, inputs=("generate",)) as stage:
        write_preferences(stage.shard(0), said)
        stage.finish({})
    return config, made, said


def test_tables_come_back_in_their_groups_with_ids_parents_and_conditions(tmp_path: Path) -> None:
    config, made, said = family(tmp_path / "run")
    fox, owl, again = exported(run(config, tmp_path / "out", progress=QUIET) / "data")
    assert (fox.preferences, owl.preferences) == (tuple(said[:2]), (said[2],))
    told_of = [(each.candidate_id, each.parent, each.media.encoded(), each.condition and each.condition.encoded()) for each in made]
    found = [(each.candidate_id, each.parent, each.media.encoded(), each.condition and each.condition.encoded()) for each in fox.candidates]
    assert found == told_of[:3] and [each.candidate_id for each in owl.candidates] == ["owl2", "owl1"]
    # Away from its group it is one of its own: rows are read as they come.
    assert (again.group_id, [row.samples for row in again.preferences]) == ("fox+2", [("fox2+2", "fox1+2")])
    assert [(each.candidate_id, each.parent) for each in again.candidates] == [("fox2+2", "real-fox"), ("fox1+2", "real-fox")]


def test_tables_that_were_written_before_they_had_parents_are_read(tmp_path: Path) -> None:
    config, _, said = family(tmp_path / "run")
    [path] = (run(config, tmp_path / "out", progress=QUIET) / "data/pairs").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["parents"]), path)
    groups = exported(path.parent)
    assert groups[0].preferences == tuple(said[:2]) and {each.parent for group in groups for each in group.candidates} == {None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": "another"}, "group 'fox' has two prompts, 'a fox' and 'another'"),
        ({"rejected": {"bytes": png(5), "path": None}}, "candidate id 'fox1' is of two media"),
    ],
)
def test_rows_of_a_group_agree(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, _, _ = family(tmp_path / "run")
    [path] = (run(config, tmp_path / "out", progress=QUIET) / "data/pairs").iterdir()
    rows, schema = pq.read_table(path).to_pylist(), pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist([*rows[:2], rows[3] | changed], schema=schema), path)
    with pytest.raises(ValueError, match=message):
        exported(path)


def test_every_kind_is_a_configuration_of_the_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = run(hand_made(tmp_path / "run"), tmp_path / "out", progress=QUIET)
    settings: dict[str, Any] = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    opened = {name: datasets.load_dataset(str(folder), name, **settings) for name in ("pairs", "lists", "labelled")}
    assert {name: len(rows) for name, rows in opened.items()} == {"pairs": 2, "lists": 1, "labelled": 1}
    assert datasets.load_dataset(str(folder), **settings).column_names == opened["pairs"].column_names
    assert opened["pairs"]["segment_labels"][:] == [None, [1, -1, 0]] and opened["pairs"]["win_probability"][:] == [0.5, 0.93]
    streamed = list(datasets.load_dataset(str(folder), "lists", split="train", streaming=True))
    assert [picture.size for picture in streamed[0]["samples"]] == [(8, 8)] * 3


def test_records_hold_the_scores_of_every_reward(scored: Config, tmp_path: Path) -> None:
    folder = run(paired(scored, "pairs"), tmp_path / "out", form="jsonl", progress=QUIET)
    scores = read_scores(scored.run / "scores")
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    found = {each["id"]: each["scores"] for record in records for each in record["candidates"]}
    assert len(found) == 24
    assert found == {name: {reward: {"score": scores[f"{reward}.score"][name]} for reward in ("sharpness", "contrast")} for name in found}


def test_records_of_ones_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    media = [{"path": f"{number}.png", "model": "sdxl", "seed": number} for number in range(3)]
    said: list[dict[str, Any]] = [
        {"type": "pair", "order": [2, 0], "probability": 0.75, "source": "votes"},
        {"type": "ranking", "order": [1, [0, 2]], "aspect": "alignment"},
        {"type": "scores", "scores": [1.0, 3.0, 2.0]},
        {"type": "best", "order": [0]},
        {"type": "pair", "order": [0, 3]},
        {"type": "scores", "scores": [1.0]},
    ]
    lines = [{"prompt": "p", "candidates": media, "preferences": each} for each in ([one] for one in said)]
    lines.append({"prompt": "p", "candidates": media, "preferences": []})
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    imported = build_import("records", str(tmp_path / "own.jsonl"))
    rows = [(group.preferences[0], group) for group in imported.groups]
    found = [("".join(sample[-1] for sample in row.samples), row.kind, row.scores, row.win_probability, row.context) for row, _ in rows]
    assert found == [
        ("20", "pair", None, 0.75, None),
        ("102", "list", (1.0, 0.25, 0.25), None, "alignment"),
        ("120", "list", (3.0, 2.0, 1.0), None, None),
    ]
    assert [(each.model, each.seed) for each in rows[0][1].candidates] == [("sdxl", 0), ("sdxl", 1), ("sdxl", 2)]
    report = imported.report
    assert (report.kept, report.broken, report.skipped) == (3, 3, 1)
    parts = ("unknown type 'best'", "order is [0, 3]; it counts the record's 3 candidates", "give a number for each")
    assert [part in reason for reason, part in zip(report.reasons, parts, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{}, {"candidates": ["c", "a"]}], "candidate id 'a' of own.jsonl row 1 is that of another candidate, of own.jsonl row 0; give"),
        ([{"candidates": ["a", "b", "a"]}], "candidate id 'a' of own.jsonl row 0 is that of another candidate, of own.jsonl row 0; give"),
        (
            [{"candidates": [None, "records-0000001-0"]}, {"candidates": [None, None]}],
            "candidate id 'records-0000001-0' of own.jsonl row 1",
        ),
        (
            [{"id": "g"}, {"id": "g", "candidates": ["c", "d"]}],
            "group id 'g' of own.jsonl row 1 is that of another group, of own.jsonl row 0",
        ),
    ],
)
def test_an_id_is_given_once_in_a_set(given: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    """Scores and latents are read by it: of two samples one would have the other's."""
    (tmp_path / "0.png").write_bytes(png(0))
    lines = [{"prompt": "p", "preferences": [{"type": "pair", "order": [0, 1]}], **each} for each in given]
    for line in lines:
        line["candidates"] = [{"path": "0.png"} | ({"id": name} if name else {}) for name in line.get("candidates", ("a", "b"))]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=re.escape(told)):
        read("records", tmp_path / "own.jsonl")


def test_the_card_says_where_the_set_comes_from(scored: Config, tmp_path: Path) -> None:
    config = paired(scored, "pairs")
    card = (run(config, tmp_path / "foxes", licence="cc-by-4.0", progress=QUIET) / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {
        "license": "cc-by-4.0",
        "task_categories": ["text-to-image"],
        "tags": ["preference", "diffusion", "diffalign"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "pairs", "data_files": [{"split": "train", "path": "data/pairs/train-*.parquet"}], "default": True}],
    }
    origin = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert origin["model"] == {"backbone": "stable_diffusion", "source": "fake/model"}
    assert set(origin["reward models"]) == {"sharpness", "contrast"} and origin["pairing"]["rule"] == "best_vs_rest"
    for line in ("# foxes", "| pairs | 18 |", "| samples used | 24 |", "| judged by contrast.score | 18 |", "Licence: cc-by-4.0"):
        assert line in card
    assert "`chosen`, `rejected`" in card and "`samples`" not in card
    assert "Licence: not stated" in (run(config, tmp_path / "b", form="jsonl", progress=QUIET) / "README.md").read_text()


def test_the_card_counts_pairs_and_lists_with_ties(tmp_path: Path) -> None:
    """One of the two pairs, and the list, of which two samples have one score."""
    card = (run(hand_made(tmp_path / "run"), tmp_path / "out", progress=QUIET) / "README.md").read_text(encoding="utf-8")
    assert "| with ties | 2 |" in card and "| pairs | 2 |" in card and "| lists | 1 |" in card


def test_a_judge_of_the_set_writes_nothing_into_the_card_but_its_name(tmp_path: Path) -> None:
    given = ("a|b\n<script>alert(1)</script>\n# Title", "[here](https://a.b) `c` \\*d*", "x" * 300, "x" * 301)
    config = hand_made(tmp_path / "run", given)
    card = (run(config, tmp_path / "out", progress=QUIET) / "README.md").read_text(encoding="utf-8")
    assert [line for line in card.splitlines() if line.startswith("| judged by")] == [
        r"| judged by \[here\](https://a.b) \`c\` \\\*d\* | 1 |",
        r"| judged by a\|b &lt;script&gt;alert(1)&lt;/script&gt; # Title | 1 |",
        *[f"| judged by {'x' * 89}… | 1 |"] * 2,
    ]
    assert "<script" not in card and "\n# Title" not in card


def test_the_card_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    config = config_of(tmp_path, "two_folders", two_folders(tmp_path / "private" / "wolves", "audio"))
    pair(config, progress=QUIET)
    card = (run(config, tmp_path / "out", progress=QUIET) / "README.md").read_text()
    origin = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert origin["imported"] == {"importer": "two_folders", "from": "wolves"}
    assert str(tmp_path) not in card and "private" not in card and "text-to-audio" in card


def test_what_cannot_be_exported_is_refused_and_nothing_half_is_left(
    scored: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="pair has not run in this run; first: diffalign pair CONFIG"):
        run(scored, tmp_path / "out", progress=QUIET)
    config = paired(scored, "pairs")
    with pytest.raises(ValueError, match="unknown format 'csv'; choose one of: parquet, jsonl"):
        run(config, tmp_path / "out", form="csv", progress=QUIET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    with pytest.raises(ValueError, match="is there already and not empty; give a new folder"):
        run(config, tmp_path / "full", progress=QUIET)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    read_one, last = CandidateFiles.__getitem__, read_preferences(config.run / "preferences")[-1].samples[0]

    def broken(files: CandidateFiles, name: str) -> Candidate:
        if name == last:
            raise OSError("the disk is gone")
        return read_one(files, name)

    monkeypatch.setattr(CandidateFiles, "__getitem__", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        run(config, tmp_path / "empty", progress=QUIET)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(CandidateFiles, "__getitem__", read_one)
    assert run(config, tmp_path / "empty", progress=QUIET) == tmp_path / "empty"


def test_the_command(scored: Config, tmp_path: Path) -> None:
    config = paired(scored, "pairs")
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    result = CliRunner().invoke(
        app, ["export", str(tmp_path / "c.yaml"), "--to", str(tmp_path / "out"), "--format", "jsonl", "--license", "mit"]
    )
    assert (result.exit_code, "18 preferences in" in result.stderr) == (0, True)
    assert (tmp_path / "out" / "records.jsonl").is_file() and "license: mit" in (tmp_path / "out" / "README.md").read_text()
    assert CliRunner().invoke(app, ["export", str(tmp_path / "c.yaml")]).exit_code == 2  # --to is missing


def test_shards_are_cut_by_the_size_of_their_media(scored: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.export as module

    config = paired(scored, "pairs")
    whole = told_of_import(read("table", run(config, tmp_path / "one", progress=QUIET) / "data", exported=True))
    monkeypatch.setattr(module, "SHARD_BYTES", 3000)
    folder = run(config, tmp_path / "many", progress=QUIET) / "data" / "pairs"
    assert len(list(folder.iterdir())) > 2
    assert told_of_import(read("table", folder, exported=True)) == whole


@pytest.mark.parametrize("budget", [0, 2**30])
def test_candidates_by_id(budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_files, "KEPT_BYTES", budget)

    def rows() -> Iterator[Candidate]:
        for index in range(250):
            yield Candidate(f"c{index:03d}", f"g{index // 5}", "p", Image.from_pixels(np.full((1, 1, 3), index, np.uint8)))

    every = list(rows())
    for shard in range(3):
        write_candidates(tmp_path / f"shard-{shard:05d}.parquet", every[shard * 90 : shard * 90 + 90])
    found = CandidateFiles(tmp_path)
    assert (len(found), list(found)[:2], found.groups["g18"]) == (250, ["c000", "c001"], [f"c{index:03d}" for index in range(90, 95)])
    for index in np.random.default_rng(0).permutation(250):
        candidate = found[f"c{index:03d}"]
        assert (candidate.group_id, candidate.media.identity()) == (every[index].group_id, every[index].media.identity())
    assert len(found._kept) == (3 if budget else 1)
    with pytest.raises(ValueError, match=r"candidate 'c999' is not in .*; make the preferences again"):
        found["c999"]
