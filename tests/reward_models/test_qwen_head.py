"""hps_v3 and video_reward: the released arithmetic written out on small weights, their questions, names and pictures."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tiny_qwen import WORDS, save_hps_v3, save_video_reward

from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from reward_models import hps_v3, load_reward, video_reward
from reward_models.qwen_head import renamed

PROMPTS = ["a red circle", "two blue square and {text_prompt}"]


@pytest.fixture(scope="module")
def hps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("hps")
    return folder, *save_hps_v3(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("video")
    return folder, *save_video_reward(folder)


def state(model: Any, ids: list[int], pad: int, patches: torch.Tensor, grid: list[int], places: list[int]) -> torch.Tensor:
    """The release's forward: embeddings with the medium's in the place of its tokens, then the decoder, which counts places itself."""
    with torch.no_grad():
        seen = model.model.visual(patches, grid_thw=torch.tensor([grid]))
        seen = seen if isinstance(seen, torch.Tensor) else seen.pooler_output
        words = model.model.language_model.embed_tokens(torch.tensor([ids]))
        words[0, torch.tensor(ids) == pad] = seen
        return model.model.language_model(inputs_embeds=words).last_hidden_state[0, places]


def tokens(text: str, own: list[str], pad: str, count: int) -> list[int]:
    """Ids of what Qwen's template makes of a question about one medium of `count` tokens."""
    import re

    words = [*WORDS, *own]
    written = (
        "<|im_start|>system You are a helpful assistant.<|im_end|> <|im_start|>user <|vision_start|>" + pad * count
        + f"<|vision_end|>{text}<|im_end|> <|im_start|>assistant "
    )  # fmt: skip
    return [
        words.index(found) if found in words else 0
        for found in re.findall(r"<\|\w+\|>|\w+|[^\w\s]+", re.sub(r"(<\|\w+\|>)", r" \1 ", written))
    ]


