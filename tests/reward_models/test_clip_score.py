"""clip_score against open_clip called directly, on random weights."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import load_reward

pytest.importorskip("open_clip")

PROMPTS = ["a red circle", "two blue squares", "a red circle", "a green star left of a white cross", ""]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    random = np.random.default_rng(0)
    sizes = [(32, 32), (48, 40), (16, 64), (64, 64), (33, 31)]
    return [Image.from_pixels(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def direct_cosine(tiny_clip: Path, images: list[Image], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A checkpoint and the cosines that open_clip's own documented calls give for it."""
    import open_clip
    import torch
    from PIL import Image as PillowImage
    from safetensors.torch import save_file

    torch.manual_seed(7)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}", load_weights=False)
    model.eval()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    cosines = []
    with torch.no_grad():
        for prompt, image in zip(PROMPTS, images, strict=True):
            picture = model.encode_image(transform(PillowImage.fromarray(image.pixels()))[None], normalize=True)
            text = model.encode_text(tokenizer([prompt]), normalize=True)
            cosines.append(float((picture @ text.T)[0, 0]))
    assert min(cosines) < 0 < max(cosines), "the comparison must reach both sides of the clip at 0"
    return path, cosines


@pytest.mark.parity("clip_score")
@pytest.mark.parametrize(("formula", "factor"), [("percent", 100.0), ("hessel", 2.5)])
def test_score_is_the_clipped_cosine_of_open_clip(tiny_clip, images, direct_cosine, formula, factor) -> None:
    path, cosines = direct_cosine
    reward = load_reward("clip_score", checkpoint=str(path), architecture=str(tiny_clip), formula=formula, device="cpu", batch=2)
    np.testing.assert_allclose(reward(PROMPTS, images)["score"], [factor * max(0.0, cosine) for cosine in cosines], atol=1e-5 * factor)
    unclipped = (reward.clip.embed_texts(PROMPTS) * reward.clip.embed_images(images)).sum(1).tolist()
    np.testing.assert_allclose(unclipped, cosines, atol=1e-5)


def test_a_pt_checkpoint_of_a_training_run_loads(tiny_clip, images, direct_cosine, tmp_path) -> None:
    import torch
    from safetensors.torch import load_file

    path, _ = direct_cosine
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in load_file(path).items()}}, tmp_path / "epoch_3.pt")
    score = [
        load_reward("clip_score", checkpoint=str(each), architecture=str(tiny_clip), device="cpu")(PROMPTS, images)["score"]
        for each in (path, tmp_path / "epoch_3.pt")
    ]
    assert score[0] == score[1]


def test_the_prefix_stands_before_every_prompt(tiny_clip, images) -> None:
    settings = {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"}
    plain = load_reward("clip_score", **settings)(["A photo depicts " + prompt for prompt in PROMPTS], images)
    assert load_reward("clip_score", prefix="A photo depicts ", **settings)(PROMPTS, images) == plain


def test_random_weights_are_a_function_of_the_seed_and_leave_torchs_generator_alone(tiny_clip, images) -> None:
    import torch

    settings = {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"}
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (load_reward("clip_score", seed=seed, **settings) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first(PROMPTS, images) == again(PROMPTS, images) != other(PROMPTS, images)
    assert first.revision == again.revision != other.revision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(tiny_clip, images, direct_cosine, dtype) -> None:
    path, _ = direct_cosine
    settings = {"checkpoint": str(path), "architecture": str(tiny_clip), "device": "cpu"}
    full, half = (np.array(load_reward("clip_score", dtype=each, **settings)(PROMPTS, images)["score"]) for each in ("float32", dtype))
    assert np.abs(full - half).max() < 2.0, "points of 100"


def test_revision_names_weights_config_formula_and_dtype(tiny_clip, direct_cosine) -> None:
    from hashlib import sha256

    path, _ = direct_cosine
    reward = load_reward("clip_score", checkpoint=str(path), architecture=str(tiny_clip), device="cpu", formula="hessel")
    name, weights, config, *rest = reward.revision.split("/")
    assert (name, weights, rest) == ("tiny", sha256(path.read_bytes()).hexdigest()[:12], ["hessel", "float32"])
    assert len(config) == 12


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("preprocess_cfg", {"mean": [0.1, 0.1, 0.9]}),
        ("preprocess_cfg", {"resize_mode": "shortest"}),
        ("model_cfg", {"quick_gelu": True}),
    ],
)
def test_a_folder_of_the_same_name_with_another_config_is_another_revision(tiny_clip, images, tmp_path, section, change) -> None:
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())
    other = tmp_path / tiny_clip.name
    other.mkdir()
    (other / "open_clip_config.json").write_text(json.dumps(config | {section: config[section] | change}))
    one, another = (load_reward("clip_score", checkpoint="random", architecture=str(each), device="cpu") for each in (tiny_clip, other))
    assert one(PROMPTS, images) != another(PROMPTS, images)
    assert one.revision != another.revision


def test_no_word_about_random_weights_when_a_checkpoint_follows(tiny_clip, direct_cosine, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        load_reward("clip_score", checkpoint=str(direct_cosine[0]), architecture=str(tiny_clip), device="cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "'nowhere.safetensors', which is no file; download one first"),
        ({"checkpoint": "random", "architecture": "ViT-B-33"}, r"architecture = 'ViT-B-33' \(did you mean 'ViT-B-32'\?\)"),
        ({"checkpoint": "random", "formula": "cosine"}, "formula = 'cosine'; choose one of: percent, hessel"),
        ({"checkpoint": "random", "dtype": "fp8"}, "dtype = 'fp8'; choose one of: float32, bfloat16, float16"),
        ({"checkpoint": "random", "batch": 0}, "batch = 0"),
        ({"checkpoint": "random", "architecture": "ViT-L-14"}, "differ in image transform; say with tag"),
        ({"checkpoint": "random", "tag": "openia"}, r"tag = 'openia' \(did you mean 'openai'\?\)"),
        ({}, "needs the setting 'checkpoint'"),
        ({"checkpoint": "random", "architectur": "x"}, r"no setting 'architectur' \(did you mean 'architecture'\?\)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_reward("clip_score", **settings)


def test_published_transforms_follow_the_tag() -> None:
    from reward_models.open_clip_model import published_transform

    assert published_transform("ViT-L-14", "openai")["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert published_transform("ViT-L-14", "laion2b_s32b_b82k")["mean"] == (0.5, 0.5, 0.5)
    assert published_transform("ViT-B-16-SigLIP", None)["resize_mode"] == "squash"


class Payload:
    """What a hostile checkpoint would run when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tiny_clip, tmp_path) -> None:
    import torch

    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match=r"does not load as .*tensors alone"):
        load_reward("clip_score", checkpoint=str(tmp_path / "hostile.pt"), architecture=str(tiny_clip), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x00" * 64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_checkpoint_is_named(tiny_clip, tmp_path, content, suffix) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint .*damaged.* does not load"):
        load_reward("clip_score", checkpoint=str(path), architecture=str(tiny_clip), device="cpu")


def test_a_checkpoint_of_another_architecture_is_refused(tiny_clip, tmp_path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not load as .*tiny"):
        load_reward("clip_score", checkpoint=str(tmp_path / "other.safetensors"), architecture=str(tiny_clip), device="cpu")
    (tmp_path / "weights.txt").write_text("")
    with pytest.raises(ValueError, match=r"a checkpoint ends in one of: \.safetensors"):
        load_reward("clip_score", checkpoint=str(tmp_path / "weights.txt"), architecture=str(tiny_clip))
