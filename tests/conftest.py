"""Fixtures that several packages' tests share: a tiny Stable Diffusion with random weights, and a latent cache with preferences for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub
os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import pytest
from fake_endpoint import Server

PROMPTS = ("a red circle", "a blue square", "two green stars", "a white circle")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder: 16×16 pixels, latents 4×8×8, prompts of at most 8 tokens, ε-prediction. Do not write into it."""
    import torch

    from diffalign.backbones import quiet_loading
    from diffalign.backbones.miniature.stable_diffusion import Architecture, build_autoencoder, build_pipeline

    quiet_loading()
    folder = tmp_path_factory.mktemp("tiny_pipeline")
    architecture = Architecture(
        picture_size=16, autoencoder_channels=(8, 8), denoiser_channels=(32,), denoiser_heads=2, text_width=32, text_layers=1,
        text_heads=2, token_limit=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = build_pipeline(architecture, list(PROMPTS) * 3, build_autoencoder(architecture), folder / "tokenizer")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_road(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `latents` (24 candidates, mirrored too) and `preferences` (12 pairs) for the tiny pipeline. Do not write into it."""
    import torch

    from diffalign.backbones import load_backbone
    from diffalign.data.latents import (
        CacheDescription,
        write_cache_description,
        write_dropout_embeds,
        write_embeds_shard,
        write_latents_shard,
    )
    from diffalign.data.records import Preference, write_preferences

    folder = tmp_path_factory.mktemp("tiny_road")
    latents = torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ids = [f"g{index // 2}-{index % 2}" for index in range(24)]
    write_latents_shard(folder / "latents", 0, ids[:10], latents[:10], latents[:10].flip(-1))
    write_latents_shard(folder / "latents", 1, ids[10:], latents[10:], latents[10:].flip(-1))
    backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
    write_embeds_shard(folder / "latents", 0, PROMPTS, backbone.embed(list(PROMPTS)))
    write_dropout_embeds(folder / "latents", backbone.embed([""]))
    write_cache_description(folder / "latents", CacheDescription("float32", "mean", backbone.encoder_identity(), flip=True))
    pairs = [Preference(f"g{index}", PROMPTS[index % 4], (f"g{index}-0", f"g{index}-1"), scores=(1.0, 0.0)) for index in range(12)]
    write_preferences(folder / "preferences" / "shard-00000.parquet", pairs)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint on loopback, asked again without waiting."""
    monkeypatch.setattr("diffalign.endpoint.time.sleep", lambda seconds: None)
    found = Server()
    yield found
    found.close()
