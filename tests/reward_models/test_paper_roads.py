"""The configs that make a paper's data themselves, on tiny models to their gallery: what they rank, keep and label, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_endpoint import Server, brighter
from tiny_picture_models import save_aesthetic_head, save_clip, save_image_reward
from tiny_pipelines import save_pixart, save_sd3, save_sdxl
from tiny_timed import TEXTS, save_tiny_tango, save_tiny_wan
from typer.testing import CliRunner

from diffalign.data.modalities.video import Video
from diffalign.data.records import STRATEGY, Candidate, read_candidates, read_preferences, read_scores, write_candidates
from pipelines.cli import app

# diffusers hands tensors to numpy
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
TRAIN = {"steps": 2, "warmup_steps": 1, "micro_batch_size": 1, "optimizer": "adamw", "precision": "fp32"}


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def run_config(config: str, run: Path, model: Path, size: list[int], **changes: Any) -> None:
    """The command with a tiny model in the place of the config's, to the gallery; evaluated at `size`."""
    given = {
        "run": run, "model.source": model, "model.device": "cpu", "model.dtype": "float32", "encode.dtype": "float32",
        **{f"train.{name}": value for name, value in TRAIN.items()},
        "evaluate.size": size, "evaluate.steps": 1, "evaluate.samples_per_prompt": 1, "evaluate.guidance": 3.0,
        "evaluate.prompts.texts": ["a red circle"], **changes,
    }  # fmt: skip
    call("run", config, *(f"{name}={value if isinstance(value, str | Path) else json.dumps(value)}" for name, value in given.items()))
    scores = json.loads((run / "evaluation/report.json").read_text())["models"]["aligned"]["scores"]
    assert scores and (run / "gallery/index.html").is_file()


