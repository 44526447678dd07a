from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_backbone import Loader, fake_config, loader  # noqa: F401 (a fixture)
from tiny_preference_sets import picture

from diffalign.data.modalities.image import Image
from diffalign.data.pairing_settings import PairingSettings
from diffalign.data.records import Preference, read_candidates, read_preferences, read_scores
from pipelines.config import Config
from pipelines.generate import run as generate
from pipelines.pair import Pair, describe, import_set, run
from pipelines.progress import Progress
from pipelines.score import run as score
from pipelines.stage import require_stage

QUIET = Progress(silent=True)
REWARDS = {"rewards": {"sharpness": {}, "contrast": {}}}
BY = {"by": "contrast.score"}


def make(run_folder: Path, **pair: Any) -> Config:
    return fake_config(run_folder, score=REWARDS, pair=BY | pair)


@pytest.fixture
def scored(tmp_path: Path, loader: Loader) -> Config:  # noqa: F811
    config = make(tmp_path / "run")
    generate(config, progress=QUIET)
    score(config, progress=QUIET)
    return config


def test_the_section_mirrors_the_settings_of_pairing() -> None:
    named = {field.name: getattr(PairingSettings(by="contrast.score"), field.name) for field in fields(PairingSettings)} | {"by": None}
    section = {name: field.default for name, field in Pair.model_fields.items()}
    assert set(section) - {"source"} == set(named)
    assert {name: value for name, value in section.items() if name not in ("source", "seed")} == {
        name: value for name, value in named.items() if name != "seed"
    }
    assert Pair(**BY).pairing(9) == PairingSettings(by="contrast.score", seed=9)  # type: ignore[arg-type]


def test_best_beats_worst(scored: Config) -> None:
    run(scored, progress=QUIET)
    scores = read_scores(scored.run / "scores")["contrast.score"]
    rows = read_preferences(scored.run / "preferences")
    assert len(rows) == 6
    for row in rows:
        group = [value for name, value in scores.items() if name.startswith(row.group_id)]
        assert [scores[name] for name in row.samples] == [max(group), min(group)] == list(row.scores or ())
    record = json.loads((scored.run / "preferences" / "stage.json").read_text())
    assert record["summary"]["pairs_kept"] == 6 and set(record["inputs"]) == {"generate", "score/contrast"}


def test_a_second_run_does_nothing_and_other_settings_are_refused(scored: Config, capsys: pytest.CaptureFixture[str]) -> None:
    run(scored, progress=QUIET)
    run(scored, progress=Progress())
    assert "6 preferences are in" in capsys.readouterr().err
    with pytest.raises(ValueError, match='rule: was "best_vs_worst", is now "all_pairs"'):
        run(make(scored.run, rule="all_pairs"), progress=QUIET)
    run(make(scored.run, rule="all_pairs"), redo=True, progress=QUIET)
    assert len(read_preferences(scored.run / "preferences")) == 36


def test_controls_swap_and_draw(scored: Config) -> None:
    run(scored, progress=QUIET)
    straight = [row.samples for row in read_preferences(scored.run / "preferences")]
    run(make(scored.run, swap_labels=True), redo=True, progress=QUIET)
    assert [row.samples[::-1] for row in read_preferences(scored.run / "preferences")] == straight
    run(make(scored.run, rule="random"), redo=True, progress=QUIET)
    drawn = [row.samples for row in read_preferences(scored.run / "preferences")]
    assert [set(row) for row in drawn] == [set(row) for row in straight] and drawn != straight


def test_everything_filtered_out_says_by_which_rule_and_can_be_corrected(scored: Config) -> None:
    with pytest.raises(ValueError, match=r"all pairs were filtered out; minimum_gap=99.0 dropped most. Gaps observed"):
        run(make(scored.run, minimum_gap=99), progress=QUIET)
    run(make(scored.run, minimum_gap=0), progress=QUIET)