def patched(frames: np.ndarray) -> torch.Tensor:
    """Patches of uint8 frames (T, H, W, 3), T even: two frames, 14 x 14 pixels, two by two of them beside each other; CLIP's scaling."""
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    scaled = ((frames / 255 - mean) / deviation).transpose(0, 3, 1, 2)
    count, _, height, width = scaled.shape
    parts = scaled.reshape(count // 2, 2, 3, height // 28, 2, 14, width // 28, 2, 14).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return torch.from_numpy(np.ascontiguousarray(parts.reshape(-1, 3 * 2 * 14 * 14))).float()


@pytest.mark.parity("hps_v3")
def test_hps_v3_is_the_release_written_out(hps: tuple[Path, Any, Any]) -> None:
    folder, model, head = hps
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    expected = []
    for prompt, pixels in zip(PROMPTS, noise, strict=True):
        # 60 x 90 pixels to 200,704: the sides times 6.0967, up to 28s, are 392 x 560
        small = np.asarray(PillowImage.fromarray(pixels).resize((560, 392), PillowImage.Resampling.BICUBIC))
        ids = tokens(hps_v3.QUESTION.replace("{text_prompt}", prompt), ["<|Reward|>"], "<|image_pad|>", 14 * 20)
        place = [ids.index(len(WORDS))]
        states = state(model, ids, WORDS.index("<|image_pad|>"), patched(np.stack([small, small])), [1, 28, 40], place)
        hidden = states @ head[0].weight.T + head[0].bias
        hidden = hidden.clamp(min=0) @ head[3].weight.T + head[3].bias
        expected.append((hidden.clamp(min=0) @ head[5].weight.T + head[5].bias)[0].tolist())
    reward = load_reward("hps_v3", checkpoint=str(folder / "HPSv3.safetensors"), base=str(folder / "base"), device="cpu")
    found = reward(PROMPTS, [Image.from_pixels(pixels) for pixels in noise])
    np.testing.assert_allclose(found["score"], [mean for mean, _ in expected], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["sigma"], [math.exp(log_sigma) for _, log_sigma in expected], rtol=1e-4)
    assert abs(expected[0][0] - expected[1][0]) > 1e-3


@pytest.mark.parity("video_reward")
def test_video_reward_is_the_release_written_out(video: tuple[Path, Any, Any]) -> None:
    folder, model, head = video
    clips = [np.random.default_rng(seed).integers(0, 256, (9, 280, 392, 3), dtype=np.uint8) for seed in range(2)]
    expected = []
    for prompt, frames in zip(PROMPTS, clips, strict=True):
        chosen = frames[[0, 3, 5, 8]]  # of 9 frames at 8 fps, four; 280 x 392 pixels are within the limits and multiples of 28
        ids = tokens(video_reward.QUESTION.replace("{text_prompt}", prompt), list(video_reward.TOKENS), "<|video_pad|>", 2 * 10 * 14)
        places = [ids.index(len(WORDS) + own) for own in range(3)]
        raw = (state(model, ids, WORDS.index("<|video_pad|>"), patched(chosen), [2, 20, 28], places) @ head.weight.T)[:, 0].tolist()
        scaled = [(raw[0] - 3.6757) / 2.2476, (raw[1] - 1.1646) / 1.3811, (raw[2] - 2.8105) / 2.5121]
        expected.append([*scaled, sum(scaled)])
    reward = load_reward("video_reward", checkpoint=str(folder / "model.pth"), base=str(folder / "base"), device="cpu")
    found = reward(PROMPTS, [Video.from_frames(frames, 8.0) for frames in clips])
    assert reward.dimensions == ("VQ", "MQ", "TA", "overall")
    np.testing.assert_allclose([found[name] for name in reward.dimensions], np.transpose(expected), rtol=2e-4, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3


def test_a_batch_is_scored_as_singles(hps: tuple[Path, Any, Any], video: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, pictures and clips of unequal lengths: what a shorter question is padded with is seen by nothing."""
    from transformers import Qwen2VLModel

    random = np.random.default_rng(3)
    prompts = ["a red circle", "a", "two blue square and a red circle and two blue circle", "the red square", "a circle"]
    sizes = [(60, 90), (90, 30), (64, 64), (20, 90), (60, 60)]
    pictures = [Image.from_pixels(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    clips = [
        Video.from_frames(random.integers(0, 256, (count, 280, side, 3), dtype=np.uint8), 8.0)
        for count, side in [(9, 392), (25, 280), (9, 280), (17, 308), (9, 308)]
    ]
    forwards: list[int] = []
    forward = Qwen2VLModel.forward

    def counted(self: Any, *inputs: Any, **named: Any) -> Any:
        forwards.append(len(named["input_ids"]))
        return forward(self, *inputs, **named)

    monkeypatch.setattr(Qwen2VLModel, "forward", counted)
    for name, folder, file, media in (("hps_v3", hps[0], "HPSv3.safetensors", pictures), ("video_reward", video[0], "model.pth", clips)):
        settings = {"checkpoint": str(folder / file), "base": str(folder / "base"), "device": "cpu"}
        one, three = (load_reward(name, **settings, batch=batch) for batch in (1, 3))
        forwards.clear()
        expected, found = one(prompts, media), three(prompts, media)
        assert forwards == [1] * 5 + [3, 2]
        for dimension, values in expected.items():
            assert np.ptp(values) > 1e-3
            np.testing.assert_allclose(found[dimension], values, rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match=f"{name} got batch = 0; give a whole number of at least 1"):
            load_reward(name, **settings, batch=0)


def test_the_questions_are_those_of_the_releases() -> None:
    """Their digests, taken of the released words under the prompt "a red circle": what the weights were trained on is no style."""
    said = {name: sha256(question.replace("{text_prompt}", "a red circle").encode()).hexdigest()[:16]
            for name, question in (("hps_v3", hps_v3.QUESTION), ("video_reward", video_reward.QUESTION))}  # fmt: skip
    assert said == {"hps_v3": "ead7a62983e0ca9d", "video_reward": "e168dabc1c039a1e"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"),
        ("model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("model.visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("model.language_model.norm.weight", "language_model.norm.weight"),
        ("base_model.model.visual.patch_embed.proj.weight", "visual.patch_embed.proj.weight"),
        ("base_model.model.model.layers.1.self_attn.q_proj.base_layer.bias", "language_model.layers.1.self_attn.q_proj.base_layer.bias"),
        ("base_model.model.model.language_model.embed_tokens.weight", "language_model.embed_tokens.weight"),
        ("base_model.model.rm_head.weight", "rm_head.weight"),
        ("rm_head.0.bias", "rm_head.0.bias"),
    ],
)
def test_names_of_every_release_lead_to_one(name: str, expected: str) -> None:
    assert renamed(name) == expected


@pytest.mark.parametrize(
    ("count", "fps", "expected"),
    [
        (81, 16.0, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),  # 10.125 frames, so ten
        (16, 8.0, [0, 5, 10, 15]),
        (16, 32.0, [0, 5, 10, 15]),  # one would do, four are the least
        (44, 8.0, [0, 4, 8, 12, 16, 20, 23, 27, 31, 35, 39, 43]),  # eleven, halfway between ten and twelve
        (3, 8.0, [0, 2]),
        (2, 1.0, [0, 1]),
    ],
)
def test_the_frames_that_are_seen(count: int, fps: float, expected: list[int]) -> None:
    assert video_reward.frame_places(count, fps) == expected


def test_frames_are_scaled_as_the_release_does() -> None:
    """With torchvision's own function, which the release calls on tensors: 100,352 pixels at least, 200,704 at most."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    mode = pytest.importorskip("torchvision.transforms").InterpolationMode.BICUBIC
    for shape, size in (((2, 480, 832, 3), (336, 588)), ((2, 100, 100, 3), (336, 336)), ((2, 280, 392, 3), (280, 392))):
        frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        straight = functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), list(size), interpolation=mode, antialias=True)
        assert torch.equal(video_reward.seen(frames, 8.0), straight)


def test_what_does_not_fit_is_named(hps: tuple[Path, Any, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = hps[0]
    settings = {"base": str(folder / "base"), "device": "cpu"}
    reward = load_reward("hps_v3", checkpoint=str(folder / "HPSv3.safetensors"), **settings)
    with pytest.raises(ValueError, match="hps_v3 got a prompt that holds one of its own tokens; leave it out"):
        reward(["a <|Reward|>"], [Image.from_pixels(np.zeros((8, 8, 3), np.uint8))])
    tensors = load_file(folder / "HPSv3.safetensors")
    for left_out, message in (
        ("model.norm.weight", "does not fit its base: 1 tensors, such as language_model.norm.weight"),
        ("rm_head.5.bias", "does not fit: 1 tensors, such as 5.bias is missing"),
        ("model.embed_tokens.weight", "lacks language_model.embed_tokens.weight"),
    ):
        save_file({name: tensor for name, tensor in tensors.items() if name != left_out}, tmp_path / "cut.safetensors")
        with pytest.raises(ValueError, match=message):
            load_reward("hps_v3", checkpoint=str(tmp_path / "cut.safetensors"), **settings)
    words = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"model.embed_tokens.weight": words[:-1].clone()}, tmp_path / "cut.safetensors")
    with pytest.raises(
        ValueError, match=f"of {len(words) - 1} words and a base whose tokenizer knows {len(words)}; give the release's base"
    ):
        load_reward("hps_v3", checkpoint=str(tmp_path / "cut.safetensors"), **settings)
    with pytest.raises(FileNotFoundError, match=r"hf download MizzenAI/HPSv3 HPSv3\.safetensors"):
        load_reward("hps_v3", checkpoint=str(tmp_path / "no.safetensors"), **settings)
    with pytest.raises(ValueError, match="video_reward got a video of 1 frames; give at least 2"):
        video_reward.frame_places(1, 8.0)