def call(*words: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, (result.output, result.exception)


def first_step(run: Path) -> dict[str, float]:
    """Of two steps, the second of which has moved."""
    first, second = (json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines())
    assert all(math.isfinite(value) for value in second.values())
    return first


def test_syn_pic(tmp_path: Path, tiny_clip: Path) -> None:
    """Generators of three families by turns, five judges, lists of four by the duels won; the first loss is ln 2 times the weights' sum."""
    savers = {"sdxl": save_sdxl, "sd3": save_sd3, "pixart": save_pixart}
    kinds = ["sdxl", "sd3", "pixart", "sdxl"]
    models = [savers[kind](tmp_path / f"model_{k}") for k, kind in enumerate(kinds)]
    clip, image_reward = save_clip(tmp_path / "clip"), save_image_reward(tmp_path / "reward_files")
    judges = {
        "pick_score": {"checkpoint": str(clip), "processor": str(clip)},
        "hps_v2_1": {"checkpoint": "random", "architecture": str(tiny_clip)},
        "image_reward": {"checkpoint": str(image_reward / "ImageReward.pt"), "tokenizer": str(image_reward)},
        "clip_score": {"checkpoint": "random", "architecture": str(tiny_clip)},
        "aesthetic": {"checkpoint": str(save_aesthetic_head(tmp_path / "head.pth")), "clip": str(clip)},
    }
    run = tmp_path / "run"
    run_config("syn_pic_sdxl", run, models[0], [16, 16], **{
        "generate.models": [{"backbone": kind, "source": str(model)} for kind, model in zip(kinds, models, strict=True)],
        "generate.prompts": {"texts": ["a red circle", "two blue squares"]},
        "generate.steps": 2, "generate.size": [16, 16], "score.rewards.ensemble.of": judges, "encode.size": [16, 16],
        "train.reference_dtype": "float32", "train.batch_size": 2,
    })  # fmt: skip
    made = {each.candidate_id: each for each in read_candidates(run / "candidates")}
    assert all(each.model == str(models[int(name[-2:])]) for name, each in made.items()) and len(made) == 8
    scores, sums = read_scores(run / "scores", ["ensemble"]), []
    for preference in read_preferences(run / "preferences"):
        columns = [[scores[f"ensemble.{judge}_score"][sample] for sample in preference.samples] for judge in judges]
        wins = [
            sum(
                (column[one] > column[other]) + (column[one] == column[other]) / 2
                for column in columns
                for other in range(4)
                if other != one
            )
            for one in range(4)
        ]
        phi = [won / (5 * 3) for won in wins]
        assert phi == sorted(phi, reverse=True) and phi == pytest.approx([scores["ensemble.score"][s] for s in preference.samples])
        sums.append(
            sum(
                abs(2 ** phi[i] - 2 ** phi[j]) * abs(1 / math.log(2 + i) - 1 / math.log(2 + j))
                for i, j in combinations(range(4), 2)
                if phi[i] != phi[j]
            )
        )
    assert len(sums) == 2 and min(sums) > 0
    assert first_step(run)["loss"] == pytest.approx(math.log(2) * float(np.mean(sums)), rel=1e-4)


def test_audio_alpaca_of_own_samples(tmp_path: Path, tiny_clap: Path, server: Server) -> None:
    """Wrong prompts by the endpoint, two judges with four limits each; a step of SFT, then one of DPO against the base."""
    wrong = ["a high beep, then noise", "a low beep", "noise, then a low buzz"]
    server.answers = [json.dumps({"captions": [{"strategy": "replace", "caption": text} for text in wrong]})]
    model, run = save_tiny_tango(tmp_path), tmp_path / "run"
    limits = {"minimum_winner": -0.9, "minimum_loser": -0.95, "minimum_gap": 1e-4, "maximum_gap": 1.5}
    run_config("audio_alpaca_tango", run, model, [8192], **{
        "train.batch_size": 2, "evaluate.prompts.texts": [TEXTS[2]],
        "generate.prompts": {"texts": list(TEXTS[2:])}, "generate.steps": [1, 2, 3, 4], "generate.size": [8192],
        "generate.perturbed": {"count": 3, "endpoint": {"url": server.url, "model": "m"}},
        "score.rewards.clap_1": {"reward": "clap_score", "checkpoint": str(tiny_clap)},
        "score.rewards.clap_2": {"reward": "clap_score", "checkpoint": "random", "architecture": str(tiny_clap), "seed": 1},
        "pair.thresholds": {"clap_1.score": limits, "clap_2.score": limits}, "train.sft_steps": 1,
    })  # fmt: skip
    made = {each.candidate_id: each for each in read_candidates(run / "candidates")}
    assert len(made) == 2 * (4 + 3) and [each.steps for each in made.values()][:7] == [1, 2, 3, 4, 4, 4, 4]
    scores, kept = read_scores(run / "scores"), [each.samples for each in read_preferences(run / "preferences")]
    expected = []
    for group in dict.fromkeys(each.group_id for each in made.values()):
        members = sorted((name for name, each in made.items() if each.group_id == group), key=lambda name: -scores["clap_1.score"][name])
        best = next(name for name in members if not made[name].tags.get(STRATEGY))
        for other in members:
            gaps = [scores[judge][best] - scores[judge][other] for judge in ("clap_1.score", "clap_2.score")]
            if other != best and all(1e-4 <= gap <= 1.5 for gap in gaps):
                expected.append((best, other))
    assert sorted(kept) == sorted(expected) and 2 <= len(kept) < 12 and {made[loser].tags.get(STRATEGY) for _, loser in kept} >= {"replace"}
    begun, then = (json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines())
    assert begun["loss"] > 0 and "win_adv" not in begun and then["win_adv"] != 0 and abs(then["loss"] - math.log(2)) < 0.1


def test_dense_video(tmp_path: Path, server: Server) -> None:
    """Two variations of one real clip, and labels that are those of a judge who likes light, span by span, but where it takes the first."""

    def light_but_first_in_the_second_span(question: dict[str, Any]) -> str:
        span = (len(server.asked) - 1) // 2 % 3  # both orders of each span, one after the other
        return json.dumps({"better": "first"}) if span == 1 else brighter(question)

    draw, model, run = np.random.default_rng(0), save_tiny_wan(tmp_path), tmp_path / "run"
    clips = [Video.from_frames(draw.integers(0, 256, (9, 16, 16, 3), np.uint8), 8.0) for _ in range(2)]
    (tmp_path / "clips").mkdir()
    write_candidates(tmp_path / "clips/shard-00000.parquet", [Candidate(f"c{i}", f"g{i}", TEXTS[i], clip) for i, clip in enumerate(clips)])
    server.answers = [light_but_first_in_the_second_span]
    run_config("dense_video_wan", run, model, [9, 16, 16], **{
        "generate.prompts": {"texts": list(TEXTS[:2])}, "generate.guided.media": tmp_path / "clips", "generate.steps": 2,
        "generate.size": [9, 16, 16],
        "score.rewards.vlm_segments": {"endpoint": {"url": server.url, "model": "m"}, "segments": 3, "at_once": 1},
        "pair.spans": [f"vlm_segments.segment_{place}" for place in (1, 2, 3)], "train.batch_size": 2, "train.lora.rank": 4,
    })  # fmt: skip
    made = {each.candidate_id: each.media for each in read_candidates(run / "candidates")}
    preferences = list(read_preferences(run / "preferences"))
    assert len(made) == 4 and len(preferences) == 2 and len(server.asked) == 2 * 2 * 3
    for preference in preferences:
        light = [[float(third.mean()) for third in np.split(made[name].frames(), 3)] for name in preference.samples]  # type: ignore[attr-defined]
        labels = [int(np.sign(first - second)) for first, second in zip(*light, strict=True)]
        assert all(labels) and sum(labels[::2]) >= 0
        assert list(preference.segment_labels or ()) == [labels[0], 0, labels[2]]
    first = first_step(run)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (run / "train/final/pytorch_lora_weights.safetensors").is_file()


def on_tiny_models(config: str, folder: Path, server: Server) -> dict[str, Any]:
    """Overrides of a config: models and judges that are small and as they come, and nothing of precision."""
    if config == "syn_pic_sdxl":
        judges = {"pick_score": "sharpness", "hps_v2_1": "saturation", "image_reward": "contrast", "clip_score": "brightness"}
        model, other = save_sdxl(folder / "sdxl"), save_sd3(folder / "sd3")
        return {
            "model.source": model, "generate.models": [str(model), {"backbone": "sd3", "source": str(other), "dtype": "bfloat16"}],
            "generate.prompts": {"texts": ["a red circle", "two blue squares"]}, "generate.steps": 2, "generate.guidance": 3.0,
            "generate.size": [16, 16], "encode.size": [16, 16],
            "score.rewards.ensemble.of": {name: {"reward": judge} for name, judge in {**judges, "aesthetic": "jpeg_size"}.items()},
        }  # fmt: skip
    if config == "audio_alpaca_tango":
        return {
            "model.source": save_tiny_tango(folder), "generate.prompts": {"texts": list(TEXTS[2:])}, "generate.steps": 2,
            "generate.size": [8192], "generate.perturbed": {"count": 1, "world": "tones", "endpoint": None},
            "score.rewards.clap_1": {"reward": "rms"}, "score.rewards.clap_2": {"reward": "centroid"}, "pair.thresholds": {},
            "train.sft_steps": 1,
        }  # fmt: skip
    draw = np.random.default_rng(0)
    clips = [Video.from_frames(draw.integers(0, 256, (9, 16, 16, 3), np.uint8), 8.0) for _ in range(2)]
    (folder / "clips").mkdir()
    write_candidates(folder / "clips/shard-00000.parquet", [Candidate(f"c{i}", f"g{i}", TEXTS[i], clip) for i, clip in enumerate(clips)])
    server.answers = [brighter]
    return {
        "model.source": save_tiny_wan(folder), "generate.prompts": {"texts": list(TEXTS[:2])}, "generate.guided.media": folder / "clips",
        "generate.steps": 2, "generate.size": [9, 16, 16],
        "score.rewards.vlm_segments": {"endpoint": {"url": server.url, "model": "m"}, "segments": 2},
        "pair.spans": ["vlm_segments.segment_1", "vlm_segments.segment_2"],
    }  # fmt: skip


LONG = [pytest.param(config, marks=pytest.mark.long) for config in ("syn_pic_sdxl", "audio_alpaca_tango")]


@pytest.mark.parametrize("config", ["dense_video_wan", *LONG])
def test_each_trains_in_its_own_precision(config: str, tmp_path: Path, server: Server) -> None:
    """As it is written, but for models, judges, size and number: a part of another dtype than its neighbour would show here."""
    given = {
        "run": tmp_path / "run", "model.device": "cpu", "train.steps": 2, "train.warmup_steps": 1, "train.batch_size": 2,
        "train.micro_batch_size": 1, "evaluate": None, "gallery": None, **on_tiny_models(config, tmp_path, server),
    }  # fmt: skip
    call("run", config, *(f"{name}={value if isinstance(value, str | Path) else json.dumps(value)}" for name, value in given.items()))
    steps = [json.loads(line) for line in (tmp_path / "run/train/metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2 and all(math.isfinite(value) for step in steps for value in step.values())
    assert all(step["loss"] > 0 and step["grad_norm"] > 0 for step in steps)
