from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from fake_backbone import fake_config

import pipelines.stage
from pipelines.config import Config
from pipelines.run_folder import lock_run
from pipelines.stage import open_stage, require_stage, stage_path, write_atomically


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return fake_config(tmp_path / "run")


def make(config: Config, name: str = "generate", settings: Any = None, content: bytes = b"rows", **more: Any) -> None:
    with open_stage(config, name, settings=settings or {"a": {"b": 1}, "c": [1, 2]}, **more) as stage:
        stage.shard(0).write_bytes(content)
        stage.finish({"rows": 1})


def refusal(config: Config, name: str = "generate", **arguments: Any) -> str:
    with pytest.raises(ValueError) as caught, open_stage(config, name, **arguments):
        pass
    return str(caught.value)


def test_a_complete_stage_is_recognised(config: Config) -> None:
    make(config)
    with open_stage(config, "generate", settings={"a": {"b": 1}, "c": (1, 2)}) as stage:
        assert stage.is_complete and stage.summary == {"rows": 1} and stage.missing(2) == [1]
    record = json.loads((config.run / "candidates" / "stage.json").read_text())
    assert record["versions"]["python"] and len(record["fingerprint"]) == 64


def test_fingerprint_is_of_settings_and_files(tmp_path: Path) -> None:
    prints = []
    for number, change in enumerate(({}, {}, {"content": b"other"}, {"settings": {"a": 2}})):
        config = fake_config(tmp_path / str(number))
        make(config, **change)
        prints.append(json.loads((config.run / "candidates" / "stage.json").read_text())["fingerprint"])
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_changed_settings_are_spelled_out(config: Config) -> None:
    make(config)
    told = refusal(config, settings={"a": {"b": 2}, "d": True})
    assert "a.b: was 1, is now 2" in told and "c: was [1, 2], is now absent" in told and "d: was absent, is now true" in told
    assert "diffalign generate CONFIG --redo" in told and "run=" in told


def test_settings_may_change_while_nothing_is_made(config: Config) -> None:
    with open_stage(config, "pair", settings={"gap": 5}):
        pass
    with open_stage(config, "pair", settings={"gap": 1}) as stage:
        assert stage.record["settings"] == {"gap": 1}


def test_redo_keeps_the_old_folder(config: Config) -> None:
    for number in (1, 2):
        make(config, settings={"n": number}, redo=True)
    with open_stage(config, "generate", settings={"n": 3}, redo=True) as stage:
        assert not stage.is_complete and stage.missing(1) == [0]
    assert [(config.run / "replaced" / f"candidates.{number}" / "shard-00000.parquet").is_file() for number in (1, 2)] == [True, True]


def spare(key: str, before: Any, now: Any) -> list[str] | None:
    """Changed names cost their folder; everything else costs all."""
    return (
        [name for name in before | now if before.get(name) != now.get(name)] if key == "names" else [] if key == "input score/a" else None
    )


def make_names(config: Config, *names: str, inputs: tuple[str, ...] = (), **settings: Any) -> None:
    with open_stage(config, "pair", settings={"names": dict.fromkeys(names, 1), **settings}, inputs=inputs, outdated=spare) as stage:
        for name in names:
            (stage.path / name).mkdir(exist_ok=True)
            if not (stage.path / name / "file").is_file():
                (stage.path / name / "file").write_text(f"made with {', '.join(names)}")
        stage.finish({})


def test_a_change_that_spares_a_part_keeps_that_part(config: Config) -> None:
    make_names(config, "a", "b")
    make_names(config, "b", "c")
    folder = config.run / "preferences"
    assert {path.parent.name: path.read_text() for path in folder.glob("*/file")} == {"b": "made with a, b", "c": "made with b, c"}
    assert (config.run / "replaced" / "preferences" / "a.1" / "file").is_file()
    record = json.loads((folder / "stage.json").read_text())
    assert record["complete"] and record["settings"] == {"names": {"b": 1, "c": 1}} and set(record["files"]) == {"b/file", "c/file"}
    with open_stage(config, "pair", settings={"names": {"b": 1, "c": 1}}, outdated=spare) as stage:
        assert stage.is_complete


