"""pick_score, siglip_score, hps_v2 and v2_1, dino_similarity and aesthetic against transformers, open_clip and torchvision themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import load_reward
from reward_models.clip_transform import MEAN, STD, clip_pixels

PROMPTS = ["a red circle", "two blue squares", "a red circle", "a green star left of a white cross", "a"]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    random = np.random.default_rng(0)
    sizes = [(32, 32), (48, 41), (17, 64), (64, 64), (33, 90)]
    return [Image.from_pixels(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def pillow(image: Image) -> Any:
    from PIL import Image as PillowImage

    return PillowImage.fromarray(image.pixels())


def model_and_processors(folder: Path) -> tuple[Any, Any, Any]:
    import transformers
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    name = type(processor).__name__
    assert name.endswith("Pil") or (transformers.__version__ < "5" and not name.endswith("Fast"))  # the one that works with Pillow
    return AutoModel.from_pretrained(folder).eval(), processor, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parity("pick_score")
def test_pick_score_is_the_logit_of_transformers(tiny_pictures: Path, images: list[Image]) -> None:
    import torch

    model, processor, tokenizer = model_and_processors(tiny_pictures / "clip")
    expected = []
    for prompt, image in zip(PROMPTS, images, strict=True):
        text = tokenizer(prompt, truncation=True, max_length=8, return_tensors="pt")
        with torch.no_grad():
            out = model(**processor(pillow(image), return_tensors="pt"), input_ids=text["input_ids"], attention_mask=text["attention_mask"])
        expected.append(float(out.logits_per_image[0, 0]))
    assert max(expected) - min(expected) > 1, "the comparison must tell pictures apart"
    folder = str(tiny_pictures / "clip")
    reward = load_reward("pick_score", checkpoint=folder, processor=folder, device="cpu", batch=2)
    np.testing.assert_allclose(reward(PROMPTS, images)["score"], expected, rtol=1e-5, atol=1e-4)
    assert reward.scale == pytest.approx(np.exp(np.float32(3.2)))


@pytest.mark.parity("siglip_score")
def test_siglip_score_is_the_sigmoid_of_transformers(tiny_pictures: Path, images: list[Image]) -> None:
    import torch

    model, processor, tokenizer = model_and_processors(tiny_pictures / "siglip")
    logits, cosines = [], []
    for prompt, image in zip(PROMPTS, images, strict=True):
        text = tokenizer(prompt, padding="max_length", truncation=True, max_length=8, return_tensors="pt")
        with torch.no_grad():
            out = model(**processor(pillow(image), return_tensors="pt"), input_ids=text["input_ids"])
        logits.append(float(out.logits_per_image[0, 0]))
        cosines.append(float(torch.cosine_similarity(out.image_embeds, out.text_embeds)[0]))
    assert np.ptp(cosines) > 0.05
    sigmoid = 1 / (1 + np.exp(-np.array(logits)))
    for formula, expected in (("probability", sigmoid), ("logit", logits), ("cosine", cosines)):
        reward = load_reward("siglip_score", checkpoint=str(tiny_pictures / "siglip"), formula=formula, device="cpu", batch=2)
        np.testing.assert_allclose(reward(PROMPTS, images)["score"], expected, atol=1e-5)
        shouted = [prompt.upper() for prompt in PROMPTS]
        assert reward(shouted, images) == reward(PROMPTS, images), "in training all prompts were in lower case"


@pytest.mark.parity("hps_v2", "hps_v2_1")
@pytest.mark.parametrize("name", ["hps_v2", "hps_v2_1"])
def test_hps_is_a_hundred_cosines_of_open_clip_on_padded_pictures(name, tiny_clip, images, tmp_path) -> None:
    """The checkpoint as it is released: {"state_dict": …} and more beside it."""
    open_clip = pytest.importorskip("open_clip")
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as pictures

    torch.manual_seed(7)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}", load_weights=False)
    model.eval()
    path = tmp_path / {"hps_v2": "HPS_v2_compressed.pt", "hps_v2_1": "HPS_v2.1_compressed.pt"}[name]
    torch.save({"epoch": 1, "name": "x", "state_dict": model.state_dict()}, path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    expected = []
    for prompt, image in zip(PROMPTS, images, strict=True):
        height, width = image.pixels().shape[:2]
        scale = 32 / max(height, width)
        height, width = round(height * scale), round(width * scale)
        small = pictures.resize(pillow(image), [height, width], InterpolationMode.BICUBIC)
        left, top = (32 - width) // 2, (32 - height) // 2
        square = pictures.pad(small, [left, top, 32 - width - left, 32 - height - top], fill=0)
        pixels = pictures.normalize(pictures.to_tensor(square), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
        with torch.no_grad():
            picture = model.encode_image(pixels[None], normalize=True)
            expected.append(100 * float((picture @ model.encode_text(tokenizer([prompt]), normalize=True).T)[0, 0]))
    assert min(expected) < 0, "no cosine is cut off at 0"
    reward = load_reward(name, checkpoint=str(path), architecture=str(tiny_clip), device="cpu", batch=2)
    np.testing.assert_allclose(reward(PROMPTS, images)["score"], expected, atol=1e-4)


def test_the_weights_of_another_version_of_hps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hps_v2 got checkpoint = .*, the weights of hps_v2_1; give HPS_v2_compressed\.pt"):
        load_reward("hps_v2", checkpoint=str(tmp_path / "HPS_v2.1_compressed.pt"))
    with pytest.raises(ValueError, match=r"hps_v2_1 got checkpoint = .*, the weights of hps_v2; give HPS_v2\.1_compressed\.pt"):
        load_reward("hps_v2_1", checkpoint=str(tmp_path / "HPS_v2_compressed.pt"))
    with pytest.raises(FileNotFoundError, match=r"`hf download xswu/HPSv2 HPS_v2_compressed\.pt`"):
        load_reward("hps_v2", checkpoint=str(tmp_path / "HPS_v2_compressed.pt"))


def test_siglip_2_sees_pictures_of_any_shape(tmp_path: Path, images: list[Image]) -> None:
    """The kind whose processor gives patches, a mask and shapes."""
    import torch
    from tiny_picture_models import save_siglip_2

    model, processor, tokenizer = model_and_processors(save_siglip_2(tmp_path))
    text = tokenizer("a red circle", padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        expected = [
            float(model(**processor(pillow(image), return_tensors="pt"), input_ids=text["input_ids"]).logits_per_image) for image in images
        ]
    assert np.ptp(expected) > 0.01
    reward = load_reward("siglip_score", checkpoint=str(tmp_path), formula="logit", device="cpu", batch=2)
    np.testing.assert_allclose(reward(["A red circle"] * 5, images)["score"], expected, atol=1e-4)


def test_hps_is_of_the_architecture_and_the_mean_that_were_released() -> None:
    pytest.importorskip("open_clip")
    from reward_models.hps_v2 import ARCHITECTURE, TAG
    from reward_models.open_clip_model import published_transform

    transform = published_transform(ARCHITECTURE, TAG)
    assert (ARCHITECTURE, transform["mean"], transform["std"], transform["interpolation"]) == ("ViT-H-14", MEAN, STD, "bicubic")


@pytest.mark.parametrize("size", [(32, 32), (48, 41), (41, 48), (17, 64), (33, 90), (100, 35), (31, 32)])
def test_clips_transform_is_torchvisions(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.from_pixels(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    released = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    np.testing.assert_allclose(clip_pixels([image], 32)[0].numpy(), released(pillow(image)).numpy(), atol=1e-6)


@pytest.mark.parity("aesthetic")
def test_aesthetic_is_five_linear_layers_over_unit_embeddings(tiny_pictures: Path, images: list[Image]) -> None:
    import torch
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(tiny_pictures / "clip").eval()
    tensors = torch.load(tiny_pictures / "aesthetic.pth", weights_only=True)
    with torch.no_grad():
        vision = model.vision_model(pixel_values=clip_pixels(images, 32)).pooler_output
        values = (vision @ model.visual_projection.weight.T).double()
        values = values / (values**2).sum(1, keepdim=True).sqrt()
        for place in (0, 2, 4, 6, 7):
            values = values @ tensors[f"layers.{place}.weight"].double().T + tensors[f"layers.{place}.bias"].double()
    expected = values[:, 0].tolist()
    assert np.ptp(expected) > 0.01
    reward = load_reward(
        "aesthetic", checkpoint=str(tiny_pictures / "aesthetic.pth"), clip=str(tiny_pictures / "clip"), device="cpu", batch=2
    )
    np.testing.assert_allclose(reward([""] * 5, images)["score"], expected, atol=1e-5)


def test_a_head_of_another_width_or_with_other_names_is_refused(tiny_pictures: Path, tmp_path: Path) -> None:
    import torch
    from tiny_picture_models import head_tensors, save_aesthetic_head

    settings = {"clip": str(tiny_pictures / "clip"), "device": "cpu"}
    with pytest.raises(ValueError, match=r"1 tensors, such as layers\.0\.weight is \(1024, 768\) and not \(1024, 24\)"):
        load_reward("aesthetic", checkpoint=str(save_aesthetic_head(tmp_path / "wide.pth", 768)), **settings)
    torch.save({name.replace("layers", "mlp"): tensor for name, tensor in head_tensors(24, 0).items()}, tmp_path / "named.pth")
    with pytest.raises(ValueError, match=r"20 tensors, such as layers\.0\.weight is missing"):
        load_reward("aesthetic", checkpoint=str(tmp_path / "named.pth"), **settings)
    (tmp_path / "damaged.pth").write_bytes(b"\x00" * 64)
    with pytest.raises(ValueError, match=r"damaged\.pth, which does not load"):
        load_reward("aesthetic", checkpoint=str(tmp_path / "damaged.pth"), **settings)


def test_a_head_that_would_run_code_is_refused_and_does_not_run(tiny_pictures: Path, tmp_path: Path) -> None:
    import torch
    from test_clip_score import Payload

    torch.save({"layers.0.weight": Payload(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth, which does not load .*tensors alone"):
        load_reward("aesthetic", checkpoint=str(tmp_path / "hostile.pth"), clip=str(tiny_pictures / "clip"), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parity("dino_similarity")
def test_dino_similarity_is_of_class_tokens_of_one_prompt(tiny_pictures: Path, images: list[Image]) -> None:
    import torch

    model, processor, _ = *model_and_processors_of_dino(tiny_pictures / "dino"), None
    with torch.no_grad():
        tokens = [model(**processor(pillow(image), return_tensors="pt")).last_hidden_state[0, 0] for image in images]
    cosine = np.array([[float(torch.cosine_similarity(one, other, dim=0)) for other in tokens] for one in tokens])
    assert np.ptp(cosine) > 0.05
    reward = load_reward("dino_similarity", checkpoint=str(tiny_pictures / "dino"), device="cpu", batch=2)
    scores = reward(["a", "b", "a", "a", "c"], images)
    mean = [(cosine[0, 2] + cosine[0, 3]) / 2, 0, (cosine[2, 0] + cosine[2, 3]) / 2, (cosine[3, 0] + cosine[3, 2]) / 2, 0]
    nearest = [max(cosine[0, 2], cosine[0, 3]), 0, max(cosine[2, 0], cosine[2, 3]), max(cosine[3, 0], cosine[3, 2]), 0]
    np.testing.assert_allclose(scores["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(scores["nearest"], nearest, atol=1e-5)
    assert reward(["a", "a"], [images[0], images[0]])["nearest"] == pytest.approx([1, 1], abs=1e-5)


def model_and_processors_of_dino(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, Dinov2Model

    return Dinov2Model.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder, backend="pil")


def settings_for(tiny_pictures: Path) -> dict[str, dict[str, Any]]:
    clip = str(tiny_pictures / "clip")
    return {
        "pick_score": {"checkpoint": clip, "processor": clip},
        "aesthetic": {"checkpoint": str(tiny_pictures / "aesthetic.pth"), "clip": clip},
        "siglip_score": {"checkpoint": str(tiny_pictures / "siglip")},
        "dino_similarity": {"checkpoint": str(tiny_pictures / "dino")},
    }


@pytest.mark.parametrize("name", ["pick_score", "aesthetic", "siglip_score", "dino_similarity"])
def test_the_dtype_is_of_the_weights_and_scores_stay_near(name: str, tiny_pictures: Path, images: list[Image]) -> None:
    settings = {"device": "cpu", **settings_for(tiny_pictures)[name]}
    full, half = (load_reward(name, dtype=dtype, **settings) for dtype in ("float32", "bfloat16"))
    assert full.revision != half.revision
    for dimension, values in half(PROMPTS, images).items():
        expected = np.array(full(PROMPTS, images)[dimension])
        np.testing.assert_allclose(values, expected, atol=0.1 * max(1, np.abs(expected).max()))
    with pytest.raises(ValueError, match=f"{name} got dtype = 'fp8'; choose one of: auto, float32"):
        load_reward(name, dtype="fp8", **settings)
    with pytest.raises(ValueError, match=f"{name} got batch = 0; give a whole number"):
        load_reward(name, batch=0, **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["pick_score", "aesthetic", "siglip_score", "dino_similarity", "image_reward"])
def test_scores_on_a_gpu_are_those_of_the_processor(name: str, tiny_pictures: Path, images: list[Image]) -> None:
    folder = tiny_pictures / "image_reward"
    settings = settings_for(tiny_pictures) | {"image_reward": {"checkpoint": str(folder / "ImageReward.pt"), "tokenizer": str(folder)}}
    one, other = (load_reward(name, device=device, **settings[name])(PROMPTS, images) for device in ("cpu", "cuda"))
    for dimension, values in other.items():
        np.testing.assert_allclose(values, one[dimension], rtol=1e-3, atol=1e-3)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_pictures: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clip"
    shutil.copytree(tiny_pictures / "clip", folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of CLIPModel, such as visual_projection\.weight"):
        load_reward("pick_score", checkpoint=str(folder), processor=str(folder), device="cpu")


def test_siglip_refuses_an_unknown_formula() -> None:
    with pytest.raises(ValueError, match="formula = 'softmax'; choose one of: probability, logit, cosine"):
        load_reward("siglip_score", checkpoint="x/y", formula="softmax")
