"""Importers on files made here with exactly the public columns: ties, missing bytes, missing columns, and paths that lead outside."""

import csv
import json
from io import BytesIO

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.importers import IMPORTERS, build_import, import_defaults, importer_function
from diffalign.data.pairing import PairingSettings, group_candidates, pair_groups
from diffalign.data.records import read_candidates, read_preferences, write_candidates, write_preferences

PICKAPIC = pa.schema(
    [
        *[("are_different", pa.bool_()), ("best_image_uid", pa.string()), ("caption", pa.string()), ("created_at", pa.timestamp("ns"))],
        *[("has_label", pa.bool_()), ("image_0_uid", pa.string()), ("image_0_url", pa.string()), ("image_1_uid", pa.string())],
        *[
            ("image_1_url", pa.string()),
            ("jpg_0", pa.binary()),
            ("jpg_1", pa.binary()),
            ("label_0", pa.float64()),
            ("label_1", pa.float64()),
        ],
        *[("model_0", pa.string()), ("model_1", pa.string()), ("ranking_id", pa.int64()), ("user_id", pa.int64())],
        *[("num_example_per_prompt", pa.int64()), ("__index_level_0__", pa.int64())],
    ]
)


def jpeg(colour: int, form: str = "JPEG") -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(buffer, format=form)
    return buffer.getvalue()


def comparison(index: int, label: float = 1.0, **values) -> dict:
    """A row with every public column."""
    row = {
        "are_different": label != 0.5,
        "best_image_uid": {1.0: f"u{index}0", 0.0: f"u{index}1"}.get(label, "tie"),
        "caption": f"caption {index}",
        "has_label": True,
        "jpg_0": jpeg(10 * index),
        "jpg_1": jpeg(10 * index + 5),
        "label_0": label,
        "label_1": 1 - label,
        "model_0": "sdxl",
        "model_1": "dreamlike",
        "ranking_id": 900 + index,
        "user_id": 7,
        "num_example_per_prompt": 1,
        "__index_level_0__": index,
    }
    for side in "01":
        row |= {f"image_{side}_uid": f"u{index}{side}", f"image_{side}_url": "https://example.invalid/denied.png"}
    return row | values


