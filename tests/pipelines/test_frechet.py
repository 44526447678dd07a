"""The Fréchet distance against closed forms, and what it says of sounds that get worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg

import pipelines.evaluate
from diffalign.data.modalities.audio import Audio, resample
from diffalign.data.records import Candidate, write_candidates
from pipelines.config import Config
from pipelines.frechet import extrapolated, fidelity, frechet_distance, told, warning_of
from pipelines.progress import Progress
from pipelines.stage import StageFolder
from reward_models.worlds.tones import SAMPLE_RATE_HZ, prompts, render


def test_sets_of_numbers_by_hand() -> None:
    """(1 − 4)² + (s₁ − s₂)² of one dimension, with deviations √2 and √8."""
    one, other = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert frechet_distance(one, other) == pytest.approx(9 + (np.sqrt(8) - np.sqrt(2)) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="of 1 and 2 samples"):
        frechet_distance(one[:1], other)


def test_several_dimensions_against_the_matrix_root() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(60, 5)) @ draw.normal(size=(5, 5)), draw.normal(size=(80, 5)) + 0.3
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    means = one.mean(0) - other.mean(0)
    assert frechet_distance(one, other) == pytest.approx(means @ means + np.trace(first + second - 2 * root), rel=1e-6)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)
    singular = draw.normal(size=(3, 5))  # fewer samples than dimensions
    assert frechet_distance(singular, singular) == pytest.approx(0, abs=1e-6)


def test_sounds_that_get_worse_are_farther(tmp_path: Path) -> None:
    drawn = prompts("train", 24, 0)
    texts, clusters = [prompt.text for prompt in drawn], [prompt.scene for prompt in drawn]
    noise = np.random.default_rng(1)
    for name, level in (("base", 0.03), ("better", 0.003), ("worse", 0.2)):
        waves = [render(text, 77 + place) + level * noise.normal(size=49_152) for place, text in enumerate(texts)]
        rows = [Candidate(f"c{place}", f"g{place}", text, Audio.from_waveform(wave[None], SAMPLE_RATE_HZ))
                for place, (text, wave) in enumerate(zip(texts, waves))]  # fmt: skip
        write_candidates(tmp_path / name / "shard-00000.parquet", rows)
    found = fidelity(tmp_path, "tones", ["base", "better", "worse"], texts, clusters, 0)
    assert found["floor"] < found["models"]["better"]["aligned"] < found["base"] < found["models"]["worse"]["aligned"]
    better, worse = found["models"]["better"], found["models"]["worse"]
    assert better["low"] <= better["change"] <= better["high"] < 0 < worse["low"] <= worse["change"] <= worse["high"]
    assert "change -" in told(found, "better") and "change +" in told(found, "worse")
    assert abs(found["floor"]) < 0.5 * found["at_samples"]["floor"] and found["features"] == 48
    assert "24 samples with 48 features" in (warning_of(found) or "") and warning_of(found | {"samples": 480}) is None


def test_what_is_reported_is_of_infinitely_many() -> None:
    """Of two draws from one normal distribution it is 0, whatever their number; that of the samples is far from it, and the farther the
    fewer. Of two distributions it is their distance."""
    draw = np.random.default_rng(0)
    shape = np.diag(np.geomspace(0.1, 3, 20))
    truth = 4.0 + np.trace((shape - 1.5 * shape) ** 2)
    for count in (80, 240):
        found: dict[str, list[float]] = {"same": [], "other": [], "at n": []}
        for trial in range(12):
            one, two = (draw.normal(size=(count, 20)) @ shape for _ in range(2))
            three = 1.5 * draw.normal(size=(count, 20)) @ shape + np.r_[2.0, np.zeros(19)]
            members = [np.array([row]) for row in range(count)]
            for name, other in (("same", two), ("other", three)):

                def distance(rows: np.ndarray, one: np.ndarray = one, other: np.ndarray = other) -> float:
                    return frechet_distance(other[rows], one[rows])

                found[name].append(extrapolated(distance, members, np.random.default_rng(trial)))
            found["at n"].append(frechet_distance(one, two))
        biased = np.mean(found["at n"])
        assert biased > {80: 2.0, 240: 0.6}[count] and abs(np.mean(found["same"])) < 0.2 * biased
        assert np.mean(found["other"]) == pytest.approx(truth, rel=0.08)


def test_sounds_of_another_rate_are_heard_at_the_world_s(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in prompts("heldout", 10, 0)]
    for name, rate in (("base", SAMPLE_RATE_HZ), ("faster", 2 * SAMPLE_RATE_HZ)):
        rows = []
        for place, text in enumerate(texts):
            wave = Audio.from_waveform(render(text, place)[None], SAMPLE_RATE_HZ).waveform()
            wave = resample(wave, SAMPLE_RATE_HZ, rate) if rate != SAMPLE_RATE_HZ else wave
            rows.append(Candidate(f"c{place}", f"g{place}", text, Audio.from_waveform(np.repeat(wave, 2, 0), rate)))
        write_candidates(tmp_path / name / "shard-00000.parquet", rows)
    found = fidelity(tmp_path, "tones", ["base", "faster"], texts, texts, 0)["at_samples"]
    assert found["base"] < 1 and found["faster"] < 0.1 * found["floor"]


def test_sounds_are_compared_with_renders_of_their_length(tmp_path: Path) -> None:
    """The very renders, of one length and of two by turns, are at no distance from them."""
    texts = [prompt.text for prompt in prompts("heldout", 10, 0)]
    for name, lengths in (("short", [24_576]), ("both", [49_152, 24_576])):
        rows = [
            Candidate(f"c{place}-{turn}", f"g{place}", text, Audio.from_waveform(sound[None], SAMPLE_RATE_HZ))
            for place, text in enumerate(texts)
            for turn, length in enumerate(lengths * 2)
            for sound in [render(text, place + 2 * 10**6 * (turn % len(lengths)), length)]
        ]
        write_candidates(tmp_path / name / "shard-00000.parquet", rows)
        found = fidelity(tmp_path, "tones", [name], texts, texts, 0)
        assert found["samples"] == 10 and found["at_samples"][name] < 0.1 * found["at_samples"]["floor"]


def test_evaluate_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of the stage, on sounds of a base and of a model that adds noise: in report.json and in what is said."""

    def sample(
        config: Config, section: Any, stage: StageFolder, prompts: Any, name: str, checkpoints: Any, sizes: Any, progress: Any
    ) -> Any:
        noise = np.random.default_rng(5)
        waves = [render(prompt.text, 99 + place) for place, prompt in enumerate(prompts)]
        level = 0.02 if name == "base" else 0.2
        rows = [
            Candidate(f"{prompt.group_id}-00-{name}", prompt.group_id, prompt.text,
                      Audio.from_waveform((wave + level * noise.normal(size=len(wave)))[None], SAMPLE_RATE_HZ))
            for prompt, wave in zip(prompts, waves, strict=True)
        ]  # fmt: skip
        write_candidates(stage.path / name / "shard-00000.parquet", rows)
        return ((49_152,),)

    monkeypatch.setattr(pipelines.evaluate, "_sample", sample)
    for name in ("model", "noisy"):
        (tmp_path / name).mkdir()
    config = Config.model_validate({
        "run": tmp_path / "run", "seed": 3, "model": {"backbone": "tango", "source": str(tmp_path / "model"), "device": "cpu"},
        "evaluate": {
            "prompts": {"world": "tones", "count": 10}, "rewards": {}, "trained_on": [], "models": {"noisy": str(tmp_path / "noisy")},
            "fidelity": "tones",
        },
    })  # fmt: skip
    few = {"evaluate": config.evaluate.model_copy(update={"prompts": config.evaluate.prompts.model_copy(update={"count": 7})})}
    with pytest.raises(ValueError, match="of 7 different prompts says nothing; evaluate 8 or more"):
        pipelines.evaluate.run(config.model_copy(update={"run": tmp_path / "few", **few}), progress=Progress(silent=True))
    short = config.model_copy(update={"run": tmp_path / "few", "evaluate": config.evaluate.model_copy(update={"size": ((8192,),)})})
    with pytest.raises(ValueError, match=r"evaluate\.size has \[8192\]: 8192 samples are too few for a clip; give 16000 or more"):
        pipelines.evaluate.run(short, progress=Progress(silent=True))
    assert not list(tmp_path.glob("few/**/*.parquet"))  # before anything is sampled
    pipelines.evaluate.run(config, progress=Progress(silent=True))
    report = json.loads((config.run / "evaluation/report.json").read_text())
    found = report["fidelity"]
    assert found["models"]["noisy"]["low"] > 0 and found["base"] < found["models"]["noisy"]["aligned"]
    assert any("10 samples with 48 features" in warning for warning in report["models"]["noisy"]["warnings"])
