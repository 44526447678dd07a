"""Quantised weights under a LoRA, and tiles of an autoencoder: what reaches diffusers, what is refused, and what stays as it was.

bitsandbytes needs a GPU; here is what we hand it. torchao's quantisation itself is in test_torchao.py.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import AutoencoderKL, BitsAndBytesConfig, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import ValidationError
from torch import Tensor

from diffalign.backbones import Loading, load_backbone, pipeline, quantised, random_weights
from diffalign.backbones.miniature.stable_diffusion import Architecture, build_autoencoder, build_pipeline
from diffalign.backbones.stable_diffusion import load
from diffalign.training.lora import Lora, add_lora
from pipelines.config import Config, Model
from pipelines.model import load_model


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "source", "device", "message"),
    [
        ("int4", "some/model", "cuda", "unknown quantise 'int4'; choose one of: int8, nf4, int8_weight_only, float8_weight_only"),
        (
            "nf4",
            "/models/one.safetensors",
            "cuda",
            r"folder or hub id is read, and source is '/models/one\.safetensors'; give one of those",
        ),
        ("int8", "some/model", "cpu", r"quantise 'int8' needs a GPU, and the device is 'cpu'; .*model\.quantise=int8_weight_only, which"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_it_is_read(
    kind: str, source: str, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=message):
        load_backbone("stable_diffusion", source, device=device, quantise=kind)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"quantise 'nf4' needs bitsandbytes; install it with: pip install 'diffalign\[bitsandbytes\]'"):
        load_backbone("stable_diffusion", "some/model", device="cuda", quantise="nf4")
    with pytest.raises(ImportError, match=r"quantise 'int8_weight_only' needs torchao; .* pip install 'diffalign\[torchao\]'"):
        load_backbone("stable_diffusion", "some/model", quantise="int8_weight_only")


@pytest.mark.parametrize("kind", quantised.QUANTISATIONS)
def test_the_configuration_reaches_the_denoiser_alone(
    kind: str, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pipeline's reading, and in that of a denoiser that stands in the place of its own."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.50.0" if name == "bitsandbytes" else version(name))
    seen: dict[str, Any] = {}
    for family in (StableDiffusionPipeline, UNet2DConditionModel):
        read = family.from_pretrained

        def watched(*places: Any, read: Any = read, name: str = family.__name__, **options: Any) -> Any:
            seen[name] = options.pop("quantization_config", None)
            return read(*places, **options)

        monkeypatch.setattr(family, "from_pretrained", watched)
    load_backbone("stable_diffusion", str(tiny_pipeline)).save_trained(tmp_path)
    seen.clear()
    load(str(tiny_pipeline), Loading(dtype=torch.bfloat16, denoiser=tmp_path, quantise=kind))
    [(part, found)] = seen["StableDiffusionPipeline"].quant_mapping.items()
    assert part == "unet"
    for config in (found, seen["UNet2DConditionModel"]):
        assert isinstance(config, BitsAndBytesConfig)
        assert (config.load_in_8bit, config.load_in_4bit) == (kind == "int8", kind == "nf4")
        assert kind == "int8" or (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    load(str(tiny_pipeline), Loading())
    assert seen["StableDiffusionPipeline"] is None


def test_random_weights_are_quantised_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written and read for it; with no configuration in the quantised one's place the weights are those that were made."""

    def build() -> StableDiffusionPipeline:
        small = Architecture(autoencoder_channels=(8, 8), denoiser_channels=(16, 16), text_width=16, text_layers=1)
        return build_pipeline(small, ["a b"], build_autoencoder(small), tmp_path)

    seen: list[Any] = []
    read = UNet2DConditionModel.from_pretrained

    def watched(*places: Any, quantization_config: Any, **options: Any) -> Any:
        seen.append(quantization_config)
        return read(*places, **options)

    monkeypatch.setitem(random_weights.RANDOM, "small", (StableDiffusionPipeline, build))
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", watched)
    monkeypatch.setattr(pipeline, "quantisation", lambda kind, dtype: kind and f"{kind} of {dtype}")
    plain = load("random:small", Loading())
    assert seen == []
    found = load("random:small", Loading(quantise="nf4"))
    assert seen == ["nf4 of torch.float32"] and found.identity() == plain.identity()
    assert found.denoiser is found.pipeline.unet


