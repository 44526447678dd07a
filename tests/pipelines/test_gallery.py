from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args
from unittest.mock import ANY

import numpy as np
import pytest
from decoded import watch
from small_road import finish_until_pair, make_candidates, make_config, pairs_of

from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from diffalign.data.records import STRENGTH, Candidate, Preference, write_candidates, write_preferences
from diffalign.data.shards import write_shard
from diffalign.gallery import ROLES, Sample
from pipelines.config import Config
from pipelines.gallery import Gallery, comparison_of, curves_of, flags_of, gap_of, pair_rows, roles_of, run, sample_of, short_source
from pipelines.progress import Progress
from pipelines.report import Role, Scored, make_report
from pipelines.score import score_schema
from pipelines.stage import open_stage

QUIET = Progress(silent=True)
PROMPT = "a red circle <script>alert(1)</script>"


def write_evaluation(folder: Path, count: int = 5, *, seed_of_aligned: int = 0) -> None:
    """Samples, scores and report of a base and one model."""
    draw, values = np.random.default_rng(0), {}
    for name in ("base", "aligned"):
        offset = seed_of_aligned if name == "aligned" else 0
        rows = [
            Candidate(f"g{row}-00-{name}", f"g{row}", PROMPT, Image.from_pixels(draw.integers(0, 256, (16, 16, 3), np.uint8)), name,
                      seed=2**62 + row + offset, tags={"task": "colour"})
            for row in range(count)
        ]  # fmt: skip
        values[name] = draw.random((count, 1))
        write_candidates(folder / name / "shard-00000.parquet", rows)
        table = [{"candidate_id": row.candidate_id, "overall": float(value)} for row, [value] in zip(rows, values[name], strict=True)]
        write_shard(folder / name / "scores" / "shapes" / "shard-00000.parquet", table, score_schema(["overall"]))
    scored = [Scored(name, {"shapes.overall": scores}) for name, scores in values.items()]
    settings = {"steps": 20, "size": [16, 24]}
    report = make_report(scored[0], scored[1:], prompts=[PROMPT] * count, trained_on=["shapes.overall"], settings=settings)
    (folder / "report.json").write_text(json.dumps(report))