def test_a_change_that_spares_nothing_moves_nothing(config: Config) -> None:
    make_names(config, "a", "b", gap=1)
    told = refusal(config, "pair", settings={"names": {"a": 1}, "gap": 2}, outdated=spare)
    assert "gap: was 1, is now 2" in told and "names" not in told
    assert (config.run / "preferences" / "b" / "file").is_file() and not (config.run / "replaced").exists()


def test_an_input_may_be_made_again_where_the_stage_says_so(config: Config) -> None:
    make(config, "score/a", content=b"1")
    make_names(config, "a", inputs=("score/a",))
    make(config, "score/a", content=b"2", redo=True)
    assert "input score/a: was made again since" in refusal(config, "pair", settings={"names": {"a": 1}}, inputs=("score/a",))
    with open_stage(config, "pair", settings={"names": {"a": 1}}, inputs=("score/a",), outdated=spare) as stage:
        assert not stage.is_complete
    make_names(config, "a", inputs=("score/a",))


def test_a_kill_while_a_part_is_moved_away_mixes_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    make_names(config, "a", "b")
    monkeypatch.setattr(pipelines.stage, "_write_record", lambda path, record: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_names(config, "b")
    monkeypatch.undo()
    with open_stage(config, "pair", settings={"names": {"a": 1, "b": 1}}, outdated=spare) as stage:
        assert not stage.is_complete  # "a" is gone, and the old settings know that it is missing
    assert stage.record["settings"] == {"names": {"a": 1, "b": 1}}


def test_a_stage_before_its_input_says_what_to_run(config: Config) -> None:
    assert "score/clip needs" in (told := refusal(config, "score/clip", settings={}, inputs=("generate",)))
    assert "generate has not run" in told and "diffalign generate CONFIG" in told
    with open_stage(config, "generate", settings={}) as stage:
        stage.shard(0).write_bytes(b"x")
    assert "generate is not complete" in refusal(config, "score/clip", settings={}, inputs=("generate",))
    with pytest.raises(ValueError, match="not complete"):
        require_stage(config, "score", "generate")


@pytest.mark.parametrize(
    ("content", "state", "fix"),
    [
        (None, "lost", "first: diffalign generate CONFIG"),
        (b"more rows", "changed", "put them back, or make them again: diffalign generate CONFIG --redo"),
    ],
)
def test_an_input_that_lost_or_changed_files_is_refused(config: Config, content: bytes | None, state: str, fix: str) -> None:
    make(config)
    make(config, "pair", inputs=("generate",))
    shard = config.run / "candidates" / "shard-00000.parquet"
    shard.unlink() if content is None else shard.write_bytes(content)
    told = refusal(config, "pair", settings={"a": {"b": 1}, "c": [1, 2]}, inputs=("generate",), redo=True)
    assert f"generate has {state} files (1, the first: shard-00000.parquet)" in told and fix in told
    assert (config.run / "preferences" / "shard-00000.parquet").is_file()  # not moved away before the inputs were looked at
    shard.write_bytes(b"rows")
    make(config, "score/clip", inputs=("generate",))


def test_a_remade_input_is_refused(config: Config) -> None:
    make(config)
    make(config, "pair", inputs=("generate",))
    make(config, content=b"other rows", redo=True)
    assert "input generate: was made again since" in refusal(config, "pair", settings={"a": {"b": 1}, "c": [1, 2]}, inputs=("generate",))
    make(config, "pair", inputs=("generate",), redo=True)


def test_a_remade_equal_input_is_not_refused(config: Config) -> None:
    make(config)
    make(config, "pair", inputs=("generate",))
    make(config, redo=True)
    with open_stage(config, "pair", settings={"a": {"b": 1}, "c": [1, 2]}, inputs=("generate",)) as stage:
        assert stage.is_complete


def test_an_exception_leaves_a_resumable_stage(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt), open_stage(config, "generate", settings={}) as stage:
        stage.shard(1).write_bytes(b"x")
        raise KeyboardInterrupt
    with open_stage(config, "generate", settings={}) as stage:
        assert not stage.is_complete and stage.missing(3) == [0, 2]


def test_leftovers_of_a_killed_writer_are_removed(config: Config) -> None:
    make(config)
    leftovers = [config.run / "candidates" / folder / ".shard-00001.parquet.77.abcd.tmp" for folder in (".", "base/scores/clip")]
    for leftover in leftovers:
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.write_bytes(b"half")
    with open_stage(config, "generate", settings={"a": {"b": 1}, "c": [1, 2]}):
        assert not any(leftover.exists() for leftover in leftovers)


def test_a_lost_shard_is_made_again_and_a_changed_one_refused(config: Config) -> None:
    make(config)
    shard = config.run / "candidates" / "shard-00000.parquet"
    settings = {"a": {"b": 1}, "c": [1, 2]}
    shard.write_bytes(b"something longer")
    assert "was changed after generate was complete" in refusal(config, settings=settings)
    shard.unlink()
    with open_stage(config, "generate", settings=settings) as stage:
        assert not stage.is_complete and stage.missing(1) == [0]


def test_unknown_origin_and_unreadable_records_are_refused(config: Config) -> None:
    folder = config.run / "candidates"
    folder.mkdir(parents=True)
    (folder / "shard-00000.parquet").write_bytes(b"x")
    assert "nobody knows what made them" in refusal(config, settings={})
    (folder / "stage.json").write_text("{")
    assert "not readable" in (told := refusal(config, settings={})) and "--redo" in told
    (folder / "stage.json").write_text("[]")
    assert "not a JSON object; make the stage again with --redo" in refusal(config, settings={})


def test_full_disk_is_clear_and_keeps_what_is_finished(config: Config) -> None:
    with (
        pytest.raises(OSError, match=r"disk is full .*what is finished stays; free some space") as caught,
        open_stage(config, "generate", settings={}) as stage,
    ):
        stage.shard(0).write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    with open_stage(config, "generate", settings={}) as stage:
        assert stage.missing(2) == [1]


def test_full_disk_while_the_run_is_opened(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *arguments, **settings: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match=r"disk is full .*free in .*free some space"), open_stage(config, "generate", settings={}):
        pass


def test_full_disk_while_the_record_is_written(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    make(config)
    monkeypatch.setattr(
        pipelines.stage.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    file = config.run / "candidates" / "stage.json"
    before = file.read_bytes()
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == before and not list(file.parent.glob("*.tmp"))


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_is_not(config: Config) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipelines.run_folder import lock_run\n"
        "with lock_run(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(config.run)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        told = refusal(config, settings={})
        assert f"pid {other.pid}" in told and "run=" in told
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    make(config)


def test_a_lock_that_is_soon_free_is_waited_for(config: Config) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.run_folder import lock_run\n"
        "with lock_run(Path(sys.argv[1])):\n    print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(config.run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="another run works in"), lock_run(config.run, patience_seconds=0.2):
            pass
        Timer(0.3, other.stdin.close).start()
        with lock_run(config.run, patience_seconds=60):
            assert other.wait(60) == 0


def test_the_lock_may_be_taken_again_by_its_process(config: Config) -> None:
    with lock_run(config.run):
        make(config)
        make(config, "score/sharpness", inputs=("generate",))
        assert str(os.getpid()) in (config.run / ".lock").read_text()


def test_other_ranks_write_nothing(config: Config) -> None:
    with open_stage(config, "train", settings={}, is_main=False) as stage:
        stage.finish({})
    assert not config.run.exists()


def test_folders_of_stages(config: Config) -> None:
    assert stage_path(config, "pair") == config.run / "preferences"
    assert stage_path(config, "score/clip") == config.run / "scores" / "clip"
    with pytest.raises(ValueError, match="unknown stage 'scores'; choose one of: generate"):
        stage_path(config, "scores")
