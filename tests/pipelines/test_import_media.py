"""Sets of videos and of sounds, from each of the user's own layouts, through `pair` and `encode`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_media import flac, mp4, png, wav

from diffalign.data.latents import LatentCache
from diffalign.data.records import modality_of_candidates, read_candidates, read_preferences
from diffalign.data.shards import read_rows
from pipelines import encode
from pipelines.config import Config
from pipelines.pair import run
from pipelines.progress import Progress
from pipelines.stage import summary_of

QUIET = Progress(silent=True)
Make = Callable[[int], bytes]
FORMS: dict[str, tuple[tuple[Make, str], tuple[Make, str]]] = {  # how the chosen and the rejected are written
    "video": ((mp4, ".mp4"), (mp4, ".mp4")),
    "audio": ((wav, ".wav"), (flac, ".flac")),
}
COLUMNS = {
    "video": {"width": 8, "height": 8, "frames": 3, "fps": 8.0},
    "audio": {"samples": 400, "sample_rate_hz": 8000, "channels": 1},
}


def two_folders(folder: Path, modality: str) -> Path:
    for place, (side, (make, suffix)) in enumerate(zip(("chosen", "rejected"), FORMS[modality], strict=True)):
        (folder / side).mkdir(parents=True)
        for index in range(3):
            (folder / side / f"{index}{suffix}").write_bytes(make(2 * index + place))
            (folder / side / f"{index}.txt").write_text(f"prompt {index}")
    return folder


def suffix_folder(folder: Path, modality: str) -> Path:
    folder.mkdir()
    for place, (end, (make, suffix)) in enumerate(zip("wl", FORMS[modality], strict=True)):
        for index in range(3):
            (folder / f"{index}_{end}{suffix}").write_bytes(make(2 * index + place))
            (folder / f"{index}.txt").write_text(f"prompt {index}")
    return folder


def table(folder: Path, modality: str) -> Path:
    two_folders(folder, modality)
    ends = [suffix for _, suffix in FORMS[modality]]
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows([f"prompt {index}", f"chosen/{index}{ends[0]}", f"rejected/{index}{ends[1]}"] for index in range(3))
    return folder / "pairs.csv"


LAYOUTS = {"two_folders": two_folders, "suffix_folder": suffix_folder, "table": table}


def config_of(folder: Path, importer: str, path: Path, **sections: Any) -> Config:
    pair = {"source": {"importer": importer, "path": str(path), "groups_per_shard": 2}}
    return Config.model_validate({"run": folder / "run", "model": {"source": "fake/model"}, "pair": pair, **sections})


@pytest.mark.parametrize("modality", FORMS)
@pytest.mark.parametrize("importer", LAYOUTS)
def test_a_set_becomes_candidates_of_its_modality(importer: str, modality: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, importer, LAYOUTS[importer](tmp_path / "set", modality))
    run(config, progress=QUIET)
    folder = config.run / "candidates"
    assert modality_of_candidates(folder) == modality == summary_of(config, "generate")["report"]["modality"]
    candidates = {row.candidate_id: row for row in read_candidates(folder)}
    rows = read_preferences(config.run / "preferences")
    (good, _), (bad, _) = FORMS[modality]
    media = [candidates[sample].media.encoded() for row in rows for sample in row.samples]
    assert media == [make(2 * index + place) for index in range(3) for place, make in enumerate((good, bad))]
    assert [row.prompt for row in rows] == ["prompt 0", "prompt 1", "prompt 2"]
    for row in read_rows(folder):
        assert {name: row[name] for name in COLUMNS[modality]} == COLUMNS[modality]


@pytest.mark.parametrize("importer", LAYOUTS)
def test_mixed_modalities_are_refused_with_the_row(importer: str, tmp_path: Path) -> None:
    path = LAYOUTS[importer](tmp_path / "set", "audio")
    names = {"two_folders": "chosen/1.wav", "suffix_folder": "1_w.wav", "table": "chosen/1.wav"}
    (tmp_path / "set" / names[importer]).write_bytes(png(0))  # the name still says a sound
    with pytest.raises(ValueError, match=r"(1|row 1): '\w+-0000001-(chosen|w)' is image, and the media before it are audio; a set has one"):
        run(config_of(tmp_path, importer, path), progress=QUIET)


@pytest.mark.integration
def test_imported_sounds_are_encoded(tmp_path: Path) -> None:
    from diffalign.backbones import load_backbone
    from diffalign.backbones.miniature import tango as miniature

    small = miniature.Architecture(
        samples=8192, bins=16, latent_channels=4, autoencoder_channels=(8, 8), denoiser_channels=(16, 16), denoiser_heads=2, text_width=16,
        text_layers=1, text_heads=2, token_limit=12,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = miniature.build_pipeline(small, ["prompt 0"], miniature.build_autoencoder(small), tmp_path / "words")
    miniature.wrap(small, pipeline, "").save(tmp_path / "model")
    for side, seed in (("chosen", 0), ("rejected", 1)):
        (tmp_path / "set" / side).mkdir(parents=True)
        (tmp_path / "set" / side / "a.wav").write_bytes(wav(seed, 4096))  # at 8 kHz; the model takes 16
    (tmp_path / "set" / "chosen" / "a.txt").write_text("prompt 0")
    model = {"backbone": "tango", "source": str(tmp_path / "model"), "device": "cpu"}
    config = config_of(tmp_path, "two_folders", tmp_path / "set", model=model, encode={"posterior": "mean"})
    run(config, progress=QUIET)
    encode.run(config, progress=QUIET)
    cache, backbone = LatentCache(config.run / "latents"), load_backbone("tango", str(tmp_path / "model"))
    for row in read_candidates(config.run / "candidates"):
        wave = torch.from_numpy(row.media.tensor((8192,), 16_000))[None]
        torch.testing.assert_close(cache.latents([row.candidate_id]), backbone.encode(wave, seeds=None), rtol=1e-4, atol=1e-5)
