"""audiobox_aesthetics against its arithmetic written out over the released names, on files of the released layouts."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_audiobox import HEADS, LAYERS, SCALES

from diffalign.data.modalities.audio import Audio
from reward_models import load_reward

RATE = 16_000
STEP = 320  # samples of a frame


@pytest.fixture(scope="module")
def sounds() -> list[Audio]:
    """Short, stereo of two windows, of another rate, of one sample over a frame, and of a whole window."""
    random = np.random.default_rng(0)
    sizes = [(1, 20_000, RATE), (2, 200_000, RATE), (1, 60_000, 8_000), (1, 10 * STEP + 1, RATE), (1, 160_000, RATE)]
    found = []
    for place, (channels, samples, rate) in enumerate(sizes):
        tone = np.sin(2 * np.pi * 220 * 2**place * np.arange(samples) / rate)
        found.append(Audio.from_waveform(0.4 * tone + random.uniform(-0.4, 0.4, (channels, samples)) / (place + 1), rate))
    return found


class Wavlm:
    """WavLM and the heads over it with their released names, in float64 and one window at a time: arXiv:2110.13900, arXiv:2502.05139."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(self, name: str, values: Any) -> Any:
        return values @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, values: Any) -> Any:
        centred = values - values.mean(-1, keepdim=True)
        return centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def hear(self, wave: Any) -> Any:
        """(samples,) → (frames, D): seven convolutions, the first followed by a norm of each channel over all of the window."""
        from torch.nn.functional import conv1d, gelu

        values = wave[None, None]
        for place, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
            name = f"wavlm_model.feature_extractor.conv_layers.{place}"
            values = conv1d(values, self.tensors[f"{name}.0.weight"], stride=stride)
            if place == 0:
                centred = values - values.mean(2, keepdim=True)
                scale, shift = (self.tensors[f"{name}.2.{part}"][:, None] for part in ("weight", "bias"))
                values = centred / ((centred**2).mean(2, keepdim=True) + 1e-5).sqrt() * scale + shift
            values = gelu(values)
        return self.linear("wavlm_model.post_extract_proj", self.norm("wavlm_model.layer_norm", values[0].T))

    def place(self, states: Any) -> Any:
        """What the convolution over positions adds: its kernel is g·v/|v|, the norm over all but the position; the last output is cut."""
        from torch.nn.functional import conv1d, gelu

        name = "wavlm_model.encoder.pos_conv.0"
        direction, length = self.tensors[f"{name}.weight_v"], self.tensors[f"{name}.weight_g"]
        kernel = length * direction / (direction**2).sum((0, 1), keepdim=True).sqrt()
        groups = states.shape[1] // kernel.shape[1]
        moved = conv1d(states.T[None], kernel, self.tensors[f"{name}.bias"], padding=kernel.shape[2] // 2, groups=groups)
        return gelu(moved[0, :, :-1]).T

    def distances(self, frames: int) -> Any:
        """(heads, frames, frames): 160 buckets each for before and after, of one frame up to 80 and then in logarithms up to 800."""
        import torch

        buckets = torch.zeros(frames, frames, dtype=torch.long)
        for distance in range(1 - frames, frames):
            far = abs(distance)
            bucket = far if far < 80 else min(159, 80 + int(math.log(far / 80) / math.log(10) * 80))
            buckets += torch.diag(torch.full((frames - far,), bucket + (160 if distance > 0 else 0)), distance)
        return self.tensors["wavlm_model.encoder.layers.0.self_attn.relative_attention_bias.weight"][buckets].permute(2, 0, 1)

    def attend(self, layer: str, states: Any, distances: Any, sounding: Any) -> Any:
        """(frames, D) → (frames, D): a gate of each frame and head scales the bias of distances; silence after the end is not looked at."""
        import torch

        name, width = f"{layer}.self_attn", states.shape[1] // HEADS
        parts = []
        query, key, value = (self.linear(f"{name}.{part}_proj", states) for part in ("q", "k", "v"))
        for head in range(HEADS):
            own = slice(head * width, (head + 1) * width)
            gates = torch.sigmoid(self.linear(f"{name}.grep_linear", states[:, own]).view(-1, 2, 4).sum(2))
            scale = gates[:, 0] * (gates[:, 1] * self.tensors[f"{name}.grep_a"][0, head, 0, 0] - 1) + 2
            logits = query[:, own] @ key[:, own].T / width**0.5 + scale[:, None] * distances[head]
            parts.append(torch.softmax(logits.masked_fill(~sounding, -math.inf), 1) @ value[:, own])
        return self.linear(f"{name}.out_proj", torch.cat(parts, 1))

    def scores(self, samples: Any) -> dict[str, float]:
        """Of at most 10 s at 16 kHz."""
        import torch
        from torch.nn.functional import gelu

        wave = torch.zeros(160_000, dtype=torch.float64)
        wave[: len(samples)] = torch.from_numpy(samples)
        states = self.hear(wave)
        sounding = torch.arange(len(states)) < math.ceil(len(samples) / STEP)
        states = torch.where(sounding[:, None], states, 0.0)
        states = self.norm("wavlm_model.encoder.layer_norm", states + self.place(states))
        found, distances = [states], self.distances(len(states))
        for layer in (f"wavlm_model.encoder.layers.{place}" for place in range(LAYERS)):
            states = self.norm(f"{layer}.self_attn_layer_norm", states + self.attend(layer, states, distances, sounding))
            states = self.norm(f"{layer}.final_layer_norm", states + self.linear(f"{layer}.fc2", gelu(self.linear(f"{layer}.fc1", states))))
            found.append(states)
        answers = {}
        for name, scale in SCALES.items():
            weights = torch.softmax(self.tensors[f"layer_weights.{name}"], 0)
            mixed = sum(weight * each for weight, each in zip(weights, found, strict=True))[sounding].mean(0)
            values = mixed / mixed.norm()
            for place in (0, 4):
                values = gelu(self.norm(f"proj_layer.{name}.{place + 1}", self.linear(f"proj_layer.{name}.{place}", values)))
            answers[name] = float(self.linear(f"proj_layer.{name}.8", values)[0]) * scale["std"] + scale["mean"]
        return answers


def written_out(wavlm: Wavlm, sound: Audio) -> dict[str, float]:
    """The mean of the windows, each weighted by its samples."""
    import torch
    import torchaudio

    samples = sound.waveform().astype(np.float64).mean(0)
    if sound.sample_rate_hz != RATE:
        samples = torchaudio.functional.resample(torch.from_numpy(samples), sound.sample_rate_hz, RATE).numpy()
    windows = [samples[start : start + 10 * RATE] for start in range(0, len(samples), 10 * RATE)]
    scores = [(len(window) / len(samples), wavlm.scores(window)) for window in windows]
    return {name: sum(share * each[name] for share, each in scores) for name in SCALES}


@pytest.mark.parity("audiobox_aesthetics")
@pytest.mark.parametrize("file", ["checkpoint.pt", "model.safetensors"])
def test_scores_are_the_releases_written_out(tiny_audiobox: Path, sounds: list[Audio], file: str) -> None:
    from safetensors.torch import load_file

    wavlm = Wavlm(load_file(tiny_audiobox / "model.safetensors"))
    expected = [written_out(wavlm, sound) for sound in sounds]
    assert min(np.ptp([each[name] for each in expected]) / SCALES[name]["std"] for name in SCALES) > 0.05, "sounds must differ"
    reward = load_reward("audiobox_aesthetics", checkpoint=str(tiny_audiobox / file), device="cpu", batch=2)
    scores = reward(["x"] * len(sounds), sounds)
    for name in SCALES:
        np.testing.assert_allclose(scores[name], [each[name] for each in expected], atol=2e-5)


def test_windows_of_any_batch_give_the_same_scores(tiny_audiobox: Path, sounds: list[Audio]) -> None:
    scores = [
        load_reward("audiobox_aesthetics", checkpoint=str(tiny_audiobox / "checkpoint.pt"), device="cpu", batch=batch)(["x"] * 5, sounds)
        for batch in (1, 3)
    ]
    for name in SCALES:
        np.testing.assert_allclose(scores[0][name], scores[1][name], atol=1e-5)


def test_halves_are_near_and_in_another_revision(tiny_audiobox: Path, sounds: list[Audio]) -> None:
    settings = {"checkpoint": str(tiny_audiobox / "checkpoint.pt"), "device": "cpu"}
    full, half = (load_reward("audiobox_aesthetics", **settings, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert full.revision != half.revision
    np.testing.assert_allclose(half(["x"] * 2, sounds[:2])["PQ"], full(["x"] * 2, sounds[:2])["PQ"], atol=0.05)


def changed(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy whose config.json says something else; None leaves a key out."""
    shutil.copytree(folder, target)
    said = {**json.loads((target / "config.json").read_text()), **settings}
    (target / "config.json").write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return target / "model.safetensors"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_transform": None}, r"whose settings lack target_transform\.CE; give the release's files unchanged"),
        ({"target_transform": {**SCALES, "PQ": {"mean": 1.0}}}, r"whose settings lack target_transform\.PQ"),
        ({"normalize_embed": None}, "whose settings lack normalize_embed"),
        ({"proj_act_fn": "relu"}, "with proj_act_fn = 'relu'; the release has 'gelu'"),
        ({"use_weighted_layer_sum": False}, "with use_weighted_layer_sum = False; the release has True"),
        ({"proj_num_layer": 1}, "which does not fit: 40 tensors, such as CE.1.bias is unknown"),
    ],
)
def test_a_release_that_says_something_else_is_refused(tiny_audiobox: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward("audiobox_aesthetics", checkpoint=str(changed(tiny_audiobox, tmp_path / "other", **settings)), device="cpu")


def test_files_that_are_not_there_are_named(tiny_audiobox: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_audiobox / "model.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"without config\.json beside it; such as `hf download facebook/audiobox-aesthetics"):
        load_reward("audiobox_aesthetics", checkpoint=str(tmp_path / "model.safetensors"), device="cpu")
    with pytest.raises(FileNotFoundError, match="which is no file; download one first, such as `hf download facebook/audiobox-aesthetics"):
        load_reward("audiobox_aesthetics", checkpoint=str(tmp_path / "nowhere.pt"), device="cpu")


def test_another_models_file_is_refused(tiny_audiobox: Path, tmp_path: Path) -> None:
    import torch

    whole = torch.load(tiny_audiobox / "checkpoint.pt", weights_only=True)
    for name in list(whole["state_dict"]):
        if "pos_conv" in name:
            del whole["state_dict"][name]
    torch.save(whole, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"which lacks 'encoder\.pos_conv_embed\.conv.*; give the file that was released"):
        load_reward("audiobox_aesthetics", checkpoint=str(tmp_path / "other.pt"), device="cpu")


class Payload:
    """What a hostile checkpoint would run when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {"model.x": Payload(tmp_path / "ran")}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="which does not load"):
        load_reward("audiobox_aesthetics", checkpoint=str(tmp_path / "checkpoint.pt"), device="cpu")
    assert not (tmp_path / "ran").exists()
