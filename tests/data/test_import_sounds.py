"""Sounds that are silent, clipped, or too short to be trained on, in each format of files that people have."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from diffalign.data.importers import build_import
from diffalign.data.modalities.audio import Audio
from diffalign.data.records import Candidate, Preference, write_candidates
from pipelines.config import Config
from pipelines.encode import sizes_of
from pipelines.pair import run
from pipelines.progress import Progress
from pipelines.stage import summary_of

RATE = 16_000
FORMATS = ("wav", "flac", "ogg")
TIME = np.arange(RATE // 2) / RATE
SOUNDS = {
    "sine": 0.5 * np.sin(2 * np.pi * 440 * TIME),
    "full": np.sin(2 * np.pi * 440 * TIME),  # just fits, but for a lossy format, which overshoots
    "quiet": 0.002 * np.sin(2 * np.pi * 440 * TIME),
    "silent": np.zeros(len(TIME)),
    "hiss": 3e-4 * np.sin(2 * np.pi * 440 * TIME),  # below −60 dBFS
    "clipped": np.clip(4 * np.sin(2 * np.pi * 440 * TIME), -1, 1),
}


def make_set(folder: Path, ending: str, *rejected: str) -> Path:
    """Pairs of a sine and one of the others."""
    for side, names in (("chosen", ["sine"] * len(rejected)), ("rejected", rejected)):
        (folder / side).mkdir(parents=True)
        for index, name in enumerate(names):
            soundfile.write(folder / side / f"{index}.{ending}", SOUNDS[name].astype(np.float32), RATE)
            (folder / side / f"{index}.txt").write_text(f"prompt {index}")
    return folder


@pytest.mark.parametrize("ending", FORMATS)
def test_a_silent_sound_is_a_broken_row(ending: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", ending, "silent", "quiet", "hiss", "sine" if ending == "ogg" else "full")
    found = build_import("two_folders", str(made))
    assert len(list(found.groups)) == 2 and found.report.broken == 2 and found.report.silent_kept == found.report.clipped_kept == 0
    assert all("is silent (no sample above" in row.reason and "silent: keep" in row.reason for row in found.report.broken_rows)
    kept = build_import("two_folders", str(made), silent="keep")
    assert len(list(kept.groups)) == 4 and kept.report.silent_kept == 2


@pytest.mark.parametrize("ending", FORMATS)
def test_a_clipped_sound_is_counted_or_broken(ending: str, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", ending, "clipped", "sine")
    found = build_import("two_folders", str(made))
    assert len(list(found.groups)) == 2 and found.report.clipped_kept == 1
    strict = build_import("two_folders", str(made), clipped="broken")
    assert len(list(strict.groups)) == 1 and strict.report.clipped_kept == 0
    [row] = strict.report.broken_rows
    assert "is clipped (" in row.reason and "clipped: keep" in row.reason


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_a_sound_of_more_than_two_channels_is_a_broken_row(channels: int, tmp_path: Path) -> None:
    made = make_set(tmp_path / "set", "wav", "sine", "full")
    soundfile.write(made / "rejected/1.wav", np.tile(SOUNDS["sine"][:, None], (1, channels)).astype(np.float32), RATE)
    found = build_import("two_folders", str(made))
    assert len(list(found.groups)) == (2 if channels <= 2 else 1)
    assert [f"has {channels} channels, and models take mono or stereo" in row.reason for row in found.report.broken_rows] == (
        [] if channels <= 2 else [True]
    )


def test_levels_by_hand() -> None:
    level = Audio.from_waveform(np.array([[0.0, 1.0, -0.5, -1.0], [0.25, 0.0, 0.0, 0.0]]), RATE).level()
    assert level.peak == 1.0 and level.clipped == 2 / 8


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match=r"importer 'two_folders' got silent = 'drop'; choose one of: keep, broken"):
        build_import("two_folders", "x", silent="drop")  # type: ignore[arg-type]


def test_the_stage_lists_and_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_set(tmp_path / "set", "wav", "silent", "clipped", "sine")
    settings: dict[str, Any] = {"pair": {"source": {"importer": "two_folders", "path": str(made)}}}
    config = Config.model_validate({"run": tmp_path / "run", "model": {"backbone": "tango", "source": "none"}, **settings})
    run(config, progress=Progress())
    [line] = [json.loads(line) for line in (config.run / "candidates/broken.jsonl").read_text().splitlines()]
    assert "is silent" in line["reason"]
    assert summary_of(config, "generate")["report"]["clipped_kept"] == 1
    said = capsys.readouterr()
    assert "1 sounds are clipped; import without them by pair.source.clipped=broken" in " ".join((said.out + said.err).split())


@pytest.mark.parametrize("ending", FORMATS)
def test_a_sound_shorter_than_one_latent_is_named(ending: str, tmp_path: Path) -> None:
    rows = []
    for name, samples in (("long", 1280), ("short", 500)):
        soundfile.write(tmp_path / f"{name}.{ending}", SOUNDS["sine"][:samples].astype(np.float32), RATE)
        rows.append(Candidate(name, "g", "a sound", Audio.from_path(tmp_path / f"{name}.{ending}")))
    write_candidates(tmp_path / "candidates/shard-00000.parquet", rows)
    columns_of_640: Any = SimpleNamespace(
        modality="audio", rate=RATE, source="m", size=(6400,), whole=lambda size: tuple(640 * (each // 640) for each in size)
    )
    pair = [Preference("g", "a sound", ("long", "short"))]
    with pytest.raises(ValueError, match=r"'short' is 500 at 16000 a second, smaller than one latent; leave it out of the set$"):
        sizes_of(tmp_path / "candidates", pair, None, columns_of_640)
    only = [Preference("g", "a sound", ("long",), "labelled", labels=(1,))]
    assert sizes_of(tmp_path / "candidates", only, None, columns_of_640) == {"long": (1280,)}
