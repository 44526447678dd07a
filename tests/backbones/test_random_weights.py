"""Models with random weights: of the family's true sizes, and the same at every call."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffalign.backbones import load_backbone, random_weights
from diffalign.backbones.miniature.stable_diffusion import Architecture, build_autoencoder, build_pipeline


def test_stable_diffusion_15_has_its_sizes() -> None:
    with torch.device("meta"):
        pipeline = random_weights.RANDOM["sd15"]()
    parts = {name: sum(parameter.numel() for parameter in getattr(pipeline, name).parameters()) for name in ("unet", "vae", "text_encoder")}
    assert parts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}  # as the published checkpoint has them
    assert pipeline.tokenizer.model_max_length == 77


def test_a_random_source_is_the_same_at_every_call_and_leaves_the_generator(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> StableDiffusionPipeline:
        small = Architecture(autoencoder_channels=(8, 8), denoiser_channels=(16, 16), text_width=16, text_layers=1)
        return build_pipeline(small, ["a b"], build_autoencoder(small), tmp_path)

    monkeypatch.setitem(random_weights.RANDOM, "small", build)
    before = torch.random.get_rng_state()
    one, other = (load_backbone("stable_diffusion", "random:small") for _ in range(2))
    assert one.identity() == other.identity() and one.encoder_identity() == other.encoder_identity()
    assert torch.equal(torch.random.get_rng_state(), before)
    half = load_backbone("stable_diffusion", "random:small", dtype=torch.bfloat16)
    assert half.encode(torch.zeros(1, 3, 64, 64), seeds=None).dtype == torch.bfloat16


def test_an_unknown_random_source_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no random model 'sd16'.*sd15"):
        load_backbone("stable_diffusion", "random:sd16")
