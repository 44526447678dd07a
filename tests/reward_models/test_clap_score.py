"""clap_score against transformers called directly, on random weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffalign.data.modalities.audio import Audio
from reward_models import load_reward

torchaudio = pytest.importorskip("torchaudio")

PROMPTS = ["a low beep", "noise, then a buzz", "a rising chirp", "a low beep", "", "a high buzz while a click repeats" * 4]
RATE = 48_000
FORMS = [(1, 48_000, 0.5), (2, 48_000, 1.0), (1, 16_000, 0.25), (2, 44_100, 2.5), (1, 8_000, 3.0), (1, 22_050, 1.0)]


@pytest.fixture(scope="module")
def sounds() -> list[Audio]:
    """Of one and two channels, several rates, shorter and longer than the window of a second."""
    random = np.random.default_rng(0)
    made = []
    for place, (channels, rate, seconds) in enumerate(FORMS):
        time = np.arange(round(rate * seconds)) / rate
        tones = np.stack([np.sin(2 * np.pi * 300 * (place + 1) * (channel + 1) * time) for channel in range(channels)])
        made.append(Audio.from_waveform(0.3 * tones + 0.02 * random.standard_normal(tones.shape), rate))
    return made


def direct_cosines(folder: Path, sounds: list[Audio]) -> list[float]:
    """The cosine of each sound and its prompt by ClapModel.forward, one by one."""
    import torch
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    model = ClapModel.from_pretrained(folder).eval()
    extractor, tokenizer = ClapFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    cosines = []
    for prompt, sound in zip(PROMPTS, sounds, strict=True):
        wave = torch.from_numpy(sound.waveform()).mean(0)
        wave = torchaudio.functional.resample(wave, sound.sample_rate_hz, RATE)[:RATE].numpy()
        text = tokenizer(prompt, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            out = model(
                input_ids=text["input_ids"], attention_mask=text["attention_mask"],
                **extractor(wave, sampling_rate=RATE, return_tensors="pt"),
            )  # fmt: skip
        cosines.append(float((out.audio_embeds @ out.text_embeds.T)[0, 0]))
    return cosines


@pytest.mark.parity("clap_score")
def test_score_is_the_cosine_of_transformers(tiny_clap: Path, sounds: list[Audio]) -> None:
    expected = direct_cosines(tiny_clap, sounds)
    assert max(expected) - min(expected) > 0.05, "the comparison must tell sounds apart"
    reward = load_reward("clap_score", checkpoint=str(tiny_clap), device="cpu", batch=4)
    np.testing.assert_allclose(reward(PROMPTS, sounds)["score"], expected, atol=1e-5)
    singles = [reward([prompt], [sound])["score"][0] for prompt, sound in zip(PROMPTS, sounds, strict=True)]
    np.testing.assert_allclose(singles, expected, atol=1e-5)
    assert expected[0] != expected[3], "of one prompt, two sounds"


def test_the_first_window_is_mono_at_the_models_rate(tiny_clap: Path) -> None:
    reward = load_reward("clap_score", checkpoint="random", architecture=str(tiny_clap), device="cpu")
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    for rate, seconds in [(48_000, 1.0), (44_100, 2.0), (16_000, 1.5), (8_000, 60.0)]:
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
        window = reward.first_window(Audio.from_waveform(np.stack([2 * tone, 0 * tone]), rate))
        assert window.shape == (RATE,) and window.dtype == np.float32
        assert np.abs(window - wanted)[100:-100].max() < 5e-3, f"{rate} Hz"
    assert reward.first_window(Audio.from_waveform(np.zeros((1, 4_000)), 16_000)).shape == (12_000,)


def test_what_comes_after_the_window_counts_for_nothing(tiny_clap: Path) -> None:
    """transformers takes a random window of a longer sound."""
    reward = load_reward("clap_score", checkpoint=str(tiny_clap), device="cpu")
    random = np.random.default_rng(1)
    first = random.uniform(-0.5, 0.5, (1, RATE))
    others = [np.sin(np.arange(20 * RATE))[None] * 0.5, np.zeros((1, 5 * RATE))]
    ((alone,), *longer) = [
        reward(["noise"], [Audio.from_waveform(np.concatenate([first, *more], axis=1), RATE)])["score"]
        for more in ([], [others[0]], [others[1]], [others[0]])
    ]
    assert [score for (score,) in longer] == [alone] * 3
    assert reward(["noise"], [Audio.from_waveform(first[:, ::-1].copy(), RATE)])["score"] != [alone]


def test_a_long_prompt_is_cut_where_the_release_cuts_it(tiny_clap: Path, tmp_path: Path) -> None:
    """At 77 tokens, two of which stand around the words, though the encoder has places for 512."""
    folder = copied(tiny_clap, tmp_path / "long")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 514
    (folder / "config.json").write_text(json.dumps(config))
    reward = load_reward("clap_score", checkpoint="random", architecture=str(folder), device="cpu")
    words = [["a", "low", "beep", "then", "noise"][place % 5] for place in range(90)]
    whole, cut, shorter = (reward.embed_texts([" ".join(words[:count])]) for count in (90, 75, 74))
    assert (whole - cut).abs().max() < 1e-6 < (cut - shorter).abs().max()


def test_the_prefix_stands_before_every_prompt(tiny_clap: Path, sounds: list[Audio]) -> None:
    settings = {"checkpoint": str(tiny_clap), "device": "cpu"}
    plain = load_reward("clap_score", **settings)
    prefixed = load_reward("clap_score", prefix="a high ", **settings)
    assert prefixed(PROMPTS, sounds) == plain(["a high " + prompt for prompt in PROMPTS], sounds) != plain(PROMPTS, sounds)
    assert prefixed.revision == f"{plain.revision}/a high "


def test_random_weights_are_a_function_of_the_seed_and_leave_torchs_generator_alone(tiny_clap: Path, sounds: list[Audio]) -> None:
    import torch

    settings = {"checkpoint": "random", "architecture": str(tiny_clap), "device": "cpu"}
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (load_reward("clap_score", seed=seed, **settings) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first(PROMPTS, sounds) == again(PROMPTS, sounds) != other(PROMPTS, sounds)
    assert first.revision == again.revision != other.revision


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_revision_names_weights_and_configs_not_the_place(tiny_clap: Path, sounds: list[Audio], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def load(folder: Path):
        return load_reward("clap_score", checkpoint=str(folder), device="cpu")

    reward = load(tiny_clap)
    name, weights, config = reward.revision.split("/")
    assert name == "tiny" and len(weights) == len(config) == 12
    assert load(copied(tiny_clap, tmp_path / "same" / "tiny")).revision == reward.revision
    trained = copied(tiny_clap, tmp_path / "trained" / "tiny")
    tensors = load_file(trained / "model.safetensors")
    tensors["text_projection.linear1.bias"][0] += 1
    save_file(tensors, trained / "model.safetensors", metadata={"format": "pt"})
    assert load(trained).revision.split("/")[1] != weights
    assert load(trained).revision.split("/")[2] == config
    padded = copied(tiny_clap, tmp_path / "padded" / "tiny")
    (file,) = [path for path in padded.glob("*.json") if "repeatpad" in path.read_text()]
    file.write_text(file.read_text().replace("repeatpad", "pad"))
    assert load(padded).revision.split("/")[1:] != [weights, config]
    assert load(padded)(PROMPTS, sounds) != reward(PROMPTS, sounds)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_clap: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_clap, tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    del tensors["audio_projection.linear1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of ClapModel, such as audio_projection\.linear1\.weight"):
        load_reward("clap_score", checkpoint=str(folder), device="cpu")


def test_a_folder_has_no_revision(tiny_clap: Path) -> None:
    with pytest.raises(ValueError, match=r"revision = 'main' with the folder .*; a revision is of a hub id, leave it out"):
        load_reward("clap_score", checkpoint=str(tiny_clap), revision="main", device="cpu")


class Payload:
    """What a hostile checkpoint would run when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tiny_clap: Path, tmp_path: Path) -> None:
    import torch

    folder = copied(tiny_clap, tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale_a": Payload(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"does not load as ClapModel .*of tensors alone"):
        load_reward("clap_score", checkpoint=str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_model_that_fuses_random_crops_is_refused(tiny_clap: Path, tmp_path: Path) -> None:
    folder = copied(tiny_clap, tmp_path / "fused")
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["enable_fusion"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="fuses random crops of a sound; give a model without feature fusion"):
        load_reward("clap_score", checkpoint=str(folder), device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "./nowhere"}, r"'\./nowhere', which is no folder; give one that transformers saved, or a hub id"),
        ({"checkpoint": "nobody/nothing"}, "checkpoint = 'nobody/nothing', which does not load as ClapConfig"),
        ({"checkpoint": "random"}, "give a folder as architecture with checkpoint = 'random', and only then"),
        ({"checkpoint": "x/y", "architecture": "z"}, "give a folder as architecture with checkpoint = 'random', and only then"),
        ({"checkpoint": "x/y", "batch": 0}, "batch = 0; give a whole number of at least 1"),
        ({}, "needs the setting 'checkpoint'"),
        ({"checkpoint": "random", "architectur": "x"}, r"no setting 'architectur' \(did you mean 'architecture'\?\)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings: dict[str, str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_reward("clap_score", **settings)