def test_adapters_stay_beside_quantised_weights(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, with the weights as they are in the quantised ones' place: what fusing gives."""
    monkeypatch.setattr(pipeline, "quantisation", lambda kind, dtype: None)
    plain, folders = load_backbone("stable_diffusion", str(tiny_pipeline)), [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        trained = load_backbone("stable_diffusion", str(tiny_pipeline))
        add_lora(trained.denoiser, Lora(rank=2, alpha=4), seed)
        with torch.no_grad():
            for name, parameter in trained.denoiser.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.3 * normal(*parameter.shape, seed=seed))
        trained.save_trained(folder)
    kept = load(str(tiny_pipeline), Loading(adapter=folders, quantise="nf4"))
    fused = load_backbone("stable_diffusion", str(tiny_pipeline), adapter=folders)
    inputs = (normal(2, 4, 8, 8), torch.tensor([3, 700]), plain.embed(["a red circle", ""]))
    with torch.no_grad():
        found, expected, base = (each.predict(each.denoiser, *inputs) for each in (kept, fused, plain))
    assert float((found - expected).abs().max()) < 1e-4 * float((expected - base).abs().max())  # fusing rounds
    assert len({kept.identity(), plain.identity(), fused.identity()}) == 3


def test_a_config_quantises_under_a_lora_alone() -> None:
    model = {"source": "some/model", "quantise": "nf4"}
    Config.model_validate({"run": "runs/one", "model": model, "train": {"lora": {"rank": 2}}})
    with pytest.raises(ValidationError, match=r"model\.quantise is 'nf4', .* only a LoRA on them: set train\.lora=\{rank: 16\}"):
        Config.model_validate({"run": "runs/one", "model": model, "train": {}})
    assert get_args(get_args(Model.model_fields["quantise"].annotation)[0]) == (*quantised.QUANTISATIONS, *quantised.WEIGHT_ONLY)
    prints = [Model.model_validate({"source": "some/model", **values}).fingerprint() for values in ({}, model, {"tiled_vae": True})]
    assert prints == ["some/model@main", "some/model@main + quantise=nf4", "some/model@main + tiled_vae=True"]
    assert "quantise" not in Model(source="some/model").model_dump() and "tiled_vae" not in Model(source="some/model").model_dump()
    with pytest.raises(ValueError, match="quantise 'nf4' "):  # so it reaches the loading
        load_model(Model.model_validate({"source": "one.safetensors", "device": "cpu", "quantise": "nf4"}))


def test_tiles_are_the_autoencoder_s_own(tiny_pipeline: Path) -> None:
    """Twice its size in both directions; of its own size there is one tile, the whole."""
    settings = {"source": str(tiny_pipeline), "device": "cpu"}
    tiled: Any = load_model(Model.model_validate({**settings, "tiled_vae": True}))
    whole: Any = load_model(Model.model_validate(settings))
    vae = AutoencoderKL.from_pretrained(tiny_pipeline, subfolder="vae")
    vae.enable_tiling()
    media, small = normal(2, 3, 32, 32).clamp(-1, 1), normal(2, 3, 16, 16, seed=1).clamp(-1, 1)
    with torch.no_grad():
        expected = vae.encode(media).latent_dist.mean * vae.config.scaling_factor
        decoded = vae.decode(expected / vae.config.scaling_factor).sample.clamp(-1, 1)
    latents = tiled.encode(media, seeds=None)
    assert torch.allclose(latents, expected, atol=1e-6) and not torch.allclose(latents, whole.encode(media, seeds=None), atol=1e-3)
    assert torch.allclose(tiled.decode(latents), decoded, atol=1e-6)
    assert not torch.allclose(decoded, whole.decode(latents), atol=1e-3)
    assert torch.equal(tiled.encode(small, seeds=[1, 2]), whole.encode(small, seeds=[1, 2]))


def test_an_autoencoder_without_tiles_is_named(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(vae: AutoencoderKL) -> None:
        raise NotImplementedError("no tiles")  # as diffusers' own without them do

    monkeypatch.setattr(AutoencoderKL, "enable_tiling", refuse)
    with pytest.raises(ValueError, match=r"an autoencoder \(AutoencoderKL\) that makes no tiles; remove model\.tiled_vae"):
        load_backbone("stable_diffusion", str(tiny_pipeline), tiled_vae=True)
