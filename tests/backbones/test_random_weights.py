"""Models with random weights: of the family's true sizes, and the same at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from diffalign.backbones import load_backbone, random_weights
from diffalign.backbones.miniature.stable_diffusion import Architecture, build_autoencoder, build_pipeline

# Parameters of the published checkpoints as other projects' logs count them. Of Stable Diffusion 3.5 medium no count was found: its file
# has 4.94 GB in half precision, which are these and the 384²·1536 numbers of the positions, 2.47 G together; Stability AI says 2.5 billion.
CLIP_L, CLIP_G, T5_XXL, UMT5_XXL = 123_060_480, 694_659_840, 4_762_310_656, 5_680_910_336
SIZES = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": CLIP_L},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    "sd35_medium": {
        "transformer": 2_243_171_520,
        "vae": 83_819_683,
        "text_encoder": CLIP_L + 768**2,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": T5_XXL,
    },
    "flux_dev": {"transformer": 11_901_408_320, "vae": 83_819_683, "text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    "wan21_1b": {"transformer": 1_418_996_800, "vae": 126_892_531, "text_encoder": UMT5_XXL},
}
BACKBONE = {"sd15": "stable_diffusion", "sdxl": "sdxl", "sd35_medium": "sd3", "flux_dev": "flux", "wan21_1b": "wan"}


def on_device(device: str, build: Callable[..., Any]) -> Callable[..., Any]:
    def built(**options: Any) -> Any:
        with torch.device(device):
            return build(**options)

    return built


@pytest.mark.parametrize("name", random_weights.RANDOM)
def test_each_has_the_sizes_of_the_published_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device; the family takes the pipeline, and says the size of its media."""
    kind, build = random_weights.RANDOM[name]
    for scheduler in [each for each in vars(random_weights) if each.endswith("Scheduler")]:  # they copy their numbers to the CPU
        monkeypatch.setattr(random_weights, scheduler, on_device("cpu", getattr(random_weights, scheduler)))
    monkeypatch.setitem(random_weights.RANDOM, name, (kind, on_device("meta", build)))
    loaded = load_backbone(BACKBONE[name], f"random:{name}", device="meta")
    parts = {part: module for part, module in loaded.pipeline.components.items() if isinstance(module, nn.Module)}
    assert {part: sum(each.numel() for each in module.parameters()) for part, module in parts.items()} == SIZES[name]
    assert loaded.size == {"sd15": (512, 512), "wan21_1b": (81, 480, 832)}.get(name, (1024, 1024))
    assert loaded.token_limit == {"sd15": 77, "sdxl": 77, "sd35_medium": 256}.get(name, 512)


def test_a_random_source_is_the_same_at_every_call_and_leaves_the_generator(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> StableDiffusionPipeline:
        small = Architecture(autoencoder_channels=(8, 8), denoiser_channels=(16, 16), text_width=16, text_layers=1)
        return build_pipeline(small, ["a b"], build_autoencoder(small), tmp_path)

    monkeypatch.setitem(random_weights.RANDOM, "small", (StableDiffusionPipeline, build))
    before = torch.random.get_rng_state()
    one, other = (load_backbone("stable_diffusion", "random:small") for _ in range(2))
    assert one.identity() == other.identity() and one.encoder_identity() == other.encoder_identity()
    assert torch.equal(torch.random.get_rng_state(), before)
    half = load_backbone("stable_diffusion", "random:small", dtype=torch.bfloat16)
    assert half.encode(torch.zeros(1, 3, 64, 64), seeds=None).dtype == torch.bfloat16


def test_an_unknown_random_source_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no random model 'sd16'.*there are: sd15, sdxl, sd35_medium, flux_dev, wan21_1b"):
        load_backbone("stable_diffusion", "random:sd16")
    with pytest.raises(ValueError, match=r"'sdxl' is a StableDiffusionXLPipeline, and this backbone takes a FluxPipeline; .* flux_dev"):
        load_backbone("flux", "random:sdxl")
