"""image_reward against BLIP's arithmetic written out over the released names, on a file of the released layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import load_reward
from reward_models.clip_transform import clip_pixels

PROMPTS = ["a red circle", "two blue squares", "a red circle", "a green star left of a white cross", " ".join(["red"] * 60)]
HEAD_WIDTH = 64


@pytest.fixture(scope="module")
def images() -> list[Image]:
    random = np.random.default_rng(0)
    sizes = [(32, 32), (48, 41), (17, 64), (64, 64), (33, 90)]
    return [Image.from_pixels(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def checkpoint(tiny_pictures: Path) -> dict[str, str]:
    folder = tiny_pictures / "image_reward"
    return {"checkpoint": str(folder / "ImageReward.pt"), "tokenizer": str(folder)}


class Blip:
    """BLIP with its released names, in float64 and one input at a time: Li et al. 2022, arXiv:2201.12086."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(self, name: str, values: Any) -> Any:
        return values @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, values: Any, epsilon: float) -> Any:
        centred = values - values.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / (variance + epsilon).sqrt() * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def attend(self, query: Any, key: Any, value: Any) -> Any:
        """(Q, D), (K, D), (K, D) → (Q, D), heads of HEAD_WIDTH side by side."""
        import torch

        parts = []
        for start in range(0, query.shape[1], HEAD_WIDTH):
            own = slice(start, start + HEAD_WIDTH)
            weights = torch.softmax(query[:, own] @ key[:, own].T / HEAD_WIDTH**0.5, dim=1)
            parts.append(weights @ value[:, own])
        return torch.cat(parts, dim=1)

    def see(self, pixels: Any) -> Any:
        """(3, H, W) → (positions, D)."""
        import torch
        from torch.nn.functional import conv2d, gelu

        sight = "blip.visual_encoder"
        kernel, bias = self.tensors[f"{sight}.patch_embed.proj.weight"], self.tensors[f"{sight}.patch_embed.proj.bias"]
        patches = conv2d(pixels[None].double(), kernel, bias, stride=kernel.shape[-1])[0].flatten(1).T
        states = torch.cat([self.tensors[f"{sight}.cls_token"][0], patches]) + self.tensors[f"{sight}.pos_embed"][0]
        for block in (f"{sight}.blocks.{place}" for place in range(2)):
            query, key, value = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", states, 1e-6)).chunk(3, dim=1)
            states = states + self.linear(f"{block}.attn.proj", self.attend(query, key, value))
            inner = gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", states, 1e-6)))
            states = states + self.linear(f"{block}.mlp.fc2", inner)
        return self.norm(f"{sight}.norm", states, 1e-6)

    def read(self, tokens: list[int], seen: Any) -> Any:
        """Tokens without padding, and what was seen → (D,) of the first token."""
        from torch.nn.functional import gelu

        speech = "blip.text_encoder"
        words = self.tensors[f"{speech}.embeddings.word_embeddings.weight"][tokens]
        states = words + self.tensors[f"{speech}.embeddings.position_embeddings.weight"][: len(tokens)]
        states = self.norm(f"{speech}.embeddings.LayerNorm", states, 1e-12)
        for layer in (f"{speech}.encoder.layer.{place}" for place in range(2)):
            for name, other in (("attention", None), ("crossattention", seen)):
                source = states if other is None else other
                own = f"{layer}.{name}.self"
                mixed = self.attend(
                    self.linear(f"{own}.query", states), *(self.linear(f"{own}.{part}", source) for part in ("key", "value"))
                )
                states = self.norm(f"{layer}.{name}.output.LayerNorm", states + self.linear(f"{layer}.{name}.output.dense", mixed), 1e-12)
            inner = self.linear(f"{layer}.output.dense", gelu(self.linear(f"{layer}.intermediate.dense", states)))
            states = self.norm(f"{layer}.output.LayerNorm", states + inner, 1e-12)
        return states[0]

    def reward(self, tokens: list[int], pixels: Any) -> float:
        values = self.read(tokens, self.see(pixels))[None]
        for place in (0, 2, 4, 6, 7):
            values = self.linear(f"mlp.layers.{place}", values)
        return (float(values[0, 0]) - 0.16717362830052426) / 1.0333394966054072