def write_pickapic(path, rows, schema=PICKAPIC, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return path


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("an importer opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def read(name, source, **values):
    imported = build_import(name, str(source), **values)
    return list(imported.groups), imported.report


# Pick-a-Pic


def test_pickapic_reads_the_public_columns(tmp_path, no_network):
    write_pickapic(tmp_path / "train.parquet", [comparison(0, 1.0), comparison(1, 0.0), comparison(2, 0.5)])
    groups, report = read("pickapic", tmp_path)
    assert (report.read, report.kept, report.tied, report.skipped, report.broken) == (3, 3, 1, 0, 0)
    first = groups[0]
    assert first.prompt == "caption 0"
    assert [row.media.encoded() for row in first.candidates] == [jpeg(0), jpeg(5)]
    assert [row.model for row in first.candidates] == ["sdxl", "dreamlike"]
    assert first.candidates[1].tags == {"image_1_uid": "u01", "ranking_id": "900"}
    assert [group.preferences[0].samples for group in groups] == [
        ("pickapic-0000000-0", "pickapic-0000000-1"),
        ("pickapic-0000001-1", "pickapic-0000001-0"),
        ("pickapic-0000002-0", "pickapic-0000002-1"),
    ]
    assert [group.preferences[0].win_probability for group in groups] == [None, None, 0.5]
    assert {group.preferences[0].user for group in groups} == {"7"}


@pytest.mark.parametrize("source", ["one.parquet", "", "data/*.parquet", "**/train-*.parquet"])
def test_pickapic_comes_as_file_folder_or_pattern(tmp_path, source):
    write_pickapic(tmp_path / "one.parquet", [comparison(0)])
    for index in (1, 0):
        write_pickapic(tmp_path / "data" / f"train-{index}.parquet", [comparison(index + 1)], row_group_size=1)
    groups, _ = read("pickapic", tmp_path / source)
    expected = {"one.parquet": [0], "": [1, 2, 0], "data/*.parquet": [1, 2], "**/train-*.parquet": [1, 2]}[source]
    assert [group.prompt for group in groups] == [f"caption {index}" for index in expected]
    assert len({group.group_id for group in groups}) == len(groups)


def test_a_folder_has_the_splits_that_its_files_are_named_by(tmp_path):
    """As Pick-a-Pic's do. Without a split a folder is its train; a pattern is what it says."""
    for index, name in enumerate(["train-00000-of-00002-ab12", "train-00001-of-00002-cd34", "validation_unique-00000-of-00001", "test-0"]):
        write_pickapic(tmp_path / "data" / f"{name}.parquet", [comparison(index)])

    def captions(source, **values):
        return [group.prompt.removeprefix("caption ") for group in read("pickapic", source, **values)[0]]

    assert captions(tmp_path) == captions(tmp_path, split="train") == ["0", "1"]
    assert captions(tmp_path, split="validation_unique") == captions(tmp_path / "*" / "*", split="validation_unique") == ["2"]
    assert captions(tmp_path / "data" / "t*.parquet") == ["3", "0", "1"]
    assert captions(tmp_path / "data" / "test-0.parquet") == captions(tmp_path / "data" / "test-0.parquet", split="test") == ["3"]
    with pytest.raises(ValueError, match=r"no files of the split 'validation'.*; its splits: test, train, validation_unique; set split to"):
        captions(tmp_path, split="validation")
    with pytest.raises(ValueError, match=r"revision 'v1' is of a set on a hub, and .* is on this machine; remove it"):
        captions(tmp_path, revision="v1")
    for path in (tmp_path / "data").glob("train-*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no files of the split 'train'.*; its splits: test, validation_unique; set split to one of them"):
        captions(tmp_path)
    (tmp_path / "t.json").write_text(json.dumps(table_rows(tmp_path)))
    with pytest.raises(ValueError, match=r"no files of the split 'test'.*; its splits: none;"):
        read("table", tmp_path / "t.json", split="test", **COLUMNS)


def test_pickapic_reads_images_in_the_struct_of_datasets(tmp_path):
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    fields = [field.with_type(struct) if field.name.startswith("jpg_") else field for field in PICKAPIC]
    row = comparison(0, jpg_0={"bytes": jpeg(1), "path": "x.jpg"}, jpg_1={"bytes": None, "path": "/etc/passwd"})
    good = comparison(1, jpg_0={"bytes": jpeg(1), "path": "../x.jpg"}, jpg_1={"bytes": jpeg(2), "path": None})
    write_pickapic(tmp_path / "a.parquet", [row, good], pa.schema(fields))
    groups, report = read("pickapic", tmp_path)
    assert [group.prompt for group in groups] == ["caption 1"]
    assert (report.kept, report.broken) == (1, 1)


def test_pickapic_streams_and_stops(tmp_path, monkeypatch):
    import diffalign.data.importers.judged as module

    decoded = []
    original = module.media_of
    monkeypatch.setattr(module, "media_of", lambda *values: decoded.append(values[1]) or original(*values))
    write_pickapic(tmp_path / "a.parquet", [comparison(index) for index in range(6)], row_group_size=2)
    imported = build_import("pickapic", str(tmp_path), max_samples=2)
    assert not decoded
    assert next(imported.groups).prompt == "caption 0"
    assert decoded == ["a.parquet row 0 jpg_0", "a.parquet row 0 jpg_1"]
    assert [group.prompt for group in imported.groups] == ["caption 1"]
    assert (imported.report.read, imported.report.kept) == (2, 2)


def test_pickapic_filters_rows(tmp_path):
    rows = [
        comparison(0),
        comparison(1, model_0="sd21"),
        comparison(2, has_label=False),
        comparison(3, caption=" "),
        comparison(4, model_0="x"),
    ]
    write_pickapic(tmp_path / "a.parquet", rows)
    groups, report = read("pickapic", tmp_path, where={"model_0": ["sdxl", "sd21"], "model_1": "dreamlike"})
    assert [group.prompt for group in groups] == ["caption 0", "caption 1"]
    assert (report.read, report.kept, report.skipped) == (5, 2, 3)
    with pytest.raises(ValueError, match="lacks the columns colour; expected colour, found caption, jpg_0"):
        read("pickapic", tmp_path, where={"colour": "red"})


def test_pickapic_counts_broken_rows_and_goes_on(tmp_path):
    rows = [
        comparison(0, jpg_0=None),
        comparison(1, jpg_1=b""),
        comparison(2, jpg_0=jpeg(1)[:200]),
        comparison(3, label_0=None),
        comparison(4, label_0=0.7),
        comparison(5, label_1=1.0),
        comparison(6),
    ]
    write_pickapic(tmp_path / "a.parquet", rows)
    groups, report = read("pickapic", tmp_path)
    assert [group.prompt for group in groups] == ["caption 6"]
    assert (report.read, report.kept, report.broken, len(report.reasons)) == (7, 1, 6, 5)
    assert report.reasons[0].startswith("a.parquet row 0: a.parquet row 0 jpg_0: no media")
    assert "label_0 is 0.7; it is 1 (first preferred)" in report.reasons[4]
    with pytest.raises(
        ValueError, match=r"3 of 3 rows are broken, more than max_broken=2; fetch the data again or raise max_broken.*jpg_0"
    ):
        read("pickapic", tmp_path, max_broken=2)


def test_pickapic_without_images_says_so(tmp_path):
    fields = [field for field in PICKAPIC if not field.name.startswith("jpg_")]
    write_pickapic(tmp_path / "a.parquet", [{name: value for name, value in comparison(0).items() if "jpg" not in name}], pa.schema(fields))
    with pytest.raises(ValueError, match=r"lacks the columns jpg_0, jpg_1; expected caption, jpg_0, jpg_1, label_0, found .*never fetched"):
        read("pickapic", tmp_path)


def test_pickapic_needs_only_the_four_columns(tmp_path):
    names = ["caption", "jpg_0", "jpg_1", "label_0"]
    write_pickapic(
        tmp_path / "a.parquet", [{name: comparison(0)[name] for name in names}], pa.schema([PICKAPIC.field(name) for name in names])
    )
    (group,), _ = read("pickapic", tmp_path)
    assert [row.model for row in group.candidates] == ["", ""]
    assert group.preferences[0].user is None


@pytest.mark.parametrize("as_images", [False, True])
def test_pickapic_streams_from_a_hub_id(tmp_path, monkeypatch, no_network, as_images):
    datasets = pytest.importorskip("datasets")
    path = write_pickapic(tmp_path / "a.parquet", [comparison(0), comparison(1, jpg_0=b"\xff\xd8broken"), comparison(2, 0.5)])
    load = datasets.load_dataset
    asked = []

    def from_disk(name, *, split, revision, streaming):
        asked.append((name, split, revision, streaming))
        rows = load("parquet", data_files=str(path), split=split, streaming=True)
        return rows.cast_column("jpg_0", datasets.Image()).cast_column("jpg_1", datasets.Image()) if as_images else rows

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    groups, report = read("pickapic", "yuvalkirstain/pickapic_v1", split="train", revision="abc")
    assert asked == [("yuvalkirstain/pickapic_v1", "train", "abc", True)]
    assert [group.prompt for group in groups] == ["caption 0", "caption 2"]
    assert (report.kept, report.tied, report.broken) == (2, 1, 1)
    assert groups[0].candidates[0].media.encoded() == jpeg(0)


def test_the_road_from_pickapic_to_pairs(tmp_path):
    """Imported, written, read, paired: what the stage `pair` does."""
    write_pickapic(tmp_path / "in" / "a.parquet", [comparison(0), comparison(1, 0.0), comparison(2, 0.5)])
    groups, _ = read("pickapic", tmp_path / "in")
    write_candidates(tmp_path / "c" / "shard-00000.parquet", [row for group in groups for row in group.candidates])
    write_preferences(tmp_path / "p" / "shard-00000.parquet", [row for group in groups for row in group.preferences])
    judged = group_candidates(read_candidates(tmp_path / "c"), {}, read_preferences(tmp_path / "p"))
    rule = PairingSettings("imported", same_source=False)
    result = pair_groups(judged, rule)
    assert [row.samples for row in result.preferences] == [groups[0].preferences[0].samples, groups[1].preferences[0].samples]
    assert (result.summary.ties, result.summary.across_sources) == (1, 2)
    assert len(pair_groups(judged, PairingSettings("imported", same_source=False, ties="keep")).preferences) == 3
    with pytest.raises(ValueError, match="set same_source to false"):
        pair_groups(judged, PairingSettings("imported"))


# Folders


def test_two_folders(tmp_path):
    for side, shade in (("chosen", 0), ("rejected", 100)):
        (tmp_path / side / "deep").mkdir(parents=True)
        for index, name in enumerate(["b", "deep/a"]):
            (tmp_path / side / f"{name}.png").write_bytes(jpeg(shade + index, "PNG"))
    (tmp_path / "rejected" / "b.png").rename(tmp_path / "rejected" / "b.jpg")
    (tmp_path / "chosen" / "b.txt").write_text(" a fox\n", encoding="utf-8")
    (tmp_path / "rejected" / "deep" / "a.txt").write_text("ein Füchslein", encoding="utf-8-sig")
    groups, report = read("two_folders", tmp_path)
    assert [group.prompt for group in groups] == ["a fox", "ein Füchslein"]
    assert [row.media.pixels()[0, 0, 0] for row in groups[0].candidates] == [0, 100]
    assert groups[0].preferences[0].samples == ("two_folders-0000000-chosen", "two_folders-0000000-rejected")
    assert groups[0].candidates[0].tags == {"name": "b"}
    assert (report.read, report.kept) == (2, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "first\nsecond\n"),
        ("prompts.csv", "name,prompt\ny.png,second\nx,first\n"),
        ("prompts.tsv", "name\tprompt\ny\tsecond\nx\tfirst\n"),
        ("prompts.jsonl", '{"name": "x", "prompt": "first"}\n\n{"name": "y.png", "prompt": "second"}\n'),
        ("prompts.json", '[{"name": "y", "prompt": "second"}, {"name": "x", "prompt": "first"}]'),
    ],
)
def test_two_folders_with_one_file_of_prompts(tmp_path, name, text):
    for side in ("good", "bad"):
        (tmp_path / side).mkdir()
        for stem in "xy":
            (tmp_path / side / f"{stem}.webp").write_bytes(jpeg(9, "WEBP"))
    (tmp_path / name).write_text(text)
    groups, _ = read("two_folders", tmp_path, chosen="good", rejected="bad", prompts=name)
    assert [group.prompt for group in groups] == ["first", "second"]
    assert len(read("two_folders", tmp_path, chosen="good", rejected="bad", prompts=name, max_samples=1)[0]) == 1


