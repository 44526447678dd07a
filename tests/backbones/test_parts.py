"""An autoencoder in the place of a model's own: a folder, its subfolder, a file, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_flux, save_qwen_image, save_sana, save_sdxl
from tiny_stable_diffusion import save_tiny_stable_diffusion, vae_name
from tiny_timed import save_tiny_wan
from tiny_video_pipelines import save_ltx

from diffalign.backbones import load_backbone
from pipelines.config import Model
from pipelines.model import load_model, model_name

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_stable_diffusion(tmp_path / "model")


@pytest.fixture
def other(folder: Path, tmp_path: Path) -> Path:
    """A folder of an autoencoder of the same settings with other weights."""
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.01)
    vae.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def under_makers_names(weights: dict[str, Any], path: Path) -> Path:
    """As vae-ft-mse-840000-ema-pruned.safetensors is: no prefix, projections that are 1×1 convolutions."""
    found = {}
    for name, value in weights.items():
        original = vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
        found[original] = (value[:, :, None, None] if is_projection else value).contiguous()
    save_file(found, path)
    return path


@pytest.mark.parametrize("kind", ["folder", "model", "file", "makers"])
def test_an_autoencoder_takes_the_place_of_the_model_s(kind: str, folder: Path, other: Path, tmp_path: Path) -> None:
    """It encodes and decodes, latents of the two are not taken for one another, and the denoiser is the model's."""
    vae = AutoencoderKL.from_pretrained(other)
    if kind == "model":
        vae.save_pretrained(tmp_path / "whole/vae")
        (tmp_path / "whole/model_index.json").write_text("{}")
    elif kind == "file":
        save_file(load_file(other / WEIGHTS), tmp_path / "one.safetensors")
    elif kind == "makers":
        under_makers_names(load_file(other / WEIGHTS), tmp_path / "makers.safetensors")
    place = {"folder": other, "model": tmp_path / "whole", "file": tmp_path / "one.safetensors", "makers": tmp_path / "makers.safetensors"}
    plain: dict[str, Any] = {"source": str(folder), "device": "cpu"}
    own, found = (load_model(Model.model_validate(plain | more)) for more in ({}, {"vae": str(place[kind])}))
    assert found.identity() == own.identity() and found.encoder_identity() != own.encoder_identity()
    media = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        latents = vae.encode(media).latent_dist.mean * vae.config.scaling_factor
        decoded = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
    assert torch.allclose(found.encode(media, seeds=None), latents, atol=1e-6)
    assert torch.allclose(found.decode(latents), decoded, atol=1e-6)
    assert not torch.allclose(own.encode(media, seeds=None), latents, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in found.pipeline.vae.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "save"),
    [("sdxl", save_sdxl), ("flux", save_flux), ("sana", save_sana), ("qwen_image", save_qwen_image), ("wan", save_tiny_wan),
     ("ltx", save_ltx)],
)  # fmt: skip
def test_each_class_of_autoencoders_can_be_replaced(name: str, save: Callable[..., Path], tmp_path: Path) -> None:
    """In its dtype: Wan's stays in float32."""
    folder = save(tmp_path / "model")
    own: Any = load_backbone(name, str(folder), dtype=torch.bfloat16)
    found: Any = load_backbone(name, str(folder), dtype=torch.bfloat16, vae=folder)
    assert found.encoder_identity() == own.encoder_identity() and found.pipeline.vae.dtype == own.pipeline.vae.dtype
    with torch.no_grad():
        next(iter(found.pipeline.vae.parameters())).add_(1)
    found.pipeline.vae.save_pretrained(tmp_path / "vae")
    changed = load_backbone(name, str(folder), dtype=torch.bfloat16, vae=tmp_path / "vae")
    assert changed.encoder_identity() == found.encoder_identity() != own.encoder_identity()


def test_another_autoencoder_is_refused(folder: Path, other: Path, tmp_path: Path) -> None:
    def load(place: Path | str) -> None:
        load_backbone("stable_diffusion", str(folder), vae=place)

    def changed(**settings: Any) -> Path:
        config = AutoencoderKL.load_config(other)
        AutoencoderKL.from_config({**config, **settings}).save_pretrained(tmp_path / "changed")
        return tmp_path / "changed"

    AutoencoderTiny().save_pretrained(tmp_path / "tiny")
    with pytest.raises(
        ValueError, match=r"tiny' could not be loaded: it is of class AutoencoderTiny, the model's own of AutoencoderKL; give"
    ):
        load(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"has latent_channels 16, the model's own 4: the denoiser was trained on other latents; give"):
        load(changed(latent_channels=16))
    with pytest.raises(ValueError, match=r"has scaling_factor 0\.13025, the model's own 0\.18215"):
        load(changed(scaling_factor=0.13025))
    more = {"block_out_channels": [8, 16, 16], "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    with pytest.raises(ValueError, match=r"has levels 3, the model's own 2"):
        load(changed(**more))


def test_an_autoencoder_that_cannot_be_read_is_named(folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    def load(place: Path | str) -> None:
        load_backbone("stable_diffusion", str(folder), vae=place)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"vae 'owner/nowhere' could not be loaded: .*or a hub id"):
        load("owner/nowhere")
    with pytest.raises(FileNotFoundError, match=r"\./nowhere' does not exist"):
        load("./nowhere")
    (tmp_path / "vae.ckpt").touch()
    with pytest.raises(ValueError, match=r"vae\.ckpt' is no \.safetensors file, and no other is opened"):
        load(tmp_path / "vae.ckpt")
    weights = load_file(other / WEIGHTS)
    first = next(iter(weights))
    save_file({name: value for name, value in weights.items() if name != first}, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"vae '.*cut\.safetensors' (lacks weights of|could not be read as) a"):
        load(tmp_path / "cut.safetensors")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/config.json").write_text(json.dumps(json.loads((other / "config.json").read_text())))
    (tmp_path / "cut.safetensors").rename(tmp_path / "cut" / WEIGHTS)
    with pytest.raises(ValueError, match=r"vae '.*cut' could not be loaded: it lacks "):
        load(tmp_path / "cut")


def test_an_autoencoder_is_a_part_of_what_names_the_model(other: Path) -> None:
    model = Model(source="some/model", vae="owner/vae")
    assert model.fingerprint() == "some/model@main + vae=owner/vae@main" and "vae" not in Model(source="some/model").model_dump()
    assert Model(source="some/model", vae=str(other)).fingerprint().startswith("some/model@main + vae=sha256:")
    assert model_name(model) == "some/model + vae"
    same, another = model.other("other/model"), model.other(Model(source="other/model", backbone="sdxl"))
    assert (same.vae, another.vae) == ("owner/vae", None)
    assert model.other(Model(source="other/model", vae=None)).vae is None