@pytest.mark.parity("image_reward")
def test_score_is_blips_on_the_released_file(checkpoint: dict[str, str], images: list[Image]) -> None:
    import torch
    from transformers import AutoTokenizer

    blip = Blip(torch.load(checkpoint["checkpoint"], weights_only=True))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint["tokenizer"])
    tokens = [tokenizer(prompt, truncation=True, max_length=35)["input_ids"] for prompt in PROMPTS]
    assert [len(each) for each in tokens] == [5, 5, 5, 10, 35]
    expected = [blip.reward(own, pixels) for own, pixels in zip(tokens, clip_pixels(images, 32), strict=True)]
    assert np.ptp(expected) > 0.05, "the comparison must tell pictures apart"
    assert abs(blip.reward(tokens[1], clip_pixels(images[:1], 32)[0]) - expected[0]) > 1e-3, "and prompts"
    reward = load_reward("image_reward", **checkpoint, device="cpu", batch=2)
    np.testing.assert_allclose(reward(PROMPTS, images)["score"], expected, atol=2e-5)


def test_the_norms_of_the_vision_tower_are_the_releases(checkpoint: dict[str, str], images: list[Image], tmp_path: Path) -> None:
    """States a thousand times smaller, whose variance is near the epsilon of the norms: 1e-6, and 1e-5 in transformers."""
    import torch
    from transformers import AutoTokenizer

    quiet = ("cls_token", "pos_embed", "patch_embed", "attn.proj", "mlp.fc2")
    tensors = torch.load(checkpoint["checkpoint"], weights_only=True)
    for name in tensors:
        if name.startswith("blip.visual_encoder.") and any(part in name for part in quiet):
            tensors[name] = tensors[name] / 1000
    torch.save(tensors, tmp_path / "ImageReward.pt")
    tokens = AutoTokenizer.from_pretrained(checkpoint["tokenizer"])(PROMPTS[0])["input_ids"]
    blip, pixels = Blip(tensors), clip_pixels(images[:1], 32)[0]
    reward = load_reward("image_reward", **checkpoint | {"checkpoint": str(tmp_path / "ImageReward.pt")}, device="cpu")
    assert reward(PROMPTS[:1], images[:1])["score"] == pytest.approx([blip.reward(tokens, pixels)], abs=2e-5)


def test_safetensors_and_half_precision(checkpoint: dict[str, str], images: list[Image], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(torch.load(checkpoint["checkpoint"], weights_only=True), tmp_path / "ImageReward.safetensors")
    full = load_reward("image_reward", **checkpoint, device="cpu")
    other = load_reward("image_reward", **checkpoint | {"checkpoint": str(tmp_path / "ImageReward.safetensors")}, device="cpu")
    assert other(PROMPTS, images) == full(PROMPTS, images)
    half = load_reward("image_reward", **checkpoint, device="cpu", dtype="bfloat16")
    np.testing.assert_allclose(half(PROMPTS, images)["score"], full(PROMPTS, images)["score"], atol=0.1)
    assert half.revision != full.revision and full.revision.startswith("ImageReward/")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("blip.visual_encoder.pos_embed", "lacks 'embeddings.position_embedding'; give the ImageReward.pt"),
        (
            "blip.text_encoder.encoder.layer.1.crossattention.self.key.bias",
            "such as encoder.layer.1.crossattention.self.key.bias is missing",
        ),
        ("mlp.layers.7.bias", "such as layers.7.bias is missing"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused(checkpoint: dict[str, str], tmp_path: Path, lost: str, message: str) -> None:
    import torch

    tensors = torch.load(checkpoint["checkpoint"], weights_only=True)
    del tensors[lost]
    torch.save(tensors, tmp_path / "ImageReward.pt")
    with pytest.raises(ValueError, match=message):
        load_reward("image_reward", **checkpoint | {"checkpoint": str(tmp_path / "ImageReward.pt")}, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "nowhere.pt"}, "which is no file; download one first, such as `hf download THUDM/ImageReward ImageReward.pt`"),
        ({"dtype": "auto"}, "dtype = 'auto'; choose one of: float32, bfloat16, float16"),
        ({"batch": 0}, "batch = 0"),
        ({"tokenizer": "./nowhere"}, r"checkpoint = '\./nowhere', which is no folder"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(checkpoint: dict[str, str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_reward("image_reward", **{**checkpoint, **settings})