def test_pairing_before_scoring_says_what_to_run(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = make(tmp_path)
    generate(config, progress=QUIET)
    with pytest.raises(ValueError, match=r"score/contrast has not run in this run; first: diffalign score CONFIG"):
        run(config, progress=QUIET)


def test_a_rescored_input_is_refused(scored: Config) -> None:
    run(scored, progress=QUIET)
    generate(scored.model_copy(update={"seed": 6}), redo=True, progress=QUIET)
    score(scored, redo=True, progress=QUIET)
    with pytest.raises(ValueError, match="input generate: was made again since"):
        run(scored, progress=QUIET)


def test_a_reward_that_does_not_load_blocks_no_other(scored: Config) -> None:
    missing = {"clip_score": {"architecture": "ViT-B-32", "checkpoint": "/no/such.safetensors"}}
    with pytest.raises((FileNotFoundError, ImportError)):
        score(fake_config(scored.run, score={"rewards": {**REWARDS["rewards"], **missing}}), progress=QUIET)
    run(scored, progress=QUIET)
    assert len(read_preferences(scored.run / "preferences")) == 6


def test_scores_of_other_candidates_are_refused(scored: Config) -> None:
    run(scored, progress=QUIET)
    other = scored.model_copy(update={"seed": 6})
    generate(other, redo=True, progress=QUIET)
    with pytest.raises(ValueError, match=r"scores/contrast was made from other candidates .*; first: diffalign score CONFIG --redo"):
        run(other, redo=True, progress=QUIET)
    score(other, redo=True, progress=QUIET)
    run(other, redo=True, progress=QUIET)


def test_the_summary_is_told(scored: Config, capsys: pytest.CaptureFixture[str]) -> None:
    run(make(scored.run, rule="all_pairs", minimum_gap=0.002), progress=Progress())
    told = capsys.readouterr().err
    kept = len(read_preferences(scored.run / "preferences"))
    assert f"pair: {kept} preferences (all_pairs by contrast.score) in" in told
    assert f"dropped by minimum_gap: {36 - kept} proposed" in told
    assert "▇" in told and "gaps from" in told and all(len(line) < 100 for line in told.splitlines())


def test_what_keeps_pairs_of_other_sizes_and_models_is_told() -> None:
    from diffalign.data.pairing import Group, pair_groups

    groups = [
        Group(name, "p", [f"{name}{letter}" for letter in "abc"], {"r.d": [2.0, 1.0, 0.0]}, models, [""] * 3, sizes)
        for name, models, sizes in (("g", ["m"] * 3, [(8, 8), (8, 8), (9, 9)]), ("h", ["m", "m", "n"], [(8, 8)] * 3))
    ]
    told = describe(pair_groups(groups, PairingSettings(by="r.d")).summary)
    for name in ("same_size", "same_source"):
        assert any(line.startswith(f"  set aside, {name}: 1 candidates (of different") and f"pair.{name}=false" in line for line in told)
    came = [Preference("g", "p", ("ga", "gc"))], [Preference("h", "p", ("ha", "hc")), Preference("h", "p", ("ha", "hb"))]
    judged = [replace(group, preferences=rows) for group, rows in zip(groups, came, strict=True)]
    told = describe(pair_groups(judged, PairingSettings(rule="imported")).summary)
    for name in ("same_size", "same_source"):
        assert any(line.startswith(f"  dropped by {name}: 1 proposed (of different") and f"pair.{name}=false" in line for line in told)


def test_set_filters_are_told(scored: Config, capsys: pytest.CaptureFixture[str]) -> None:
    run(make(scored.run, rule="ranked_list", length=3, top=2), progress=Progress())
    assert "dropped by top: 4 proposed" in capsys.readouterr().err
    rows = read_preferences(scored.run / "preferences")
    best = sorted(read_scores(scored.run / "scores")["contrast.score"].values())
    assert [len(row.samples) for row in rows] == [3, 3] and max(row.scores[0] for row in rows if row.scores) == best[-1]
    run(make(scored.run, rule="labelled", threshold=best[6], positive_share=0.5), redo=True, progress=Progress())
    assert "dropped by positive_share: 12 proposed" in capsys.readouterr().err
    labels = [row.labels for row in read_preferences(scored.run / "preferences")]
    assert (labels.count((0,)), labels.count((1,))) == (6, 6)


def test_histogram_counts_what_the_summary_counts(scored: Config) -> None:
    from diffalign.data.pairing import group_candidates, pair_groups

    groups = group_candidates(read_candidates(scored.run / "candidates"), read_scores(scored.run / "scores"))
    summary = pair_groups(groups, PairingSettings(rule="all_pairs", by="contrast.score")).summary
    lines = [line for line in describe(summary) if "▇" in line and "gaps" not in line]
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == summary.pairs_kept == 36


# An imported set: Pick-a-Pic's columns.


def write_pickapic(path: Path, count: int = 5, ties: int = 1) -> None:
    draw = np.random.default_rng(0)
    encode = lambda: Image.from_pixels(draw.integers(0, 255, (16, 16, 3), np.uint8)).encoded()  # noqa: E731
    table = {
        "caption": [f"a thing {index}" for index in range(count)],
        "jpg_0": [encode() for _ in range(count)],
        "jpg_1": [encode() for _ in range(count)],
        "label_0": [0.5 if index < ties else float(index % 2) for index in range(count)],
    }
    pq.write_table(pa.table(table), path)


def imported(folder: Path, *, rewards: bool = False, **pair: Any) -> Config:
    source = {"importer": "pickapic", "path": str(folder / "set.parquet"), "groups_per_shard": 2}
    more: dict[str, Any] = {"score": REWARDS} if rewards else {}
    return Config.model_validate({"run": folder / "run", "model": {"source": "fake/model"}, "pair": {"source": source, **pair}, **more})


def test_an_imported_set_brings_candidates_and_preferences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pickapic(tmp_path / "set.parquet")
    config = imported(tmp_path)
    assert config.pair is not None and config.pair.rule == "imported" and config.road == ("pair",)
    run(config, progress=Progress())
    assert "of 5 rows 5 kept (1 tied), 0 skipped, 0 broken" in capsys.readouterr().err
    candidates = {row.candidate_id: row for row in read_candidates(config.run / "candidates")}
    rows = read_preferences(config.run / "preferences")
    assert len(candidates) == 10 and len(rows) == 4 and len(list((config.run / "candidates").glob("shard-*"))) == 3
    assert all(set(row.samples) <= set(candidates) for row in rows)
    run(imported(tmp_path, ties="keep"), redo=True, progress=QUIET)
    assert len(read_preferences(config.run / "preferences")) == 5
    assert not (config.run / "replaced" / "candidates.1").exists()  # an unchanged set is not read again


def test_all_broken_rows_of_a_set_are_listed_beside_its_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight of ten rows; the report keeps the first five reasons. Also where they are too many, and the list binds nobody afterwards."""
    write_pickapic(tmp_path / "set.parquet", count=10, ties=0)
    rows = pq.read_table(tmp_path / "set.parquet").to_pylist()
    for row in rows[:8]:
        row["jpg_0"] = row["jpg_0"][:50]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    config = imported(tmp_path)
    assert config.pair is not None and config.pair.source is not None
    strict = config.model_copy(update={"pair": Pair(source=config.pair.source.model_copy(update={"max_broken": 6}))})
    file = config.run / "candidates" / "broken.jsonl"
    with pytest.raises(ValueError, match="7 of 7 rows are broken, more than max_broken=6"):
        import_set(strict, progress=Progress())
    assert f"7 broken, all listed with their reasons in {file}".replace(" ", "") in "".join(capsys.readouterr().err.split())
    assert len(file.read_text().splitlines()) == 7
    import_set(config, progress=Progress())
    told = "".join(capsys.readouterr().err.split())
    assert f"8 broken, all listed with their reasons in {file}".replace(" ", "") in told
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["where"] for row in listed] == [f"set.parquet row {index}" for index in range(8)]
    assert all("jpg_0" in row["reason"] and set(row) == {"where", "reason"} for row in listed)
    record = json.loads((file.parent / "stage.json").read_text())
    assert record["summary"]["report"]["broken"] == 8 and len(record["summary"]["report"]["reasons"]) == 5
    assert set(record["files"]) == {"shard-00000.parquet", "judgements-00000.parquet"} and "broken_rows" not in record["summary"]["report"]
    other = strict.model_copy(update={"run": tmp_path / "other"})
    with pytest.raises(ValueError, match="more than max_broken=6"):
        import_set(other, progress=QUIET)
    write_pickapic(tmp_path / "set.parquet")
    import_set(other, progress=QUIET)
    assert not (other.run / "candidates" / "broken.jsonl").exists()


def test_the_limit_of_broken_rows_may_be_raised_after_a_part_was_read(tmp_path: Path) -> None:
    """As the error says. Two good rows are on disk by then, and stay."""
    write_pickapic(tmp_path / "set.parquet", count=10, ties=0)
    rows = pq.read_table(tmp_path / "set.parquet").to_pylist()
    for row in rows[2:6]:
        row["jpg_0"] = row["jpg_0"][:50]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    config = imported(tmp_path)
    assert config.pair is not None and config.pair.source is not None
    low, high = (
        config.model_copy(update={"pair": Pair(source=config.pair.source.model_copy(update={"max_broken": most, "groups_per_shard": 1}))})
        for most in (3, 4)
    )
    with pytest.raises(ValueError, match="or raise max_broken"):
        import_set(low, progress=QUIET)
    shard = config.run / "candidates" / "shard-00000.parquet"
    made = shard.stat().st_mtime_ns
    import_set(high, progress=QUIET)
    assert len(list(read_candidates(config.run / "candidates"))) == 12 and shard.stat().st_mtime_ns == made
    import_set(low, progress=QUIET)  # complete: nothing to read


@pytest.mark.parametrize(("rewards", "command"), [(False, "pair"), (True, "score")])
def test_the_command_that_imports_is_named(rewards: bool, command: str, tmp_path: Path) -> None:
    """`diffalign generate` refuses such a config."""
    write_pickapic(tmp_path / "set.parquet")
    config = imported(tmp_path, rewards=rewards)
    with pytest.raises(ValueError, match=f"needs .*candidates.* first: diffalign {command} CONFIG"):
        require_stage(config, "encode", "generate")
    import_set(config, progress=QUIET)
    write_pickapic(tmp_path / "set.parquet", count=7)
    with pytest.raises(ValueError, match=f"make the stage again: diffalign {command} CONFIG --redo .*--from {command} "):
        import_set(config, progress=QUIET)
    import_set(config, redo=True, progress=QUIET)


def test_an_imported_set_may_be_ranked_anew(tmp_path: Path) -> None:
    write_pickapic(tmp_path / "set.parquet")
    config = imported(tmp_path, rewards=True, by="contrast.score")
    assert config.pair is not None and config.pair.rule == "best_vs_worst" and config.road == ("score", "pair")
    score(config, progress=QUIET)
    run(config, progress=QUIET)
    scores = read_scores(config.run / "scores")["contrast.score"]
    rows = read_preferences(config.run / "preferences")
    assert len(rows) == 5 and all(scores[row.samples[0]] > scores[row.samples[1]] for row in rows)


def test_an_interrupted_import_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffalign.data.importers.pickapic as importer

    write_pickapic(tmp_path / "set.parquet")
    config, whole, read = imported(tmp_path), tmp_path / "run" / "candidates", importer.stream_rows

    def interrupted(*arguments: Any, **settings: Any) -> Iterator[Any]:
        for index, row in enumerate(read(*arguments, **settings)):
            if index == 3:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(importer, "stream_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_set(config, progress=QUIET)
    kept = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.parquet")}
    assert set(kept) == {"shard-00000.parquet", "judgements-00000.parquet"}
    monkeypatch.setattr(importer, "stream_rows", read)
    assert len(import_set(config, progress=QUIET)) == 3
    assert len(list(read_candidates(whole))) == 10
    assert all((whole / name).stat().st_mtime_ns == mtime for name, mtime in kept.items())


def test_a_changed_set_is_refused_or_read_again(tmp_path: Path) -> None:
    write_pickapic(tmp_path / "set.parquet")
    run(imported(tmp_path), progress=QUIET)
    write_pickapic(tmp_path / "set.parquet", count=7)
    with pytest.raises(ValueError, match=r"import.files: was"):
        run(imported(tmp_path), progress=QUIET)
    run(imported(tmp_path), redo=True, progress=QUIET)
    assert len(read_preferences(tmp_path / "run" / "preferences")) == 6


def test_a_set_that_a_pattern_names_is_refused_or_read_again_where_a_file_changed_or_came(tmp_path: Path) -> None:
    def config() -> Config:
        source = {"importer": "pickapic", "path": str(tmp_path / "set-*.parquet")}
        return Config.model_validate({"run": tmp_path / "run", "model": {"source": "fake/model"}, "pair": {"source": source}})

    write_pickapic(tmp_path / "set-0.parquet")
    run(config(), progress=QUIET)
    run(config(), progress=QUIET)  # an unchanged set is not read again
    write_pickapic(tmp_path / "set-0.parquet", count=7)
    with pytest.raises(ValueError, match=r"import.files: was"):
        run(config(), progress=QUIET)
    run(config(), redo=True, progress=QUIET)
    assert len(read_preferences(tmp_path / "run" / "preferences")) == 6
    write_pickapic(tmp_path / "set-1.parquet")
    with pytest.raises(ValueError, match=r"import.files: was"):
        run(config(), progress=QUIET)


def test_a_set_beside_generated_candidates_is_refused(tmp_path: Path) -> None:
    write_pickapic(tmp_path / "set.parquet")
    source = {"importer": "pickapic", "path": str(tmp_path / "set.parquet")}
    with pytest.raises(ValueError, match=r"both generate and pair.source"):
        run(fake_config(tmp_path / "run", pair={"source": source}), progress=QUIET)


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="check the path"):
        run(imported(tmp_path), progress=QUIET)


@pytest.mark.parametrize(("turned", "warned"), [(0, True), (6, False)])
def test_models_that_foretell_are_warned_of(turned: int, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve pairs of flux and sd3: flux preferred in all, or in half of them."""
    rows = []
    for place in range(12):
        for side in (0, 1):
            (tmp_path / f"{place}-{side}.png").write_bytes(picture(2 * place + side))
        models = ("flux", "sd3") if place % 2 or place >= 2 * turned else ("sd3", "flux")
        rows.append({"prompt": f"p{place}", "path1": f"{place}-0.png", "path2": f"{place}-1.png", "model1": models[0], "model2": models[1]})
    (tmp_path / "set.json").write_text(json.dumps(rows))
    pair = {"source": {"importer": "hpdv3", "path": str(tmp_path / "set.json")}, "same_source": False}
    run(Config.model_validate({"run": tmp_path / "run", "model": {"source": "fake/model"}, "pair": pair}), progress=Progress())
    said = " ".join(capsys.readouterr().err.split())
    shortcut = json.loads((tmp_path / "run/preferences/stage.json").read_text())["summary"]["shortcut"]
    assert (shortcut["across"], shortcut["within"]) == (12, 0) and (shortcut["at_least"] > 0.5) == warned
    assert ("says which sample is preferred in 100% of 12 pairs of different models, at least 78% (one-sided" in said) == warned
    assert ("ranked from 'flux' to 'sd3'" in said and "with each model and set pair.same_source: true" in said) == warned
