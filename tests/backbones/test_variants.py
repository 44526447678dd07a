"""Folders whose weights have a variant in their names, as many are shared: *.fp16.safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError

from diffalign.backbones import load_backbone
from diffalign.backbones.weights import variants_of
from pipelines.config import Model
from pipelines.model import load_model


@pytest.fixture
def halves(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The same model, its weights in float16 and so named, all of them."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None).to(torch.float16)
    pipeline.save_pretrained(tmp_path / "halves", variant="fp16")
    return tmp_path / "halves"


def test_a_variant_alone_is_told_how_to_be_read(halves: Path) -> None:
    with pytest.raises(ValueError, match=r"has weights of variant fp16 alone; set model\.variant=fp16$"):
        load_backbone("stable_diffusion", str(halves))
    with pytest.raises(ValueError, match=r"has no weights of variant 'bf16'; set model\.variant to one which it has: fp16"):
        load_backbone("stable_diffusion", str(halves), variant="bf16")


def test_a_variant_is_read_where_both_are_there(halves: Path, tiny_pipeline: Path) -> None:
    both = {"source": str(halves), "device": "cpu"}
    plain = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    plain.save_pretrained(halves)
    whole, half = (load_model(Model.model_validate(both | more)) for more in ({}, {"variant": "fp16"}))
    assert half.denoiser.dtype == torch.float32
    for name, value in whole.denoiser.state_dict().items():
        assert torch.equal(half.denoiser.state_dict()[name], value.half().float())
    assert whole.identity() == load_backbone("stable_diffusion", str(tiny_pipeline)).identity() != half.identity()


def test_a_variant_is_of_folders_and_hub_ids(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no weights of variant 'fp16'; .* remove it: the weights there have plain names"):
        load_backbone("stable_diffusion", str(tiny_pipeline), variant="fp16")
    for source in (str(tmp_path / "one.safetensors"), "random:sd15"):
        with pytest.raises(ValueError, match=r"variant is 'fp16', which a diffusers folder or hub id has.*remove model\.variant"):
            load_backbone("stable_diffusion", source, variant="fp16")
    with pytest.raises(ValidationError, match="variant"):
        Model(source="some/model", variant="")


def test_shards_have_variants_too(tmp_path: Path) -> None:
    names = {"unet": ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
             "vae": ["model.safetensors", "model.fp16.safetensors"], "text_encoder": ["model-00001-of-00001.safetensors"]}  # fmt: skip
    for part, files in names.items():
        (tmp_path / part).mkdir()
        for name in files:
            (tmp_path / part / name).touch()
    assert variants_of(tmp_path) == ["fp16"]
    (tmp_path / "unet/model.safetensors").touch()
    assert variants_of(tmp_path) == []


def test_a_variant_is_a_part_of_what_names_the_weights() -> None:
    assert Model(source="some/model", variant="fp16").fingerprint() == "some/model@main + variant=fp16"
    assert "variant" not in Model(source="some/model").model_dump()
    assert Model(source="some/model", variant="fp16").other("other/model").variant is None
