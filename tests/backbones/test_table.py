"""What holds for every line of BACKBONES."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from diffalign.backbones import BACKBONES, chat, load_backbone, stable_audio
from diffalign.backbones.pipeline import LoadedPipeline

SINGLE_FILES = {"stable_diffusion", "instruct_pix2pix", "sdxl", "sd3", "flux", "flux_kontext", "ltx", "ltx_image_to_video"}
IN_VAIN = {"z_image"}  # which diffusers says it reads, and whose text encoder it finds in no file


def family(name: str) -> type[LoadedPipeline]:
    """The class of a family."""
    module = import_module(f"diffalign.backbones.{name}")
    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and hasattr(each, "PIPELINE") and each.__module__ == module.__name__
    )


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_single_file_is_refused_where_diffusers_reads_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is looked up; the other families look for the file."""
    assert hasattr(family(name).PIPELINE, "from_single_file") == (name in SINGLE_FILES | IN_VAIN)
    monkeypatch.setattr(stable_audio, "is_torchsde_available", lambda: True)  # which it asks for before all else
    if name in SINGLE_FILES:
        with pytest.raises(FileNotFoundError, match=r"'nowhere\.safetensors' does not exist"):
            load_backbone(name, "nowhere.safetensors")
    else:
        told = r"nowhere\.safetensors: diffusers reads no single file of this family; give a diffusers folder .* as model\.denoiser"
        with pytest.raises(ValueError, match=told):
            load_backbone(name, "nowhere.safetensors")


@pytest.mark.parametrize("name", ["flux2_dev", "qwen_image_edit", "qwen_image_edit_plus"])
def test_without_torchvision_it_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=r"SOURCE reads text with a processor of pictures too, which needs torchvision: pip install"):
        load_backbone(name, "SOURCE")


def test_what_cannot_be_loaded_is_told_what_can(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(FileNotFoundError, match=r"could not be loaded: .* a \.safetensors file of a whole model"):
        load_backbone("sdxl", str(tmp_path / "model.safetensors"))
    with pytest.raises(
        FileNotFoundError, match=r"give a diffusers folder with safetensors weights \(model_index\.json in it\), or a hub id"
    ):
        load_backbone("wan", str(tmp_path))
