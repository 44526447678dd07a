"""audiobox_aesthetics against a package of ours in its place: what it is given, and what is made of its answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_audiobox import FakePredictor, put_in_place

from diffalign.data.modalities.audio import Audio
from reward_models import load_reward


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[FakePredictor]:
    return put_in_place(monkeypatch)


def sounds() -> list[Audio]:
    random = np.random.default_rng(0)
    return [Audio.from_waveform(random.uniform(-1, 1, (1 + index % 2, 400 * (index + 1))), 8000 * (index + 1)) for index in range(5)]


def test_sounds_go_as_tensors_with_their_rate_and_answers_keep_their_order(package: list[FakePredictor]) -> None:
    media = sounds()
    scores = load_reward("audiobox_aesthetics", batch=2)(["x"] * 5, media)
    assert scores == {
        "CE": [pytest.approx(float(sound.waveform().mean()), abs=1e-6) for sound in media],
        "CU": [float(sound.waveform().shape[0]) for sound in media],
        "PC": [float(sound.waveform().shape[1]) for sound in media],
        "PQ": [float(sound.sample_rate_hz) for sound in media],
    }
    assert package[0].batches == [2, 2, 1] and package[0].checkpoint is None


def test_answers_in_json_are_read(package: list[FakePredictor], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_reward("audiobox_aesthetics")(["x"] * 5, sounds())
    forward = FakePredictor.forward
    monkeypatch.setattr(FakePredictor, "forward", lambda self, asked: [json.dumps(row) for row in forward(self, asked)])
    assert load_reward("audiobox_aesthetics")(["x"] * 5, sounds()) == plain


def test_a_checkpoint_is_handed_on_and_named_in_the_revision(package: list[FakePredictor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"weights")
    reward = load_reward("audiobox_aesthetics", checkpoint=str(path))
    assert package[0].checkpoint == str(path) and reward.revision != load_reward("audiobox_aesthetics").revision
    with pytest.raises(FileNotFoundError, match="which is no file; download one first, such as `hf download facebook/audiobox-aesthetics"):
        load_reward("audiobox_aesthetics", checkpoint=str(tmp_path / "nowhere.pt"))


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", None)
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.infer", None)
    with pytest.raises(ModuleNotFoundError, match="which is not installed and is no extra of ours: pip install audiobox_aesthetics"):
        load_reward("audiobox_aesthetics")


def test_a_package_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("undefined symbol")

    monkeypatch.setattr("reward_models.audiobox_aesthetics.import_module", broken)
    with pytest.raises(ImportError, match=r"does not import here \(undefined symbol\); it needs a torchaudio that fits"):
        load_reward("audiobox_aesthetics")
