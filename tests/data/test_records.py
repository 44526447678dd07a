"""Shards and records: nothing lost on the way to disk and back, nothing half written, and `datasets` opens them."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.modalities import media_class
from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from diffalign.data.records import (
    PREFERENCES,
    Candidate,
    Preference,
    read_candidates,
    read_preferences,
    read_scores,
    score_columns,
    write_candidates,
    write_preferences,
)
from diffalign.data.shards import count_rows, read_rows, shard_paths, write_shard

SCORES = pa.schema(
    [pa.field("candidate_id", pa.string(), nullable=False), pa.field("overall", pa.float32()), pa.field("count", pa.float64())]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def candidate(index: int = 0, **values) -> Candidate:
    fields = {
        "candidate_id": f"c{index}",
        "group_id": "g",
        "prompt": "a fox",
        "media": Image.from_pixels(np.full((4, 6, 3), index, np.uint8)),
    }
    return Candidate(**{**fields, **values})


@settings(deadline=None, max_examples=40)
@given(
    prompt=texts,
    model=texts,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    steps=st.none() | st.integers(0, 2**31 - 1),
    guidance=st.none() | st.floats(0, 100, width=32),
    negative=st.none() | texts,
    parent=st.none() | texts,
    tags=st.dictionaries(texts, texts, max_size=3),
)
def test_candidates_write_read_identity(tmp_path_factory, prompt, model, seed, steps, guidance, negative, parent, tags):
    folder = tmp_path_factory.mktemp("candidates")
    written = candidate(
        3, prompt=prompt, model=model, seed=seed, steps=steps, guidance=guidance, negative_prompt=negative, parent=parent, tags=tags
    )
    write_candidates(folder / "shard-00000.parquet", [written])
    (read,) = read_candidates(folder)
    assert {**vars(read), "media": 0} == {**vars(written), "media": 0}
    assert read.media.identity() == written.media.identity()


@st.composite
def preferences(draw):
    kind = draw(st.sampled_from(["pair", "list", "labelled"]))
    count = 2 if kind == "pair" else draw(st.integers(2 if kind == "list" else 1, 5))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return Preference(
        group_id=draw(texts),
        prompt=draw(texts),
        samples=tuple(draw(st.lists(texts, min_size=count, max_size=count, unique=True))),
        kind=kind,
        labels=tuple(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))) if kind == "labelled" else None,
        scores=draw(st.none() | st.lists(finite, min_size=count, max_size=count).map(tuple)),
        win_probability=draw(st.none() | st.floats(0, 1)),
        segment_labels=draw(st.none() | st.lists(st.sampled_from([-1, 0, 1]), max_size=4).map(tuple)),
        weight=draw(st.floats(0, 1e9)),
        source=draw(texts),
        context=draw(st.none() | texts),
        user=draw(st.none() | texts),
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(preferences(), max_size=4))
def test_preferences_write_read_identity(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("preferences")
    write_preferences(folder / "shard-00000.parquet", rows)
    assert read_preferences(folder) == rows


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    for index in (10, 2, 0):
        write_candidates(tmp_path / f"shard-{index}.parquet", [candidate(index)])
    (tmp_path / "stage.json").write_text("{}")
    (tmp_path / ".shard-00003.parquet.1.tmp").write_text("half")
    assert [row.candidate_id for row in read_candidates(tmp_path)] == ["c0", "c2", "c10"]
    assert count_rows(tmp_path) == 3
    assert next(read_rows(tmp_path, ["candidate_id"])) == {"candidate_id": "c0"}


def test_a_failing_write_leaves_the_old_shard_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "shard-00000.parquet"
    write_candidates(path, [candidate(1)])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_candidates(path, [candidate(2)])
    assert [row.candidate_id for row in read_candidates(tmp_path)] == ["c1"]
    assert os.listdir(tmp_path) == ["shard-00000.parquet"]  # noqa: PTH208


def test_the_temporary_file_lies_in_the_same_folder_and_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync") or sync(descriptor))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: events.append(f"rename in {self.parent == target.parent}") or rename(self, target)
    )
    write_candidates(tmp_path / "shard-00000.parquet", [candidate()])
    assert events[:2] == ["sync", "rename in True"]


def sine(index: int) -> np.ndarray:
    return (np.sin(np.arange(800) / (5 + index)) / 2)[None]


# Modality → a medium of a number, what `datasets` decodes it with, and the array in what that gives, as our own decoder has it.
MEDIA = {
    "image": (lambda index: Image.from_pixels(np.full((4, 6, 3), index, np.uint8)), "Image", np.asarray, Image.pixels),
    "video": (
        lambda index: Video.from_frames(np.full((5, 16, 16, 3), 20 * index, np.uint8), 8.0),
        "Video",
        lambda decoder: decoder[:].permute(0, 2, 3, 1).numpy(),
        Video.frames,
    ),
    "audio": (
        lambda index: Audio.from_waveform(sine(index), 16_000),
        "Audio",
        lambda decoder: decoder.get_all_samples().data.numpy(),
        Audio.waveform,
    ),
}


def open_candidates(folder, modality, rows, **how):
    """`datasets` over two shards of candidates c0, c1, … and c9 of a modality."""
    make = MEDIA[modality][0]
    write_candidates(folder / "shard-00000.parquet", [candidate(index, media=make(index)) for index in range(rows)])
    write_candidates(folder / "shard-00001.parquet", [candidate(9, media=make(9), tags={"task": "count"})])
    files = [str(path) for path in shard_paths(folder)]
    return pytest.importorskip("datasets").load_dataset("parquet", data_files=files, split="train", **how)


@pytest.mark.parametrize(("modality", "rows"), [("image", 0), *((modality, 3) for modality in MEDIA)])
def test_datasets_opens_candidates_as_media(tmp_path, modality, rows):
    """Without its decoder: the column is of media, and the bytes in it are the file that our own decoder reads."""
    datasets = pytest.importorskip("datasets")
    make, feature, _, array = MEDIA[modality]
    kind = getattr(datasets, feature)
    opened = open_candidates(tmp_path, modality, rows, cache_dir=str(tmp_path / "cache"))
    assert isinstance(opened.features["media"], kind)
    assert opened["candidate_id"][:] == [f"c{index}" for index in range(rows)] + ["c9"]
    assert json.loads(opened.select_columns(["tags"])[rows]["tags"]) == {"task": "count"}
    undecoded = opened.cast_column("media", kind(decode=False))
    for row, index in zip(undecoded, [*range(rows), 9], strict=True):
        assert np.array_equal(array(media_class(modality).from_bytes(row["media"]["bytes"])), array(make(index)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("modality", MEDIA)
def test_datasets_decodes_candidates(tmp_path, modality, streaming):
    if modality != "image":
        pytest.importorskip("torchcodec")  # what `datasets` decodes videos and sounds with; .ci/run installs it after the suite
    make, _, decoded, array = MEDIA[modality]
    how = {"streaming": True} if streaming else {"cache_dir": str(tmp_path / "cache")}
    rows = list(open_candidates(tmp_path, modality, 3, **how))
    assert [row["candidate_id"] for row in rows] == ["c0", "c1", "c2", "c9"]
    for row, index in zip(rows, (0, 1, 2, 9), strict=True):
        assert np.array_equal(decoded(row["media"]), array(make(index)))


def test_datasets_opens_preferences(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_preferences(tmp_path / "shard-00000.parquet", [Preference("g", "a fox", ("c0", "c1"), scores=(1.0, 0.5))])
    opened = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "shard-00000.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert opened[0]["samples"] == ["c0", "c1"]
    assert opened.column_names == PREFERENCES.names


def test_scores_are_addressed_by_reward_and_dimension(tmp_path):
    write_shard(tmp_path / "shapes" / "shard-00000.parquet", [{"candidate_id": "a", "overall": 0.5, "count": 1.0}], SCORES)
    write_shard(tmp_path / "shapes" / "shard-00001.parquet", [{"candidate_id": "b", "overall": None, "count": 0.0}], SCORES)
    write_shard(tmp_path / "clip" / "shard-00000.parquet", [{"candidate_id": "a", "overall": 2.0, "count": 3.0}], SCORES)
    (tmp_path / "stage.json").write_text("{}")
    read = read_scores(tmp_path)
    assert sorted(read) == ["clip.count", "clip.overall", "shapes.count", "shapes.overall"]
    assert read["shapes.count"] == {"a": 1.0, "b": 0.0}
    assert read["clip.overall"] == {"a": 2.0}
    (tmp_path / "failed").mkdir()  # a reward that could not be loaded is in nobody's way
    assert sorted(read_scores(tmp_path, ["clip"])) == ["clip.count", "clip.overall"]
    with pytest.raises(FileNotFoundError, match=r"failed' holds no shard"):
        read_scores(tmp_path, ["failed"])
    assert read_scores(tmp_path / "nowhere", []) == {}


def test_bad_rows_are_refused_with_their_number(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    with pytest.raises(ValueError, match=r"row 1 .* unknown columns \['colour'\]; the schema has: candidate_id, overall, count"):
        write_shard(path, [{"candidate_id": "a"}, {"candidate_id": "b", "colour": 1}], SCORES)
    with pytest.raises(ValueError, match=r"row 0 .* lacks \['candidate_id'\], which may not be null"):
        write_shard(path, [{"overall": 1.0}], SCORES)
    with pytest.raises(ValueError, match=r"do not fit their schema.*overall: float"):
        write_shard(path, [{"candidate_id": "a", "overall": "much"}], SCORES)
    assert not path.exists()


def test_missing_and_damaged_shards_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage that writes it first"):
        count_rows(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no shard-\*\.parquet"):
        list(read_rows(tmp_path))
    with pytest.raises(FileNotFoundError, match="run the stage `score` first"):
        read_scores(tmp_path / "scores")
    path = tmp_path / "shard-00000.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="no readable Parquet"):
        list(read_rows(tmp_path))
    write_candidates(path, [candidate()])
    with pytest.raises(ValueError, match="has no column 'colour'; it has: candidate_id"):
        list(read_rows(tmp_path, ["colour"]))
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": ("a",)}, "kind 'pair' with 1 samples"),
        ({"samples": ("a", "b", "c")}, "kind 'pair' with 3 samples"),
        ({"samples": ("a", "a")}, "a sample occurs twice"),
        ({"kind": "duel"}, "unknown kind 'duel'; choose one of: pair, list, labelled"),
        ({"kind": "labelled"}, "labels belong to kind 'labelled'"),
        ({"labels": (1, 0)}, "labels belong to kind 'labelled'"),
        ({"kind": "labelled", "labels": (1, 2)}, "give 0 or 1 for each"),
        ({"scores": (1.0,)}, "one finite number for each"),
        ({"scores": (float("nan"), 1.0)}, "one finite number for each"),
        ({"win_probability": 1.5}, "win_probability 1.5"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"segment_labels": (2,)}, "each is −1, 0 or 1"),
    ],
)
def test_impossible_preferences_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preference(**{"group_id": "g", "prompt": "p", "samples": ("a", "b"), **values})


def test_a_score_that_a_judge_left_out_is_missing_where_training_reads_it(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("candidate_id", pa.string()), pa.field("score", pa.float64())])
    rows = [{"candidate_id": name, "score": value} for name, value in (("a", 1.0), ("b", float("nan")), ("c", 3.0))]
    write_shard(tmp_path / "judge" / "shard-00000.parquet", rows, schema)
    assert score_columns(tmp_path, ["judge.score"], ["a", "c"], standardise=False) == {"a": (1.0,), "c": (3.0,)}
    with pytest.raises(ValueError, match=r"2 of 3 samples have no judge\.score, the first: 'b'; .*name the score in pair\.by"):
        score_columns(tmp_path, ["judge.score"], ["a", "b", "d"], standardise=False)
