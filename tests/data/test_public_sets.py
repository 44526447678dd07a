"""Importers of public sets, on small sets made here with exactly the public columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_media import flac, mp4, png

from diffalign.data.exported import layout_features, layout_row, layout_schema
from diffalign.data.importers import ImportedGroup, ImportReport, build_import, imagerewarddb
from diffalign.data.importers.judged import win_shares
from diffalign.data.importers.pair_columns import PAIR_SETS
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.modalities.image import Image
from diffalign.data.pairing import PairingSettings, group_candidates, pair_groups
from diffalign.data.records import Candidate, Preference
from diffalign.data.shards import write_shard

MEDIA_STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def read(name: str, source: Path, **values: Any) -> tuple[list[ImportedGroup], ImportReport]:
    imported = build_import(name, str(source), **values)
    return list(imported.groups), imported.report


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def files(folder: Path, make: Callable[[int], bytes], suffix: str, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}{suffix}").write_bytes(make(number))
    return [f"{number}{suffix}" for number in range(count)]


def ends(group: ImportedGroup, row: int = 0) -> list[str]:
    """The ends of the ids of a preference's samples, best first."""
    return [sample.removeprefix(f"{group.group_id}-") for sample in group.preferences[row].samples]


# Sets of pairs: each function writes a set of four rows, whose last has a broken medium, and gives the source and the settings.


def hpdv2_train(folder: Path, key: str = "file_path") -> tuple[Path, dict[str, Any]]:
    names = files(folder / "train", png, ".png", 4)
    verdicts = [[1, 0], [0, 1], [1, 1], [1, 0]]
    paths = [names[:2], names[2:], names[:2], ["no.png", names[0]]]
    rows = [{"prompt": f"p{i}", key: paths[i], "human_preference": verdicts[i]} for i in range(4)]
    return write_json(folder / "train.json", rows), {"folder": "train"}


def hpdv3(folder: Path) -> tuple[Path, dict[str, Any]]:
    names = [f"images/{name}" for name in files(folder / "images", png, ".png", 4)]
    pairs = [(names[0], names[1]), (names[2], names[3]), (names[0], names[2]), ("images/no.png", names[0])]
    numbers = zip((1.0, 0.25, 0.5, 0.9), ([9, 0], [3, 9], [5, 5], [9, 1]), strict=True)
    rows = [
        {
            "prompt": f"p{i}", "path1": one, "path2": two, "model1": "flux", "model2": "sd3", "confidence": confidence,
            "choice_dist": votes, "source": "real",
        }
        for i, ((one, two), (confidence, votes)) in enumerate(zip(pairs, numbers, strict=True))
    ]  # fmt: skip
    return write_json(folder / "train.json", rows), {"probability": "confidence"}


