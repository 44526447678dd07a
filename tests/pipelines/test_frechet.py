"""The Fréchet distance against closed forms, and what it says of sounds that get worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import linalg

from diffalign.data.modalities.audio import Audio
from diffalign.data.records import Candidate, write_candidates
from pipelines.frechet import fidelity, frechet_distance, told
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
    drawn = prompts("heldout", 24, 0)
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