def test_folders_of_sd_scripts(tmp_path):
    """Its folders w and l, or name ends, with captions as it calls them by default; a name's own dots are no suffix."""
    for folder, names in (("set/w", ("fox", "a.b")), ("set/l", ("fox", "a.b")), ("ends", ("fox_w", "fox_l", "a.b_w", "a.b_l"))):
        (tmp_path / folder).mkdir(parents=True)
        for number, name in enumerate(names):
            (tmp_path / folder / f"{name}.png").write_bytes(jpeg(number, "PNG"))
    for name in ("set/w/fox", "set/l/fox", "set/w/a.b", "ends/fox_w", "ends/a.b"):
        (tmp_path / f"{name}.caption").write_text(f"of {name}\n")
    groups, _ = read("two_folders", tmp_path / "set", chosen="w", rejected="l")
    assert [group.prompt for group in groups] == ["of set/w/a.b", "of set/w/fox"]
    (tmp_path / "set/w/fox.txt").write_text("a fox")
    assert read("two_folders", tmp_path / "set", chosen="w", rejected="l")[0][1].prompt == "a fox"
    assert [group.prompt for group in read("suffix_folder", tmp_path / "ends")[0]] == ["of ends/a.b", "of ends/fox_w"]


def test_two_folders_count_what_is_missing(tmp_path):
    for side, names in (("chosen", "abcd"), ("rejected", "bcde")):
        (tmp_path / side).mkdir()
        for name in names:
            (tmp_path / side / f"{name}.png").write_bytes(jpeg(9, "PNG"))
            (tmp_path / side / f"{name}.txt").write_text("a fox")
    (tmp_path / "rejected" / "b.png").write_bytes(b"broken")
    for side in ("chosen", "rejected"):
        (tmp_path / side / "c.txt").unlink()
    groups, report = read("two_folders", tmp_path)
    assert [group.candidates[0].tags["name"] for group in groups] == ["d"]
    assert (report.read, report.kept, report.broken) == (5, 1, 4)
    reasons = " | ".join(report.reasons)
    for part in (
        "a: the rejected file is missing",
        "rejected/b' cannot be read",
        "c: no caption; write c.txt",
        "e: the chosen file is missing",
    ):
        assert part in reasons
    (tmp_path / "few.txt").write_text("one\n")
    with pytest.raises(ValueError, match="has 1 prompts for 5 files; give one line per file"):
        read("two_folders", tmp_path, prompts="few.txt")
    with pytest.raises(PermissionError, match="lies outside"):
        read("two_folders", tmp_path, prompts="../few.txt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read("two_folders", tmp_path, chosen="nowhere")
    with pytest.raises(ValueError, match="name two folders"):
        read("two_folders", tmp_path, chosen="rejected")


def test_suffix_folder(tmp_path):
    names = ["fox_w", "fox_l", "cat_e1", "cat_e2", "sub/dog_w1", "sub/dog_w2", "sub/dog_l", "my_cow_w", "my_cow_l"]
    (tmp_path / "sub").mkdir()
    for index, name in enumerate(names):
        (tmp_path / f"{name}.png").write_bytes(jpeg(index, "PNG"))
    for name in ("fox", "cat", "sub/dog"):
        (tmp_path / f"{name}.txt").write_text(f"a {name[-3:]}")
    (tmp_path / "my_cow_w.txt").write_text("a cow")
    (tmp_path / "cover.png").write_bytes(jpeg(1))
    groups, report = read("suffix_folder", tmp_path)
    assert [group.prompt for group in groups] == ["a cat", "a fox", "a cow", "a dog"]
    cat, fox, _, dog = groups
    assert [(row.samples, row.win_probability) for row in cat.preferences] == [
        (("suffix_folder-0000000-e1", "suffix_folder-0000000-e2"), 0.5)
    ]
    assert [row.samples for row in fox.preferences] == [("suffix_folder-0000001-w", "suffix_folder-0000001-l")]
    assert [row.media.pixels()[0, 0, 0] for row in fox.candidates] == [0, 1]
    assert [tuple(name[-2:] for name in row.samples) for row in dog.preferences] == [("w1", "-l"), ("w2", "-l")]
    assert (report.read, report.kept, report.tied, report.skipped) == (5, 4, 1, 1)


def test_suffix_folder_counts_what_is_missing(tmp_path):
    for name in ("alone_w", "mute_w", "mute_l", "odd_e", "good_w", "good_l"):
        (tmp_path / f"{name}.png").write_bytes(jpeg(1, "PNG"))
    (tmp_path / "good.txt").write_text("a fox")
    groups, report = read("suffix_folder", tmp_path)
    assert [group.prompt for group in groups] == ["a fox"]
    assert report.broken == 3
    assert report.reasons == [
        "alone: no pair among alone_w.png; a name needs _w and _l, or _e1 and _e2",
        "mute: no caption; write mute.txt",
        "odd: no pair among odd_e.png; a name needs _w and _l, or _e1 and _e2",
    ]
    (tmp_path / "good_w.jpg").write_bytes(jpeg(1))
    with pytest.raises(ValueError, match="have the same name without suffix; rename one"):
        read("suffix_folder", tmp_path)


@pytest.mark.parametrize("ending", ["png", "txt"])
@pytest.mark.parametrize(("name", "first", "second"), [("two_folders", "chosen/a", "rejected/a"), ("suffix_folder", "a_w", "a_l")])
def test_folders_refuse_links_out_of_the_set(tmp_path, name, first, second, ending):
    """A picture or a caption from elsewhere; links within the set are followed, and the set itself may be one."""
    root = tmp_path / "set"
    for stem in (first, second):
        (root / stem).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{stem}.png").write_bytes(jpeg(1, "PNG"))
    (root / "texts").mkdir()
    (root / "texts" / "fox.md").write_text("a fox")
    (root / f"{first}.txt").symlink_to(root / "texts" / "fox.md")
    (tmp_path / "link").symlink_to(root)
    assert [group.prompt for group in read(name, tmp_path / "link")[0]] == ["a fox"]
    (tmp_path / "private.png").write_bytes(jpeg(2, "PNG"))
    (tmp_path / "private.txt").write_text("a key")
    (root / f"{first}.{ending}").unlink()
    (root / f"{first}.{ending}").symlink_to(tmp_path / f"private.{ending}")
    with pytest.raises(
        PermissionError, match=rf"{first}\.{ending}' is a link that leads outside .*set' and is refused; put the file itself"
    ):
        read(name, root)


# Tables


def table_rows(folder):
    (folder / "media").mkdir(exist_ok=True)
    for index in range(4):
        (folder / "media" / f"{index}.png").write_bytes(jpeg(index, "PNG"))
    return [
        {"text": "a fox", "good": "media/0.png", "bad": "media/1.png"},
        {"text": "a cat, sitting", "good": "media/2.png", "bad": "./media/3.png"},
    ]


COLUMNS = {"prompt": "text", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_table_of_paths(tmp_path, suffix):
    rows, path = table_rows(tmp_path), tmp_path / f"pairs.{suffix}"
    if suffix in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if suffix == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    groups, report = read("table", path, **COLUMNS)
    assert [group.prompt for group in groups] == ["a fox", "a cat, sitting"]
    assert [row.media.pixels()[0, 0, 0] for group in groups for row in group.candidates] == [0, 1, 2, 3]
    assert groups[1].preferences[0].samples == ("table-0000001-chosen", "table-0000001-rejected")
    assert (report.read, report.kept) == (2, 2)


def test_table_of_bytes_with_the_columns_of_open_image_preferences(tmp_path):
    media = {"bytes": jpeg(1), "path": "x.jpg"}
    rows = [{"prompt": "a fox", "chosen": media, "rejected": {"bytes": jpeg(2), "path": None}, "category": "animal"}] * 3
    for index in range(2):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-{index}.parquet")
    groups, report = read("table", tmp_path, max_samples=5)
    assert (report.read, report.kept) == (5, 5)
    assert groups[0].candidates[1].media.encoded() == jpeg(2)


def test_table_labels_are_odds_of_the_chosen(tmp_path):
    rows = table_rows(tmp_path)
    labels = [1, 0, 0.5, 0.9, 0.2, "0.5", None, 2, "yes"]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({**rows[0], "votes": label}) for label in labels))
    groups, report = read("table", tmp_path / "t.jsonl", label="votes", **COLUMNS)
    found = [(group.preferences[0].samples[0].rsplit("-")[-1], group.preferences[0].win_probability) for group in groups]
    assert found == [("chosen", None), ("rejected", None), ("chosen", 0.5), ("chosen", 0.9), ("rejected", 0.8), ("chosen", 0.5)]
    assert (report.kept, report.tied, report.broken) == (6, 2, 3)
    assert "votes is 'yes'; it is P(chosen preferred)" in report.reasons[2]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/etc/passwd",
        "media/../../secret.png",
        "https://example.invalid/a.png",
        "file:///etc/passwd",
        "link.png",
        "media/\0.png",
    ],
)
def test_table_refuses_ways_out_of_its_folder(tmp_path, no_network, name):
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(jpeg(1, "PNG"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{**table_rows(folder)[0], "good": name}]
    (folder / "t.json").write_text(json.dumps(rows))
    with pytest.raises(PermissionError, match=r"t\.json row 0 good: .*(lies outside|never fetched|no usable path)"):
        read("table", folder / "t.json", **COLUMNS)


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("./\\a~ "), min_size=1, max_size=12))
def test_no_relative_path_leaves_its_folder(tmp_path_factory, name):
    from diffalign.data.importers.media import inside

    folder = tmp_path_factory.getbasetemp()
    try:
        path = inside(folder, name, "row")
    except PermissionError:
        return
    assert path.is_relative_to(folder.resolve())