def rapidata(folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = []
    for i, (overall, alignment) in enumerate([((1.0, 0.0), None), ((0.25, 0.75), (0.9, 0.1)), ((0.5, 0.5), (0.4, 0.6)), ((1, 0), (1, 0))]):
        row: dict[str, Any] = {"prompt": f"p{i}", "model1": "a", "model2": "b"}
        for side in (0, 1):
            row[f"image{side + 1}"] = {"bytes": png(2 * i + side) if i < 3 else b"broken", "path": None}
            row[f"weighted_results_image{side + 1}_preference"] = float(overall[side])
            row[f"weighted_results_image{side + 1}_alignment"] = None if alignment is None else float(alignment[side])
            row[f"weighted_results_image{side + 1}_coherence"] = 0.5
        rows.append(row | {f"detailed_results_{end}": "[]" for end in ("preference", "alignment", "coherence")})
    return write_parquet(folder / "a.parquet", rows), {}


def videoalign(folder: Path) -> tuple[Path, dict[str, Any]]:
    names = files(folder / "videos", mp4, ".mp4", 4)
    rows = [
        {
            "path_A": one, "path_B": two, "prompt": f"p{i}", "VQ": vq, "MQ": "A", "TA": "B",
            "fps_A": 8, "num_frames_A": 3, "fps_B": 8, "num_frames_B": 3,
        }
        for i, (one, two, vq) in enumerate(zip([*names[:3], "no.mp4"], names[1:] + names[:1], ["A", "B", "same", "A"], strict=True))
    ]  # fmt: skip
    return write_csv(folder / "pairs.csv", rows), {"folder": "videos"}


PAIRS: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "hpdv2": hpdv2_train,
    "hpdv3": hpdv3,
    "rapidata": rapidata,
    "videoalign": videoalign,
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_win_a_loss_a_tie_and_a_broken_row(name: str, tmp_path: Path) -> None:
    source, settings = PAIRS[name](tmp_path)
    groups, report = read(name, source, **settings)
    assert (report.read, report.kept, report.tied, report.broken) == (4, 3, 1, 1)
    assert [group.prompt for group in groups] == ["p0", "p1", "p2"]
    order = [[row.candidate_id for row in group.candidates] for group in groups]
    assert [group.preferences[0].samples for group in groups] == [tuple(order[0]), tuple(order[1][::-1]), tuple(order[2])]
    one, two, three = (group.preferences[0] for group in groups)
    votes = name in ("hpdv3", "rapidata")
    assert (one.win_probability, two.win_probability, three.win_probability) == ((1.0, 0.75, 0.5) if votes else (None, None, 0.5))
    assert {row.source for row in (one, two, three)} == {name}
    again, stopped = read(name, source, **settings, max_samples=2)
    assert (len(again), stopped.read) == (2, 2)
    with pytest.raises(ValueError, match="more than max_broken=0"):
        read(name, source, **settings, max_broken=0)


def test_hpdv2_accepts_both_keys_and_media_are_those_named(tmp_path: Path) -> None:
    one, settings = hpdv2_train(tmp_path)
    first = read("hpdv2", one, **settings)[0]
    two, _ = hpdv2_train(tmp_path, key="image_path")
    again = read("hpdv2", two, **settings)[0]
    assert [group.preferences for group in again] == [group.preferences for group in first]
    assert [row.media.encoded() for group in first[:2] for row in group.candidates] == [png(number) for number in range(4)]


def test_hpdv2_ranked_lists_of_nine(tmp_path: Path) -> None:
    names = files(tmp_path, png, ".png", 9)
    rank = [3, 1, 9, 5, 2, 7, 4, 8, 5]  # the fourth and the last are tied
    annotations = [{"rank": rank, "user_hash": "u"}]
    source = write_json(tmp_path / "test.json", [{"prompt": "p", "image_path": names, "rank": rank, "raw_annotations": annotations}])
    [group], report = read("hpdv2", source)
    [row] = group.preferences
    assert (row.kind, ends(group), report.kept, report.tied) == ("list", ["1", "4", "0", "6", "3", "8", "5", "7", "2"], 1, 1)
    assert row.scores == (1.0, 0.875, 0.75, 0.625, 0.4375, 0.4375, 0.25, 0.125, 0.0)
    assert [candidate.media.encoded() for candidate in group.candidates] == [png(number) for number in range(9)]
    [group], _ = read("hpdv2", source, pairs=True)
    assert (len(group.preferences), ends(group, 0), ends(group, 35)) == (36, ["1", "4"], ["7", "2"])
    ties = [row for row in group.preferences if row.win_probability == 0.5]
    assert [tuple(sample[-1] for sample in row.samples) for row in ties] == [("3", "8")]
    short = write_json(tmp_path / "short.json", [{"prompt": "p", "image_path": names, "rank": rank[:8]}])
    with pytest.raises(ValueError, match=r"ranks \[3, 1, .*\] for 9 samples; give a number for each"):
        read("hpdv2", short)


def test_win_shares_are_what_counting_by_hand_gives() -> None:
    assert win_shares([1, 2, 3]) == [1.0, 0.5, 0.0]
    assert win_shares([2, 1, 2]) == [0.25, 1.0, 0.25]
    assert win_shares([7, 7]) == [0.5, 0.5]


def test_hpdv3_says_models_votes_and_confidence(tmp_path: Path) -> None:
    source, _ = hpdv3(tmp_path)
    groups, _ = read("hpdv3", source)
    assert [(ends(group), group.preferences[0].win_probability) for group in groups] == [(["1", "2"], None)] * 3
    assert [row.model for row in groups[0].candidates] == ["flux", "sd3"] and groups[0].preferences[0].context == "real"
    voted, _ = read("hpdv3", source, probability="choice_dist")
    assert [(ends(group), group.preferences[0].win_probability) for group in voted] == [
        (["1", "2"], 1.0),
        (["1", "2"], 0.75),  # votes [3, 9]: path1 is preferred, whatever the order of the counts
        (["1", "2"], 0.5),
    ]
    sure, report = read("hpdv3", source, minimum_confidence=0.5)
    assert ([group.prompt for group in sure], report.skipped) == (["p0", "p2"], 1)
    with pytest.raises(ValueError, match="probability is 'vote'; choose confidence, choice_dist, or null"):
        read("hpdv3", source, probability="vote")


def test_rapidata_aspects_are_a_setting(tmp_path: Path) -> None:
    source, _ = rapidata(tmp_path)
    groups, report = read("rapidata", source, aspect="alignment")
    assert [(group.prompt, ends(group), group.preferences[0].win_probability, group.preferences[0].context) for group in groups] == [
        ("p1", ["1", "2"], 0.9, "alignment"),
        ("p2", ["2", "1"], 0.6, "alignment"),
    ]
    assert (report.skipped, report.broken) == (1, 1)
    assert [row.model for row in groups[0].candidates] == ["a", "b"] and groups[0].candidates[0].media.encoded() == png(2)
    with pytest.raises(ValueError, match="aspect is 'looks'; choose one of: overall, alignment, coherence"):
        read("rapidata", source, aspect="looks")


def image_rewards(folder: Path, column: str) -> list[dict[str, Any]]:
    """Three prompts: three images with a tie, a pair whose rows lie apart, and one whose second image is broken."""
    rows = []
    for prompt, number, rank, total in [("a", 0, 2, 3), ("b", 3, 2, 2), ("a", 1, 1, 3), ("a", 2, 2, 3), ("b", 4, 1, 2), ("c", 5, 1, 2)]:
        media = f"{number}.png" if column == "image_path" else {"bytes": png(number), "path": None}
        rows.append(
            {
                column: media, "prompt_id": f"id-{prompt}", "prompt": f"prompt {prompt}", "classification": "People",
                "image_amount_in_total": total, "rank": rank, "overall_rating": 5, "image_text_alignment_rating": 4, "fidelity_rating": 6,
            }
        )  # fmt: skip
    return [*rows, rows[-1] | {column: "no.png" if column == "image_path" else {"bytes": b"broken", "path": None}}]


@pytest.mark.parametrize("column", ["image", "image_path"])
def test_imagerewarddb_groups_rows_by_prompt(column: str, tmp_path: Path) -> None:
    files(tmp_path, png, ".png", 6)
    rows = image_rewards(tmp_path, column)
    source = write_json(tmp_path / "t.json", rows) if column == "image_path" else write_parquet(tmp_path / "t.parquet", rows)
    groups, report = read("imagerewarddb", source)
    assert [group.prompt for group in groups] == ["prompt a", "prompt b"]  # as they become complete
    assert [(ends(group), group.preferences[0].scores) for group in groups] == [
        (["1", "0", "2"], (1.0, 0.25, 0.25)),
        (["1", "0"], (1.0, 0.0)),
    ]
    assert [row.media.encoded() for row in groups[1].candidates] == [png(3), png(4)]
    assert groups[0].candidates[0].tags["overall_rating"] == "5"
    assert (report.read, report.kept, report.broken) == (3, 2, 1)
    assert "prompt_id 'id-c'" in report.reasons[0]
    with pytest.raises(
        ValueError, match="lacks the columns image or image_path; expected prompt_id, prompt, image or image_path, image_amount"
    ):
        read("imagerewarddb", write_json(tmp_path / "u.json", [{"prompt_id": "1", "prompt": "p", "image_amount_in_total": 1, "rank": 1}]))


def test_imagerewarddb_streams_where_the_amount_is_a_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pandas writes a column that lacked a value somewhere: a prompt waits for its own rows alone."""
    rows = [row | {"image_amount_in_total": float(row["image_amount_in_total"])} for row in image_rewards(tmp_path, "image")]
    source, drawn = write_parquet(tmp_path / "t.parquet", rows), 0

    def counted(*arguments: Any, **options: Any) -> Iterator[SourceRow]:
        nonlocal drawn
        for row in stream_rows(*arguments, **options):
            drawn += 1
            yield row

    monkeypatch.setattr(imagerewarddb, "stream_rows", counted)
    groups = build_import("imagerewarddb", str(source)).groups
    assert (next(groups).prompt, drawn, next(groups).prompt, drawn) == ("prompt a", 4, "prompt b", 5)


def test_imagerewarddb_takes_a_prompt_that_lacks_images_as_it_is(tmp_path: Path) -> None:
    rows = [row for row in image_rewards(tmp_path, "image") if row["prompt"] == "prompt a"][:2]
    [group], report = read("imagerewarddb", write_parquet(tmp_path / "t.parquet", rows))
    assert (ends(group), group.preferences[0].scores, report.read) == (["1", "0"], (1.0, 0.0), 1)


def test_imported_lists_are_thinned_and_cut_like_ranked_ones(tmp_path: Path) -> None:
    files(tmp_path, png, ".png", 9)
    rank = [3, 1, 9, 5, 2, 7, 4, 8, 5]
    rows = [
        {"prompt": "p", "image_path": [f"{n}.png" for n in range(9)], "rank": rank},
        {"prompt": "q", "image_path": ["0.png", "1.png"], "rank": [1, 1]},
    ]
    groups, _ = read("hpdv2", write_json(tmp_path / "test.json", rows))
    pool = group_candidates(
        [row for group in groups for row in group.candidates], {}, [row for group in groups for row in group.preferences]
    )

    def kept(**settings: Any) -> list[tuple[str, tuple[float, ...] | None]]:
        found = pair_groups(pool, PairingSettings("imported", **settings)).preferences
        return [("".join(sample[-1] for sample in row.samples), row.scores) for row in found]

    assert kept() == [("14063572", (1.0, 0.875, 0.75, 0.625, 0.4375, 0.25, 0.125, 0.0))]
    assert kept(length=3) == [("162", (1.0, 0.625, 0.0))]
    assert [ids for ids, _ in kept(ties="keep")] == ["140638572", "01"]
    assert [ids for ids, _ in kept(ties="keep", length=2)] == ["12", "01"]
    summary = pair_groups(pool, PairingSettings("imported", length=3)).summary
    assert (summary.pairs_dropped, summary.ties) == ({"ties": 1}, 2)
    assert summary.gap_range == (0.0, 1.0)


# Sets of pair_columns: what makes their media, two rows without the media, the ends of ids in their order for each, the tags of both
# samples and the context of the first row.
STRATEGIES = [{"prompt": "p0", "strategy": "s1"}, {"prompt": "p1", "strategy": None}]
PAIR_ROWS: dict[
    str, tuple[Callable[[int], bytes], list[dict[str, Any]], list[list[str]], tuple[dict[str, str], dict[str, str]], str | None]
]
PAIR_ROWS = {
    "align_anything": (
        png, [{"prompt": "p0", "overall_image": 1}, {"prompt": "p1", "overall_image": 2.0}],
        [["response_1", "response_2"], ["response_2", "response_1"]], ({}, {}), None,
    ),
    "videodpo": (
        mp4, [{"frame_caption": f"p{i}", "score": 0.7} for i in range(2)],
        [["video1", "video2"]] * 2, ({"score": "0.7"}, {"score": "0.7"}), None,
    ),
    "audio_alpaca": (flac, STRATEGIES, [["chosen", "rejected"]] * 2, ({}, {"strategy": "s1"}), "s1"),
    "crpo": (
        flac, [{"captions": f"p{i}", "duration": 0.05} for i in range(2)],
        [["chosen", "reject"]] * 2, ({"duration": "0.05"}, {"duration": "0.05"}), None,
    ),
    "binarized": (png, [{"prompt": f"p{i}"} for i in range(2)], [["chosen", "rejected"]] * 2, ({}, {}), None),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIR_SETS)
@pytest.mark.parametrize("inside", [True, False], ids=["bytes", "paths"])
def test_sets_that_differ_in_column_names(name: str, inside: bool, tmp_path: Path) -> None:
    """Each row's medium is that of its column, in the table itself or beside it; a third row without its second medium is broken."""
    make, rows, order, tags, context = PAIR_ROWS[name]
    columns = PAIR_SETS[name]
    names = files(tmp_path / "media", make, ".x", 4)
    media = [{"bytes": make(number), "path": None} for number in range(4)] if inside else names
    full = [row | {columns.first: media[2 * i], columns.second: media[2 * i + 1]} for i, row in enumerate(rows)]
    full.append(full[0] | {columns.second: None})
    source = write_parquet(tmp_path / "a.parquet", full)
    groups, report = read(name, source, **({} if inside else {"folder": "media"}))
    assert (report.kept, report.broken, [group.prompt for group in groups]) == (2, 1, ["p0", "p1"])
    assert [ends(group) for group in groups] == order and report.reasons[0].startswith(f"a.parquet row 2: a.parquet row 2 {columns.second}")
    assert [row.media.encoded() for group in groups for row in group.candidates] == [make(number) for number in range(4)]
    assert tuple(dict(row.tags) for row in groups[0].candidates) == tags
    assert (groups[0].preferences[0].context, groups[1].preferences[0].context) == (context, None)
    assert {row.win_probability for group in groups for row in group.preferences} == {None}


@pytest.mark.parametrize(("column", "make"), [("overall_image", png), ("overall_audio", flac), ("overall_video", mp4)])
def test_align_anything_has_a_verdict_for_each_modality(column: str, make: Callable[[int], bytes], tmp_path: Path) -> None:
    media = [{"bytes": make(number), "path": None} for number in range(2)]
    rows = [{"prompt": f"p{i}", "response_1": media[0], "response_2": media[1], column: verdict} for i, verdict in enumerate([1, 2, 3])]
    groups, report = read("align_anything", write_parquet(tmp_path / "a.parquet", rows))
    assert [ends(group)[0] for group in groups] == ["response_1", "response_2"]
    assert (report.modality, report.reasons) == (column[8:], [f"a.parquet row 2: {column} is 3; it is one of: 1, 2"])
    empty = dict.fromkeys(("overall_image", "overall_audio", "overall_video"))
    groups, report = read("align_anything", write_parquet(tmp_path / "all.parquet", [*(empty | row for row in rows[:2]), rows[0] | empty]))
    assert [ends(group)[0] for group in groups] == ["response_1", "response_2"], "the columns of other modalities say nothing"
    assert report.reasons == ["all.parquet row 2: overall_image is None; it is one of: 1, 2"]
    with pytest.raises(ValueError, match="lacks the columns overall_image or overall_audio or overall_video; expected prompt, response_1"):
        read("align_anything", write_parquet(tmp_path / "b.parquet", [{"prompt": "p", "response_1": "a", "response_2": "b"}]))


def test_videoalign_aspects_are_a_setting(tmp_path: Path) -> None:
    source, settings = videoalign(tmp_path)
    groups, _ = read("videoalign", source, **settings, aspect="TA")
    assert [(ends(group), group.preferences[0].context) for group in groups] == [(["B", "A"], "TA")] * 3
    assert [dict(row.tags) for row in groups[0].candidates] == [{"fps_A": "8", "num_frames_A": "3"}, {"fps_B": "8", "num_frames_B": "3"}]
    assert [row.media.encoded() for row in groups[0].candidates] == [mp4(0), mp4(1)]
    with pytest.raises(ValueError, match="aspect is 'overall'; choose one of: VQ, MQ, TA"):
        read("videoalign", source, aspect="overall")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_videoalign_says_models_where_the_set_does(form: str, tmp_path: Path) -> None:
    """Without them pairs of two models would pass for pairs of one."""
    names = files(tmp_path, mp4, ".mp4", 2)
    rows = [
        {"path_A": names[0], "path_B": names[1], "prompt": "p", "VQ": "A", "A_model": "gen3", "B_model": model} for model in ("luma", "")
    ]
    groups, _ = read("videoalign", {"csv": write_csv, "parquet": write_parquet}[form](tmp_path / f"set.{form}", rows))
    assert [[row.model for row in group.candidates] for group in groups] == [["gen3", "luma"], ["gen3", ""]]
    rule = PairingSettings("imported", same_source=False)
    pool = group_candidates(
        [row for group in groups for row in group.candidates], {}, [row for group in groups for row in group.preferences]
    )
    assert pair_groups(pool, rule).summary.across_sources == 2


SCORES = ("visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency")


def test_videofeedback_is_unpaired(tmp_path: Path) -> None:
    files(tmp_path / "videos", mp4, ".mp4", 2)
    rows = [
        {"id": "0", "images": ["0_00.jpg"], "text prompt": "a cat", "video link": "https://example.invalid/0.mp4", "conversations": []}
        | dict(zip(SCORES, values, strict=True))
        for values in [(4, 3, 3, 2, 1), (1, 2, 2, 4, 3)]
    ]
    rows[1]["id"] = "1.mp4"
    rows.append(rows[0] | {"id": "2"})
    source = write_json(tmp_path / "train.json", rows)
    groups, report = read("videofeedback", source, folder="videos")
    said = [(row.kind, row.labels, row.scores) for group in groups for row in group.preferences]
    assert said == [("labelled", (1,), (2.6,)), ("labelled", (0,), (2.4,))]
    assert (report.kept, report.broken) == (2, 1) and groups[0].candidates[0].tags["dynamic degree"] == "3"
    one = read("videofeedback", source, folder="videos", aspect="text-to-video alignment", threshold=3)[0]
    assert [(row.labels, row.scores) for group in one for row in group.preferences] == [((0,), (2.0,)), ((1,), (4.0,))]
    assert [row.media.encoded() for group in one for row in group.candidates] == [mp4(0), mp4(1)]


def test_vision_reward_of_single_media_and_of_pairs(tmp_path: Path) -> None:
    annotation = {"alignment": 2, "composition": -1}
    rows = [
        {
            "image": {"bytes": png(i), "path": None}, "internal_id": f"i{i}", "prompt": "p", "url": "", "annotation": annotation,
            "meta_result": result, "meta_mask": mask,
        }
        for i, (result, mask) in enumerate([([[1, 0], [1]], [[1, 1], [0]]), ([[0, 0], [1]], [[1, 1], [1]]), ([[1]], [[0]])])
    ]  # fmt: skip
    source = write_parquet(tmp_path / "images.parquet", rows)
    groups, report = read("vision_reward", source)
    assert [(row.labels, row.scores) for group in groups for row in group.preferences] == [((1,), (0.5,)), ((0,), (1 / 3,))]
    assert report.broken == 1 and "give as many, one above 0" in report.reasons[0]
    by_aspect = read("vision_reward", source, aspect="composition", threshold=-1)[0]
    assert [(row.labels, row.scores) for group in by_aspect for row in group.preferences] == [((1,), (-1.0,))] * 3
    names = files(tmp_path / "videos", mp4, ".mp4", 2)
    answers = ["video1", "video2", "tie", "left"]
    tests = [{"internal_id": "x", "prompt": "p", "standard_answer": a, "video1_path": names[0], "video2_path": names[1]} for a in answers]
    pairs, report = read("vision_reward", write_parquet(tmp_path / "videos.parquet", tests), folder="videos")
    assert [(ends(group), group.preferences[0].win_probability) for group in pairs] == [
        (["1", "2"], None),
        (["2", "1"], None),
        (["1", "2"], 0.5),
    ]
    assert "standard_answer is 'left'; it is one of: 1, video1, 2, video2" in report.reasons[0]


def test_kto_csv_labels_single_images(tmp_path: Path) -> None:
    files(tmp_path / "train", png, ".png", 3)
    words = ["exclusive_win", "exclusive_lose", "intersection", "other"]
    rows = [{"file_path": f"{i % 3}.png", "caption": f"p{i}", "label": word} for i, word in enumerate(words)]
    source = write_csv(tmp_path / "train_processed_v3.csv", rows)
    groups, report = read("kto_csv", source, folder="train")
    assert [(group.prompt, group.preferences[0].labels) for group in groups] == [("p0", (1,)), ("p1", (0,))]
    assert (report.skipped, report.broken) == (1, 1)
    wanted, _ = read("kto_csv", source, folder="train", intersection="unwanted")
    assert [group.preferences[0].labels for group in wanted] == [(1,), (0,), (0,)]
    rows = pair_groups(
        group_candidates([row for group in groups for row in group.candidates], {}, [row for group in groups for row in group.preferences]),
        PairingSettings("imported"),
    ).preferences
    assert [row.labels for row in rows] == [(1,), (0,)]


def test_paths_outside_the_folder_stop_every_import(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows = [{"captions": "p", "chosen": "../a.flac", "reject": "b.flac"}]
    with pytest.raises(PermissionError, match="lies outside"):
        read("crpo", write_json(tmp_path / "set" / "a.json", rows))
    with pytest.raises(PermissionError, match="lies outside"):
        read("crpo", tmp_path / "set" / "a.json", folder="..")


FIRST_MISSING = {
    "hpdv2": "prompt, file_path or image_path, human_preference or rank",
    "hpdv3": "prompt, path1, path2",
    "imagerewarddb": "prompt_id, prompt, image or image_path, image_amount_in_total, rank",
    "rapidata": "prompt, image1, image2, weighted_results_image1_preference, weighted_results_image2_preference",
    "align_anything": "prompt, response_1, response_2, overall_image or overall_audio or overall_video",
    "vision_reward": "prompt, image or video_path or video1_path, annotation or standard_answer",
    "videoalign": "path_A, path_B, prompt, VQ",
    "videodpo": "frame_caption, video1, video2",
    "videofeedback": f"id, text prompt, {' or '.join(SCORES)}",
    "audio_alpaca": "prompt, chosen, rejected",
    "crpo": "captions, chosen, reject",
    "binarized": "prompt, chosen, rejected",
    "kto_csv": "file_path, caption, label",
    "records": "prompt, candidates, preferences",
}


@pytest.mark.parametrize("name", FIRST_MISSING)
def test_missing_columns_are_named_with_the_expected(name: str, tmp_path: Path) -> None:
    rows = write_json(tmp_path / "a.json", [{"text": "p"}])
    expected = FIRST_MISSING[name]
    with pytest.raises(ValueError) as caught:
        read(name, rows)
    assert f"a.json' lacks the columns {expected}; expected {expected}, found text." in str(caught.value)


def test_media_of_a_hub_come_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sounds and lists of pictures as `datasets` types them: its own decoders are not asked, which need libraries that may be missing."""
    datasets = pytest.importorskip("datasets")
    media = [{"bytes": flac(number), "path": None} for number in range(2)]
    write_parquet(tmp_path / "audio.parquet", [{"prompt": "p", "chosen": media[0], "rejected": media[1], "strategy": "s"}])
    load = datasets.load_dataset

    def from_disk(name: str, *, split: str, revision: str | None, streaming: bool) -> Any:
        assert (name, split, revision, streaming) == ("declare-lab/audio-alpaca", "validation", "v1", True)
        rows = load("parquet", data_files=str(tmp_path / "audio.parquet"), split="train", streaming=True)
        return rows.cast_column("chosen", datasets.Audio()).cast_column("rejected", datasets.Audio())

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    imported = build_import("audio_alpaca", "declare-lab/audio-alpaca", split="validation", revision="v1")
    [group] = imported.groups
    assert [row.media.encoded() for row in group.candidates] == [flac(0), flac(1)]


def test_a_subset_of_a_hub_is_named_behind_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Align-anything has one for each modality, and none that is read without a name."""
    datasets = pytest.importorskip("datasets")
    media = [{"bytes": png(number), "path": None} for number in range(2)]
    write_parquet(tmp_path / "a.parquet", [{"prompt": "p", "response_1": media[0], "response_2": media[1], "overall_image": 2}])
    load = datasets.load_dataset

    def from_disk(name: str, subset: str, *, split: str, revision: str | None, streaming: bool) -> Any:
        assert (name, subset, split) == ("PKU-Alignment/align-anything", "text-to-image", "val")
        return load("parquet", data_files=str(tmp_path / "a.parquet"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    [group] = build_import("align_anything", "PKU-Alignment/align-anything:text-to-image", split="val").groups
    assert ends(group) == ["response_2", "response_1"]


def test_an_exported_list_comes_back_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "lists.parquet"
    candidates = [Candidate(f"c{number}", "g", "p", Image.from_bytes(png(number)), model="m", seed=number) for number in range(3)]
    row = layout_row(Preference("g", "p", ("c0", "c1", "c2"), "list", scores=(3.0, 2.0, 2.0), weight=0.5, source="s"), candidates)
    write_shard(path, [row], layout_schema("list"), layout_features("list", "image"))
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: load("parquet", data_files=str(path), split="train", streaming=True))
    [group] = build_import("table", "some/set", exported=True).groups
    assert [row.media.encoded() for row in group.candidates] == [png(number) for number in range(3)]
    [found] = group.preferences
    assert (found.kind, found.scores, found.weight, found.source) == ("list", (3.0, 2.0, 2.0), 0.5, "s")
    assert [(row.model, row.seed) for row in group.candidates] == [("m", 0), ("m", 1), ("m", 2)]


def broken_sets() -> dict[str, tuple[Callable[[int], bytes], dict[str, Any], str]]:
    """Importer → what makes its media, a row whose media columns name 0.x and 1.x, and the column that is then broken."""
    return {
        "align_anything": (png, {"prompt": "p", "response_1": "0.x", "response_2": "1.x", "overall_image": 1}, "response_2"),
        "vision_reward": (mp4, {"prompt": "p", "video1_path": "0.x", "video2_path": "1.x", "standard_answer": "video1"}, "video1_path"),
        "videoalign": (mp4, {"path_A": "0.x", "path_B": "1.x", "prompt": "p", "VQ": "A"}, "path_B"),
        "videodpo": (mp4, {"video1": "0.x", "video2": "1.x", "frame_caption": "p", "score": 1}, "video1"),
        "audio_alpaca": (flac, {"prompt": "p", "chosen": "0.x", "rejected": "1.x", "strategy": "s"}, "chosen"),
        "crpo": (flac, {"captions": "p", "duration": 1, "chosen": "0.x", "reject": "1.x"}, "reject"),
        "kto_csv": (png, {"file_path": "0.x", "caption": "p", "label": "exclusive_win"}, "file_path"),
        "hpdv3": (png, {"prompt": "p", "path1": "0.x", "path2": "1.x"}, "path2"),
    }


@pytest.mark.parametrize("name", broken_sets())
@pytest.mark.parametrize("kind", ["missing", "cut", "null"])
def test_rows_with_broken_media_are_counted(name: str, kind: str, tmp_path: Path) -> None:
    make, row, column = broken_sets()[name]
    files(tmp_path, make, ".x", 2)
    (tmp_path / "cut.x").write_bytes(make(0)[: len(make(0)) // 2])
    bad = row | {column: {"missing": "no.x", "cut": "cut.x", "null": None}[kind]}
    source = write_json(tmp_path / "set.json", [bad, row, bad, row, row])
    groups, report = read(name, source, max_samples=2)
    assert (report.read, report.kept, report.broken, len(groups)) == (4, 2, 2, 2)
    assert report.reasons[0].startswith("set.json row 0: ")
    assert {group.prompt for group in groups} == {"p"} and len({group.group_id for group in groups}) == 2
