"""One .safetensors file beside the configs of its family: what diffusers reads of it, and what is said where it is not the whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conditioned_checks import picture
from diffusers import (
    FluxKontextPipeline,
    FluxPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_model
from safetensors.torch import save_file
from tiny_original_flux_ltx import at_width, save_original_flux, save_original_ltx
from tiny_original_sd3 import save_original_sd3
from tiny_pipelines import save_flux, save_pixart, save_qwen_image, save_sana, save_sd3, save_z_image
from tiny_stable_diffusion import save_single_file, save_tiny_stable_diffusion
from tiny_timed import save_tiny_wan
from tiny_video_pipelines import save_hunyuan_video, save_ltx
from torch import nn

from diffalign.backbones import load_backbone


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
def test_instruct_pix2pix_is_its_folder_s(tmp_path: Path) -> None:
    """The release is one file of Stable Diffusion's names, with eight channels of the input."""
    plain = StableDiffusionPipeline.from_pretrained(save_tiny_stable_diffusion(tmp_path / "plain"), safety_checker=None)
    parts: dict[str, Any] = {**plain.components, "unet": UNet2DConditionModel.from_config(plain.unet.config, in_channels=8)}
    folder = tmp_path / "folder"
    StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    file = save_single_file(folder, tmp_path / "file")
    one, other = (load_backbone("instruct_pix2pix", str(source)) for source in (folder, file))
    assert one.identity() == other.identity() and one.encoder_identity() == other.encoder_identity()
    noised, timestep = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    given = [picture("p", (32, 32))]
    with torch.no_grad():
        first, second = (
            each.predict(each.denoiser, noised, timestep, each.embed(["a red circle"]) | each.embed_condition(given, (32, 32)))  # type: ignore[attr-defined]
            for each in (one, other)
        )
    assert torch.allclose(first, second, atol=1e-6) and bool(first.any())


def test_stable_diffusion_2_is_its_folder_s(tmp_path: Path) -> None:
    """Its text encoder is open_clip's there, one layer deeper than the pipeline's; that it predicts v, the configs beside it say."""
    folder = save_tiny_stable_diffusion(tmp_path / "folder", version=2)
    check_alike("stable_diffusion", folder, save_single_file(folder, tmp_path / "file", version=2))


@pytest.mark.parametrize(
    ("name", "save", "kind", "write"),
    [
        ("flux", save_flux, FluxPipeline, save_original_flux),
        ("flux_kontext", save_flux, FluxKontextPipeline, save_original_flux),
        ("ltx", save_ltx, LTXPipeline, save_original_ltx),
        ("ltx_image_to_video", save_ltx, LTXImageToVideoPipeline, save_original_ltx),
    ],
)
def test_a_file_with_its_text_encoders_is_its_folder_s(
    name: str, save: Callable[..., Path], kind: Any, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ComfyUI shares whole models."""
    reader = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(reader, "checkpoint_mapping_fn", at_width(reader["checkpoint_mapping_fn"], 32))
    folder = save(tmp_path / "folder", kind=kind)
    shutil.copytree(folder, tmp_path / "file", ignore=shutil.ignore_patterns("*.safetensors"))
    check_alike(name, folder, write(folder, tmp_path / "file/model.safetensors"))


def check_alike(name: str, folder: Path, file: Path) -> None:
    """Every weight, to the bit, and the scheduler."""
    whole, single = (load_backbone(name, str(source)) for source in (folder, file))
    assert single.identity() == whole.identity() and single.encoder_identity() == whole.encoder_identity()
    own, other = (dict(each.pipeline.scheduler.config) for each in (whole, single))  # type: ignore[attr-defined]  # of every family
    assert own == other
    for part, module in whole.pipeline.components.items():  # type: ignore[attr-defined]
        if isinstance(module, nn.Module):
            expected, found = module.state_dict(), getattr(single.pipeline, part).state_dict()  # type: ignore[attr-defined]
            assert expected.keys() == found.keys() and all(torch.equal(value, found[key]) for key, value in expected.items()), part


@pytest.mark.parametrize(
    ("name", "save"),
    [("flux", save_flux), ("sd3", save_sd3), ("sana", save_sana), ("qwen_image", save_qwen_image), ("z_image", save_z_image),
     ("ltx", save_ltx), ("wan", save_tiny_wan), ("hunyuan_video", save_hunyuan_video)],
)  # fmt: skip
def test_a_file_of_a_denoiser_takes_the_place_of_the_model_s(name: str, save: Callable[..., Path], tmp_path: Path) -> None:
    """As finetunes of these families are shared: its weights with the model's settings, whatever the name of the file."""
    folder = save(tmp_path / "model")
    own = load_backbone(name, str(folder))
    weights = {key: value + 0.01 for key, value in own.denoiser.state_dict().items()}
    save_file(weights, tmp_path / "finetune.safetensors")
    other = load_backbone(name, str(folder), denoiser=tmp_path / "finetune.safetensors")
    assert other.identity() != own.identity() and other.encoder_identity() == own.encoder_identity()
    found = other.denoiser.state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(found[key], value) for key, value in weights.items())
    first = next(iter(weights))
    save_file({key: value for key, value in weights.items() if key != first}, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"cut\.safetensors' (lacks weights of|could not be read as) a "):
        load_backbone(name, str(folder), denoiser=tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors' does not exist"):
        load_backbone(name, str(folder), denoiser="nowhere.safetensors")


def test_a_denoiser_is_read_out_of_a_file_of_the_whole_model_under_its_makers_names(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "model")
    file = save_original_sd3(folder, tmp_path / "whole.safetensors", encoders=("text_encoder",))
    assert load_backbone("sd3", str(folder), denoiser=file).identity() == load_backbone("sd3", str(folder)).identity()


def test_a_file_of_a_family_that_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(ValueError, match="diffusers reads no single file of a PixArtTransformer2DModel; give a folder"):
        load_backbone("pixart", str(save_pixart(tmp_path / "model")), denoiser=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "save", "kind", "missing"),
    [
        ("sd3", save_sd3, None, "CLIPTextModelWithProjection"),
        ("flux", save_flux, None, "CLIPTextModel"),
        ("flux_kontext", save_flux, FluxKontextPipeline, "CLIPTextModel"),
        ("ltx", save_ltx, None, "T5EncoderModel"),
        ("ltx_image_to_video", save_ltx, LTXImageToVideoPipeline, "T5EncoderModel"),
    ],
)
def test_a_file_of_a_denoiser_alone_is_told_what_it_lacks(
    name: str, save: Callable[..., Path], kind: Any, missing: str, tmp_path: Path
) -> None:
    """As these families are shared: diffusers takes no text encoder from beside it."""
    folder = save(tmp_path, **({} if kind is None else {"kind": kind}))
    save_file({"model.diffusion_model.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    told = rf"is a file without the weights of a {missing}, .*; give a diffusers folder .*, a file of the whole .* as model\.denoiser"
    with pytest.raises(ValueError, match=told):
        load_backbone(name, str(folder / "model.safetensors"))
