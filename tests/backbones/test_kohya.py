"""A LoRA in the keys of other tools: diffusers, which reads those keys too, makes of it what it makes of our own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    HunyuanVideoPipeline,
    LTXImageToVideoPipeline,
    QwenImageEditPipeline,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from packaging.version import Version
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_flux, save_flux2, save_flux2_dev, save_instruct_pix2pix, save_qwen_image, save_sd3, save_sdxl, save_z_image
from tiny_stable_diffusion import save_tiny_stable_diffusion
from tiny_timed import save_tiny_wan
from tiny_video_pipelines import save_hunyuan_video, save_ltx, save_wan_image_to_video
from torch import Tensor

from diffalign.backbones import BACKBONES, load_backbone, qwen_image_edit
from diffalign.backbones.kohya import kohya_lora
from diffalign.data.modalities.image import Image
from diffalign.model_source import LORA_FILE
from diffalign.training.lora import Lora, add_lora

# diffusers hands tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
WIDE = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")  # all that kohya's LoRA adapts
CONVOLUTIONS = ("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
DOUBLE = tuple(
    f"transformer_blocks.0.{name}"
    for name in ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_v_proj", "ff.net.2", "norm1.linear")
)

FLUX_2 = (
    *(f"transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.to_add_out")),
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"),
)
QWEN = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "img_mlp.net.0.proj", "txt_mlp.net.2",
        "img_mod.1", "txt_mod.1", "img_in", "txt_in", "norm_out.linear")  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(family: str, folder: Path, to: Path, lora: Lora) -> dict[str, Tensor]:
    """A LoRA file with random numbers in all factors, and what is in it."""
    backbone = load_backbone(family, str(folder))
    add_lora(backbone.denoiser, lora, 0, BACKBONES[family].lora_targets, BACKBONES[family].unreached)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
            if "lora_" in name:
                parameter.add_(0.3 * normal(*parameter.shape, seed=index))
    backbone.save_trained(to)
    return load_file(to / LORA_FILE)


def save_flux_kontext(folder: Path) -> Path:
    return save_flux(folder, kind=FluxKontextPipeline)


def save_hunyuan_video_image_to_video(folder: Path) -> Path:
    return save_hunyuan_video(folder, image_condition="token_replace")


def save_ltx_image_to_video(folder: Path) -> Path:
    return save_ltx(folder, kind=LTXImageToVideoPipeline)


def save_qwen_image_edit(folder: Path) -> Path:
    return save_qwen_image(folder, kind=QwenImageEditPipeline)


def save_sdxl_of_two_layers(folder: Path) -> Path:
    return save_sdxl(folder, layers=2)


def predictions(family: str, folder: Path, loras: list[Path]) -> list[Tensor]:
    """Of plain diffusers: without a LoRA, and with each alone."""
    pipeline, backbone = DiffusionPipeline.from_pretrained(folder), load_backbone(family, str(folder))
    size = (32, 32) if backbone.modality == "image" else (9, 32, 32)
    media = (normal(2, 3, *size) / 2).clamp(-1, 1)
    prompts, together = ["a red circle", "two stars"], BACKBONES[family].reads_together
    latents, embeds = backbone.encode(media, seeds=None), backbone.embed(prompts)
    if BACKBONES[family].takes_condition:
        pictures = [Image.from_pixels(np.full((16, 24, 3), shade, np.uint8)) for shade in (50, 200)]
        embeds |= cast("Any", backbone).embed_condition(pictures, size, **({"prompts": prompts} if together else {}))
    inputs = (normal(*latents.shape), backbone.process.timestep(torch.tensor([0.03, 0.7]), tuple(latents.shape[2:])), embeds)
    found = []
    for lora in (None, *loras):
        if lora is not None:
            pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
        with torch.no_grad():
            found.append(backbone.predict(getattr(pipeline, BACKBONES[family].denoiser), *inputs))
        pipeline.unload_lora_weights()
    return found


# diffusers 0.37 stops at a layer of Stable Diffusion XL outside its blocks, 0.42 reads it.
READS_OUTSIDE = pytest.mark.skipif(Version(diffusers.__version__) < Version("0.42"), reason="this diffusers reads layers of blocks alone")


# Of the families that came later, its readers of other tools' keys grew with its releases.
NEW_FAMILIES = pytest.mark.skipif(Version(diffusers.__version__) < Version("0.42"), reason="this diffusers reads less of these keys")


@pytest.mark.parametrize(
    ("family", "save", "targets"),
    [
        pytest.param("stable_diffusion", save_tiny_stable_diffusion, (*WIDE, *CONVOLUTIONS), id="stable_diffusion"),
        pytest.param("sdxl", save_sdxl_of_two_layers, (*WIDE, *CONVOLUTIONS), id="sdxl"),
        pytest.param("sdxl", save_sdxl_of_two_layers, ("to_q", "conv_in", "conv_out"), id="sdxl outside", marks=READS_OUTSIDE),
        pytest.param("instruct_pix2pix", save_instruct_pix2pix, WIDE, id="instruct_pix2pix"),
        pytest.param("flux", save_flux, DOUBLE, id="flux"),
        pytest.param("flux_kontext", save_flux_kontext, DOUBLE, id="flux_kontext"),
        pytest.param("flux2", save_flux2, FLUX_2, id="flux2", marks=NEW_FAMILIES),
        pytest.param("flux2_dev", save_flux2_dev, FLUX_2, id="flux2_dev", marks=NEW_FAMILIES),
        pytest.param("qwen_image", save_qwen_image, QWEN, id="qwen_image", marks=NEW_FAMILIES),
        pytest.param("qwen_image_edit", save_qwen_image_edit, QWEN, id="qwen_image_edit", marks=NEW_FAMILIES),
    ],
)
def test_diffusers_makes_of_the_other_keys_what_it_makes_of_ours(
    family: str, save: Callable[[Path], Path], targets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """α is four times the rank, so a scale that is left out, or counted twice, shows."""
    monkeypatch.setattr(qwen_image_edit, "AREA", 32 * 32)  # of what is edited, whatever the size of the result
    folder, file = save(tmp_path / "model"), tmp_path / "other.safetensors"
    own = train(family, folder, tmp_path / "lora", Lora(rank=2, alpha=8, targets=targets))
    other = kohya_lora(family, own)
    save_file(other, file)
    assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in other)
    base, expected, found = predictions(family, folder, [tmp_path / "lora" / LORA_FILE, file])
    assert_same_prediction(base, expected, found)


def assert_same_prediction(base: Tensor, expected: Tensor, found: Tensor) -> None:
    assert (expected - base).std() > 0.1 * expected.std()
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.abs().max()))


HUNYUAN = (
    *(f"transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_add_out")),
    *(f"transformer_blocks.0.{name}" for name in ("attn.add_k_proj", "ff.net.2", "ff_context.net.0.proj", "norm1.linear")),
    *(f"refiner_blocks.0.{name}" for name in ("attn.to_out.0", "ff.net.0.proj", "ff.net.2", "norm_out.linear")),
    *("single_transformer_blocks.0.proj_out", "single_transformer_blocks.0.norm.linear"),
)


@NEW_FAMILIES
@pytest.mark.parametrize("family", ["hunyuan_video", "hunyuan_video_image_to_video"])
def test_diffusers_makes_of_hunyuan_video_s_keys_what_it_makes_of_ours(family: str, tmp_path: Path) -> None:
    save = save_hunyuan_video if family == "hunyuan_video" else save_hunyuan_video_image_to_video
    folder, file = save(tmp_path / "model"), tmp_path / "other.safetensors"
    other = kohya_lora(family, train(family, folder, tmp_path / "lora", Lora(rank=2, alpha=8, targets=HUNYUAN)))
    save_file(other, file)
    assert len(other) == 2 * 13  # queries, keys and values in one layer, of the picture's tokens and of the text's
    assert_same_prediction(*predictions(family, folder, [tmp_path / "lora" / LORA_FILE, file]))


def test_queries_keys_and_values_of_hunyuan_video_s_refiner_are_one_layer() -> None:
    """Which diffusers 0.42 does not read: it divides the downs, of three ranks, as if they were ups."""
    block = "context_embedder.token_refiner.refiner_blocks.1.attn"
    parts = {name: (normal(2, 6, seed=seed), normal(4, 2, seed=seed + 9)) for seed, name in enumerate(("to_q", "to_k", "to_v"))}
    own = {}
    for name, (down, up) in parts.items():
        own |= {f"transformer.{block}.{name}.lora_A.weight": down, f"transformer.{block}.{name}.lora_B.weight": up}
    other = kohya_lora("hunyuan_video", own)
    key = "diffusion_model.txt_in.individual_token_refiner.blocks.1.self_attn_qkv"
    assert set(other) == {f"{key}.lora_A.weight", f"{key}.lora_B.weight"}
    expected = torch.cat([up @ down for down, up in parts.values()])
    assert torch.allclose(other[f"{key}.lora_B.weight"] @ other[f"{key}.lora_A.weight"], expected, atol=1e-6)


def test_comfyui_reads_stable_diffusion_3_in_diffusers_own_keys(tmp_path: Path) -> None:
    """As its key map names them: transformer.LAYER; so the file is the one that training wrote."""
    own = train("sd3", save_sd3(tmp_path / "model"), tmp_path / "lora", Lora(rank=2, alpha=8))
    other = kohya_lora("sd3", own)
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in other
    assert set(other) == set(own) and all(torch.equal(other[key], own[key]) for key in own)


OF_WAN = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_embedder.linear_1", "time_embedder.linear_2",
          "time_proj", "text_embedder.linear_1", "text_embedder.linear_2", "proj_out")  # fmt: skip
DOTTED = {
    "wan": (save_tiny_wan, OF_WAN),
    "wan_image_to_video": (
        save_wan_image_to_video,
        (*OF_WAN, "add_k_proj", "add_v_proj", "image_embedder.ff.net.0.proj", "image_embedder.ff.net.2"),
    ),
    "ltx": (save_ltx, ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")),
    "ltx_image_to_video": (save_ltx_image_to_video, ("to_q", "to_out.0")),
    "z_image": (save_z_image, ("to_q", "to_out.0", "w1", "w2", "w3", "layers.0.adaLN_modulation.0", "t_embedder.mlp.0", "cap_embedder.1")),
}  # fmt: skip


@NEW_FAMILIES
@pytest.mark.parametrize("family", DOTTED)
def test_diffusers_makes_of_the_keys_with_points_what_it_makes_of_ours(family: str, tmp_path: Path) -> None:
    """The very weights, and the same prediction."""
    save, targets = DOTTED[family]
    folder, file = save(tmp_path / "model"), tmp_path / "other.safetensors"
    own = train(family, folder, tmp_path / "lora", Lora(rank=2, alpha=8, targets=targets))
    other = kohya_lora(family, own)
    save_file(other, file)
    assert all(key.startswith("diffusion_model.") for key in other) and len(other) == len(own)
    back: Any = type(DiffusionPipeline.from_pretrained(folder)).lora_state_dict(dict(other))
    own = convert_unet_state_dict_to_peft(own)  # of the older keys, which files of some layers have
    assert set(back) == set(own) and all(torch.equal(back[key], own[key]) for key in own)
    assert_same_prediction(*predictions(family, folder, [tmp_path / "lora" / LORA_FILE, file]))


@pytest.mark.parametrize(
    ("family", "layer", "expected"),
    [
        # of the releases, as their files and the LoRAs for them name the layers
        ("wan", "blocks.29.attn1.to_out.0", "blocks.29.self_attn.o"),
        ("wan", "blocks.0.attn2.to_k", "blocks.0.cross_attn.k"),
        ("wan", "blocks.0.attn2.add_v_proj", "blocks.0.cross_attn.v_img"),
        ("wan", "blocks.3.ffn.net.0.proj", "blocks.3.ffn.0"),
        ("wan", "blocks.3.ffn.net.2", "blocks.3.ffn.2"),
        ("wan", "proj_out", "head.head"),
        ("hunyuan_video", "transformer_blocks.19.attn.to_add_out", "double_blocks.19.txt_attn_proj"),
        ("hunyuan_video", "transformer_blocks.0.ff.net.0.proj", "double_blocks.0.img_mlp.fc1"),
        ("hunyuan_video", "transformer_blocks.0.norm1_context.linear", "double_blocks.0.txt_mod.linear"),
        ("hunyuan_video", "single_transformer_blocks.39.proj_out", "single_blocks.39.linear2"),
        ("hunyuan_video", "single_transformer_blocks.0.norm.linear", "single_blocks.0.modulation.linear"),
        (
            "hunyuan_video",
            "context_embedder.token_refiner.refiner_blocks.1.attn.to_out.0",
            "txt_in.individual_token_refiner.blocks.1.self_attn_proj",
        ),
    ],
)
def test_names_with_points_by_hand(family: str, layer: str, expected: str) -> None:
    tensors = {f"transformer.{layer}.lora_A.weight": normal(3, 4), f"transformer.{layer}.lora_B.weight": normal(12, 3, seed=1)}
    found = kohya_lora(family, tensors)
    assert set(found) == {f"diffusion_model.{expected}.lora_{side}.weight" for side in "AB"}
    assert torch.equal(found[f"diffusion_model.{expected}.lora_B.weight"], normal(12, 3, seed=1))


def test_every_layer_that_is_adapted_by_default_has_a_place(tmp_path: Path) -> None:
    """Of the families' own targets, which are what a LoRA adapts where a config names none."""
    others = {
        "flux": save_flux,
        "flux2": save_flux2,
        "flux2_dev": save_flux2_dev,
        "qwen_image": save_qwen_image,
        "qwen_image_edit": save_qwen_image_edit,
        "sdxl": save_sdxl,
        "sd3": save_sd3,
        "hunyuan_video": save_hunyuan_video,
        "hunyuan_video_image_to_video": save_hunyuan_video_image_to_video,
    }
    for family, save in {**{name: save for name, (save, _) in DOTTED.items()}, **others}.items():
        own = train(family, save(tmp_path / family), tmp_path / f"{family}_lora", Lora(rank=2))
        assert len(kohya_lora(family, own)) >= 2, family


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # of the released network, as its file and the LoRAs for it name the layers
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", "input_blocks_4_1_transformer_blocks_1_attn1_to_q"),
        ("down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj", "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj"),
        ("mid_block.attentions.0.proj_in", "middle_block_1_proj_in"),
        ("mid_block.resnets.1.conv2", "middle_block_2_out_layers_3"),
        ("up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_out.0", "output_blocks_2_1_transformer_blocks_0_attn2_to_out_0"),
        ("up_blocks.1.attentions.2.proj_out", "output_blocks_5_1_proj_out"),
        ("up_blocks.2.resnets.2.conv1", "output_blocks_8_0_in_layers_2"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks_4_0_skip_connection"),
        ("down_blocks.0.resnets.1.time_emb_proj", "input_blocks_2_0_emb_layers_1"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks_5_2_conv"),
        ("time_embedding.linear_2", "time_embed_2"),
        ("add_embedding.linear_1", "label_emb_0_0"),
    ],
)
def test_names_of_stable_diffusion_xl_by_hand(layer: str, expected: str) -> None:
    tensors = {f"unet.{layer}.lora_A.weight": normal(3, 4), f"unet.{layer}.lora_B.weight": normal(5, 3)}
    found = kohya_lora("sdxl", tensors)
    assert set(found) == {f"lora_unet_{expected}.{side}" for side in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert float(found[f"lora_unet_{expected}.alpha"]) == 3
    assert torch.equal(found[f"lora_unet_{expected}.lora_up.weight"], normal(5, 3))


def single_layer(layer: str, rows: int, rank: int, seed: int) -> dict[str, Tensor]:
    key = f"transformer.single_transformer_blocks.3.{layer}"
    return {f"{key}.lora_A.weight": normal(rank, 6, seed=seed), f"{key}.lora_B.weight": normal(rows, rank, seed=seed + 1)}


# Of both diffusers takes the blocks apart with their real width, whatever the model's; HunyuanVideo's file it tells by a double block.
SINGLE = {
    "flux": ("lora_unet_single_blocks_3_linear1.lora_up.weight", FluxPipeline),
    "hunyuan_video": ("diffusion_model.single_blocks.3.linear1.lora_B.weight", HunyuanVideoPipeline),
}


@pytest.mark.parametrize("family", SINGLE)
@pytest.mark.parametrize("parts", [("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.to_v", "proj_mlp"), ("attn.to_k",)], ids=len)
def test_the_single_blocks_at_their_real_width(family: str, parts: tuple[str, ...]) -> None:
    """One layer of 3072 rows each for queries, keys and values and 12288 of the MLP: diffusers takes each part's update out again."""
    rows = {"attn.to_q": 3072, "attn.to_k": 3072, "attn.to_v": 3072, "proj_mlp": 12288}
    own = {key: value for seed, part in enumerate(parts) for key, value in single_layer(part, rows[part], 2, 2 * seed).items()}
    up, pipeline = SINGLE[family]
    other = kohya_lora(family, own)
    assert other[up].shape == (21504, 2 * 4)  # a block for each part, zeros where it has no adapter
    double = {f"diffusion_model.double_blocks.0.img_attn_qkv.lora_{side}.weight": normal(3, 3) for side in "AB"}
    back: Any = pipeline.lora_state_dict({**other, **(double if family == "hunyuan_video" else {})})
    for part, count in rows.items():
        key = f"transformer.single_transformer_blocks.3.{part}"
        found = back[f"{key}.lora_B.weight"] @ back[f"{key}.lora_A.weight"]
        expected = own[f"{key}.lora_B.weight"] @ own[f"{key}.lora_A.weight"] if part in parts else torch.zeros(count, 6)
        assert torch.allclose(found, expected, atol=1e-5), part
    if family == "flux":  # one rank, which every version scales alike
        assert {value.shape[0] for key, value in back.items() if ".lora_A." in key} == {2}


def test_what_has_no_key_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"of backbone 'cogvideox', only of: stable_diffusion, .*, z_image, .*; use the file that training wrote"
    ):
        kohya_lora("cogvideox", {})
    magnitudes = {"unet.conv_in.lora_magnitude_vector": normal(3)}
    with pytest.raises(ValueError, match=r"is DoRA's magnitudes, .* train with lora\.dora=false"):
        kohya_lora("stable_diffusion", magnitudes)
    nowhere = {"transformer.proj_out.lora_A.weight": normal(2, 3), "transformer.proj_out.lora_B.weight": normal(4, 2)}
    networks = {"sdxl": "Stable Diffusion XL", "flux": r"FLUX\.1", "flux2": r"FLUX\.2", "ltx": "LTX-Video", "hunyuan_video": "HunyuanVideo"}
    for family, network in networks.items():
        with pytest.raises(ValueError, match=rf"layer 'proj_out' has no (known )?place in .*{network}.*; leave it out of lora\.targets"):
            kohya_lora(family, nowhere)
    inside = {key.replace("proj_out", "blocks.0.norm2"): value for key, value in nowhere.items()}
    with pytest.raises(ValueError, match=r"layer 'blocks\.0\.norm2' has no place in the network of Wan"):
        kohya_lora("wan", inside)