def test_table_counts_missing_files_and_skips_empty_prompts(tmp_path):
    rows = table_rows(tmp_path)
    rows += [
        {**rows[0], "good": "media/9.png"},
        {**rows[0], "bad": ""},
        {**rows[0], "bad": None},
        {**rows[0], "text": ""},
        {**rows[0], "bad": 3},
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    groups, report = read("table", tmp_path / "t.json", **COLUMNS)
    assert (len(groups), report.read, report.broken, report.skipped) == (2, 7, 4, 1)


def test_table_names_missing_columns_and_unreadable_files(tmp_path):
    table_rows(tmp_path)
    (tmp_path / "t.csv").write_text("text,good\na,b\n")
    with pytest.raises(ValueError, match=r"lacks the columns bad; expected text, good, bad, found text, good\. Name your columns"):
        read("table", tmp_path / "t.csv", **COLUMNS)
    for name, text in (("t.json", "{"), ("u.json", '{"a": 1}'), ("v.jsonl", '{"text": 1}\n[1]'), ("w.csv", '"text')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"(must be|no readable CSV|lacks the columns)"):
            read("table", tmp_path / name, **COLUMNS)
    (tmp_path / "x.csv").write_bytes(b"text,good,bad\n\xff\xfe,a,b\n")
    with pytest.raises(ValueError, match="save it again as UTF-8"):
        read("table", tmp_path / "x.csv", **COLUMNS)
    (tmp_path / "y.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"has the suffix '\.xlsx'; known are: \.parquet, \.csv"):
        read("table", tmp_path / "y.xlsx")
    with pytest.raises(ValueError, match="are not distinct"):
        read("table", tmp_path / "t.csv", chosen="prompt")


# All of them


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer_refuses_what_it_cannot_use(tmp_path, name):
    assert "max_samples" in import_defaults(name)
    assert importer_function(name).__doc__
    with pytest.raises(
        ValueError, match=f"importer '{name}' has no setting 'max_sample' \\(did you mean 'max_samples'\\?\\); it takes: max_broken"
    ):
        build_import(name, str(tmp_path), max_sample=3)
    with pytest.raises(ValueError, match="max_samples is 0; give 1 or more"):
        read(name, tmp_path, max_samples=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(name, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(name, tmp_path / "nowhere-*.parquet")
    with pytest.raises((FileNotFoundError, ValueError), match=r"found nothing to keep|holds no|does not exist"):
        read(name, tmp_path)


def test_unknown_importers_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown importer 'pick_a_pic' \(did you mean 'pickapic'\?\); choose one of: pickapic, hpdv2"):
        build_import("pick_a_pic", "somewhere")


def test_nothing_kept_is_an_error(tmp_path):
    write_pickapic(tmp_path / "a.parquet", [comparison(0, has_label=False), comparison(1, jpg_0=None)])
    with pytest.raises(ValueError, match=r"found nothing to keep in .*: 2 rows read, 1 skipped .*, 1 broken, the first: .*jpg_0"):
        read("pickapic", tmp_path)


def test_a_prompt_of_a_tsv_may_begin_with_a_quote(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(jpeg(number, "PNG"))
    (tmp_path / "t.tsv").write_text('prompt\tchosen\trejected\n"G I" painted\t0.png\t1.png\n')
    [group] = build_import("table", str(tmp_path / "t.tsv")).groups
    assert group.prompt == '"G I" painted'