def whole_run(tmp_path: Path, **gallery: object) -> Config:
    config = make_config(
        tmp_path / "run", Path("nobody/nothing"), pair={"by": "shapes.overall"}, train={"steps": 3, "objective": "ipo"},
        evaluate={"prompts": {"texts": [PROMPT]}}, gallery=gallery,
    )  # fmt: skip
    candidates = make_candidates(12)
    finish_until_pair(config, candidates, pairs_of(candidates))
    with open_stage(config, "train", settings={}) as stage:
        lines = [{"step": step, "loss": 0.7, "win_adv": 0.1, "lose_adv": 0.2, "loss/t_bucket_0": 1.0} for step in (1, 2, 3)]
        (stage.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        stage.finish({})
    with open_stage(config, "evaluate", settings={}) as stage:
        write_evaluation(stage.path)
        stage.finish({})
    return config


def script(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_of_a_whole_run(tmp_path: Path) -> None:
    config = whole_run(tmp_path, max_pairs=4, title="A <b>title</b>")
    run(config, progress=QUIET)
    folder = config.run / "gallery"
    assert (folder / "index.html").is_file() and (folder / "stage.json").is_file()
    header = json.loads(script(folder / "data" / "gallery.js").removeprefix('galleryData("gallery",').rstrip("\n);"))
    compare = header["compare"]
    assert header["title"] == "A <b>title</b>"
    assert (compare["count"], header["pairs"]["count"], header["curves"]["count"]) == (5, 4, 3)
    assert [column["name"] for column in compare["columns"]] == ["base", "aligned"] and compare["roles"] == ["trained"]
    assert dict(compare["settings"]) == {"steps": "20", "size": "24 × 16"}
    assert len(list((folder / "media").rglob("*.webp"))) == 5 * 2 + 4 * 2
    everything = "".join(script(path) for path in folder.rglob("*.js") if path.parent.name == "data" or path.parent.parent.name == "data")
    assert "<script>alert" not in everything
    written = (folder / "index.html").stat().st_mtime_ns
    run(config, progress=QUIET)
    assert (folder / "index.html").stat().st_mtime_ns == written


def test_another_evaluation_or_title_writes_the_page_anew(tmp_path: Path) -> None:
    config = whole_run(tmp_path)
    run(config, progress=QUIET)
    with open_stage(config, "evaluate", settings={"rewards": {}}, outdated=lambda key, before, now: ()) as stage:
        write_evaluation(stage.path, 7)
        stage.finish({})
    run(config, progress=QUIET)
    assert '"count":7' in script(config.run / "gallery" / "data" / "gallery.js")
    named = config.model_copy(update={"gallery": Gallery(title="Another title")})
    run(named, progress=QUIET)
    assert "Another title" in script(config.run / "gallery" / "data" / "gallery.js")
    assert json.loads(script(config.run / "gallery" / "stage.json"))["complete"]


def test_rows_pair_base_and_model_by_prompt_and_seed(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    comparison = comparison_of(tmp_path, report)
    rows = list(comparison.rows)
    assert [column.name for column in comparison.columns] == ["base", "aligned"]
    assert [row.seed for row in rows] == [2**62 + row for row in range(5)] and rows[0].tags == {"task": "colour"}
    for row in rows:
        assert [sample.candidate_id.rpartition("-")[2] for sample in row.samples if sample] == ["base", "aligned"]
        assert all(set(sample.scores) == {"shapes.overall"} for sample in row.samples if sample)
    mean = np.mean([row.samples[1].scores["shapes.overall"] - row.samples[0].scores["shapes.overall"] for row in rows])  # type: ignore[union-attr]
    [line] = comparison.summary
    assert line.change == pytest.approx(mean) and line.column == "aligned"


def test_roles_are_those_of_the_report() -> None:
    names = ("shapes.overall", "shapes.colour", "pick_score.score", "saturation.score")
    scored = {name: np.random.default_rng(0).random((4, 1)) for name in names}
    report = make_report(Scored("base", scored), [Scored("aligned", scored)], prompts=["p"] * 4, trained_on=["shapes.overall"])
    assert roles_of(report) == dict(zip(names, ("trained", "same reward", "held out", "guard"), strict=True))
    assert get_args(Role) == ROLES


def test_a_path_does_not_fill_the_title() -> None:
    assert short_source("/models/of/mine/sd15/unet_only") == "sd15/unet_only"
    assert short_source("stable-diffusion-v1-5/stable-diffusion-v1-5") == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_samples_that_do_not_match_are_no_comparison(tmp_path: Path) -> None:
    write_evaluation(tmp_path, seed_of_aligned=1)
    report = json.loads((tmp_path / "report.json").read_text())
    with pytest.raises(ValueError, match=r"'g0-00-aligned' of 'aligned' and 'g0-00-base' of the base differ in prompt, seed or size"):
        list(comparison_of(tmp_path, report).rows)


def test_pairs_follow_the_preferences(tmp_path: Path) -> None:
    candidates = [dataclasses.replace(candidate, tags={**candidate.tags, STRENGTH: "0.71"}) for candidate in make_candidates(6)]
    write_candidates(tmp_path / "candidates" / "shard-00000.parquet", candidates)
    labelled = Preference("g2", candidates[4].prompt, ("g2-0", "g2-1"), "labelled", labels=(0, 1))
    rows = list(pair_rows([*pairs_of(candidates)[:2], labelled], tmp_path / "candidates", {"clip.score": {"g0-1": 0.5}}))
    assert [(row.chosen.candidate_id, row.rejected.candidate_id) for row in rows] == [("g0-0", "g0-1"), ("g1-0", "g1-1"), ("g2-1", "g2-0")]
    assert rows[0].gap == 0.75 and np.isnan(rows[2].gap)
    assert {*rows[0].tags} == {"task"}  # a filter by strength would have as many choices as there are groups
    assert rows[0].chosen.scores == {} and rows[0].rejected.scores == {"clip.score": 0.5}
    with pytest.raises(ValueError, match=r"1 candidates of the preferences are not in .*'gone'"):
        list(pair_rows([Preference("g0", "p", ("g0-0", "gone"))], tmp_path / "candidates", {}))


def picture(value: tuple[int, int, int], *, height: int = 8, model: str = "m", name: str = "c") -> Candidate:
    return Candidate(name, "g", "p", Image.from_pixels(np.full((height, 8, 3), value, np.uint8)), model)


def test_flags() -> None:
    pair = Preference("g", "p", ("a", "b"), scores=(1.0, 0.0))
    grey, red = picture((90, 90, 90), name="a"), picture((200, 20, 20), name="b")
    assert flags_of(pair, grey, red) == ["saturation gap"]
    assert flags_of(pair, grey, dataclasses.replace(grey, candidate_id="b")) == ["identical"]
    assert flags_of(pair, grey, picture((90, 90, 90), height=9, name="b", model="n")) == ["size mismatch", "different models"]
    tied = Preference("g", "p", ("a", "b"), win_probability=0.5)
    assert flags_of(tied, grey, picture((80, 80, 80), name="b")) == ["tie"] and gap_of(tied, ("a", "b")) == 0
    assert np.isnan(gap_of(Preference("g", "p", ("a", "b")), ("a", "b")))  # nothing is known


@pytest.mark.parametrize(("labels", "flags"), [((1, 0, 0, -1), []), ((0, 0, 0, 1), []), ((0, 0, 0, 0), ["tie"]), (None, ["tie"])])
def test_a_pair_with_a_preferred_span_is_no_tie(labels: tuple[int, ...] | None, flags: list[str]) -> None:
    pair = Preference("g", "p", ("a", "b"), segment_labels=labels)
    grey, near = picture((90, 90, 90), name="a"), picture((80, 80, 80), name="b")
    assert flags_of(dataclasses.replace(pair, scores=(0.5, 0.5)), grey, near) == flags
    assert flags_of(dataclasses.replace(pair, win_probability=0.5), grey, near) == flags


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ([17, 32, 24], "24 × 32 × 17"),
        ([[17, 32, 24], [13, 32, 24]], "24 × 32 × 17, 24 × 32 × 13"),
        ([[32768], [49152]], "32768, 49152"),
    ],
)
def test_sizes_stand_in_the_header_as_people_write_them(size: list[Any], shown: str, tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    report["settings"]["size"] = size
    assert comparison_of(tmp_path, report).settings["size"] == shown


def tone(level: float, name: str) -> Candidate:
    wave = level * np.sin(2 * np.pi * 997 * np.arange(16_000) / 16_000)
    return Candidate(name, "g", "p", Audio.from_waveform(wave[None], 16_000), "m")


def test_a_sound_that_is_much_louder_is_flagged_and_a_video_has_no_gap() -> None:
    pair = Preference("g", "p", ("a", "b"), scores=(1.0, 0.0))
    half = tone(0.5, "a")
    assert flags_of(pair, half, tone(0.5 * 10 ** (-5.8 / 20), "b")) == []
    assert flags_of(pair, half, tone(0.5 * 10 ** (-6.2 / 20), "b")) == ["loudness gap"]
    assert flags_of(pair, tone(0.01, "a"), tone(0.5, "b")) == ["loudness gap"]
    assert flags_of(pair, tone(0.0, "a"), tone(0.0, "b")) == ["identical"]  # silence beside silence
    assert flags_of(pair, half, tone(0.0, "b")) == ["loudness gap"]
    grey, red = (
        Candidate(name, "g", "p", Video.from_frames(np.full((2, 8, 8, 3), value, np.uint8), 8.0), "m")
        for name, value in (("a", (90, 90, 90)), ("b", (200, 20, 20)))
    )
    assert flags_of(pair, grey, red) == []
    longer = Candidate("b", "g", "p", Video.from_frames(np.full((3, 8, 8, 3), 90, np.uint8), 8.0), "m")
    assert flags_of(pair, grey, longer) == ["size mismatch"]


def test_pairs_carry_the_kind_of_their_media_segments_and_context(tmp_path: Path) -> None:
    candidates = [dataclasses.replace(tone(level, f"g-{level}"), group_id="g") for level in (0.5, 0.25)]
    write_candidates(tmp_path / "candidates" / "shard-00000.parquet", candidates)
    samples = ("g-0.5", "g-0.25")
    pairs = [Preference("g", "p", samples, segment_labels=(1, -1, 0), context="colour"), Preference("g", "p", samples)]
    rows = list(pair_rows(pairs, tmp_path / "candidates", {}))
    assert {sample.kind for row in rows for sample in (row.chosen, row.rejected)} == {"audio"}
    assert [(tuple(row.segments), row.context) for row in rows] == [((1, -1, 0), "colour"), ((), "")]
    assert sample_of(picture((1, 2, 3)), {"c": {"s.a": 0.5}}) == Sample(ANY, {"s.a": 0.5}, "c", "image")


def test_curves_share_a_chart_where_they_belong_together(tmp_path: Path) -> None:
    config = whole_run(tmp_path)
    curves = {curve.name: curve for curve in curves_of(config.run / "train" / "metrics.jsonl")}
    assert list(curves) == ["loss", "win_adv", "lose_adv"]
    assert curves["win_adv"].group == curves["lose_adv"].group != curves["loss"].group
    assert curves["loss"].points == [(1, 0.7), (2, 0.7), (3, 0.7)]


def test_a_road_without_evaluation_has_pairs_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", Path("nobody/nothing"), pair={"by": "shapes.overall"}, gallery={})
    candidates = make_candidates(4)
    finish_until_pair(config, candidates, pairs_of(candidates))
    run(config, progress=QUIET)
    assert (config.run / "gallery" / "index.html").is_file()


def test_the_media_of_few_rows_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path / "run", Path("nobody/nothing"), pair={"by": "shapes.overall"}, gallery={})
    candidates = make_candidates(16)
    finish_until_pair(config, candidates, pairs_of(candidates))
    decoded = watch(monkeypatch, "image")
    run(config, progress=QUIET)
    assert len(decoded.arrays) == 16 and decoded.most <= 4  # two sides of the row that is written and of the next
    assert decoded.alive == 0


def test_a_candidate_of_several_pairs_is_written_once(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", Path("nobody/nothing"), pair={"by": "shapes.overall"}, gallery={})
    candidates = make_candidates(4)
    once = pairs_of(candidates)
    turned = [dataclasses.replace(pair, samples=pair.samples[::-1]) for pair in once]
    finish_until_pair(config, candidates, [*once, *turned])
    run(config, progress=QUIET)
    table = script(config.run / "gallery" / "data" / "pairs" / "0000.js")
    shown = json.loads(table.removeprefix('galleryData("pairs/0000",').rstrip("\n);"))
    assert len(shown) == 2 * len(once) and shown[: len(once)] == [sides[::-1] for sides in shown[len(once) :]]
    assert len({side["src"] for sides in shown for side in sides}) == len(candidates)
    assert len(list((config.run / "gallery" / "media").rglob("*.webp"))) == len(candidates)


def add_scores(config: Config, reward: str, candidates: list[Candidate]) -> None:
    with open_stage(config, f"score/{reward}", settings={}, inputs=("generate",), redo=True) as stage:
        table = [{"candidate_id": candidate.candidate_id, "score": 0.5} for candidate in candidates]
        write_shard(stage.shard(0), table, score_schema(["score"]))
        stage.finish({})


def shown_scores(config: Config) -> list[str]:
    run(config, progress=QUIET)
    header = script(config.run / "gallery" / "data" / "gallery.js")
    return json.loads(header.removeprefix('galleryData("gallery",').rstrip("\n);"))["pairs"]["scores"]


def test_scores_of_these_candidates_and_this_config_are_shown(tmp_path: Path) -> None:
    config = make_config(
        tmp_path / "run", Path("nobody/nothing"), score={"rewards": ["contrast", "sharpness"]}, pair={"by": "contrast.score"}, gallery={}
    )
    candidates = make_candidates(4)
    finish_until_pair(config, candidates, pairs_of(candidates))
    for reward in ("contrast", "left_behind"):
        add_scores(config, reward, candidates)
    assert shown_scores(config) == ["contrast.score"]
    add_scores(config, "sharpness", candidates)
    assert shown_scores(config) == ["contrast.score", "sharpness.score"]
    with open_stage(config, "generate", settings={"seed": 1}, redo=True) as stage:  # the same ids, other pictures
        write_candidates(stage.shard(0), make_candidates(4, sides=(8,)))
        stage.finish({})
    with open_stage(config, "pair", settings={}, inputs=("generate",), redo=True) as stage:
        write_preferences(stage.shard(0), pairs_of(candidates))
        stage.finish({})
    add_scores(config, "contrast", candidates)
    assert shown_scores(config) == ["contrast.score"]
