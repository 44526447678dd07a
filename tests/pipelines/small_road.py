"""A tiny Stable Diffusion with random weights, and run folders made up to a stage, for the tests of the later stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.data.modalities.image import Image
from diffalign.data.records import Candidate, Preference, write_candidates, write_preferences
from pipelines.config import Config
from pipelines.stage import open_stage

COLOURS = ("red", "green", "blue", "white")


def save_tiny_pipeline(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder: 16×16 pixels, latents 4×8×8, prompts of at most 8 tokens (6 words)."""
    from diffalign.backbones.miniature.stable_diffusion import Architecture, build_autoencoder, build_pipeline

    torch.manual_seed(seed)
    architecture = Architecture(
        picture_size=16, autoencoder_channels=(8, 8), denoiser_channels=(16, 16), denoiser_heads=2,
        text_width=16, text_layers=1, text_heads=2, token_limit=8,
    )  # fmt: skip
    captions = [f"a {colour} circle" for colour in COLOURS] * 3
    build_pipeline(architecture, captions, build_autoencoder(architecture), folder / "words").save_pretrained(folder)
    return folder


def make_config(run: Path, model: Path, **sections: Any) -> Config:
    return Config.model_validate({"run": run, "seed": 3, "model": {"source": str(model), "device": "cpu"}, **sections})


def make_candidates(count: int, *, sides: tuple[int, ...] = (16,)) -> list[Candidate]:
    """Two candidates a prompt, random pixels; sizes cycle over `sides`."""
    draw = np.random.default_rng(7)
    return [
        Candidate(
            f"g{index // 2}-{index % 2}", f"g{index // 2}", f"a {COLOURS[index // 2 % 4]} circle",
            Image.from_pixels(draw.integers(0, 256, (side, side, 3), np.uint8)), model="tiny", seed=index, tags={"task": "colour"},
        )
        for index, side in ((index, sides[index // 2 % len(sides)]) for index in range(count))
    ]  # fmt: skip


def finish_until_pair(config: Config, candidates: list[Candidate], preferences: list[Preference]) -> None:
    """Writes candidates/ (three shards) and preferences/ as complete stages."""
    with open_stage(config, "generate", settings={}) as stage:
        third = -(-len(candidates) // 3)
        for index in range(3):
            write_candidates(stage.shard(index), candidates[index * third : (index + 1) * third])
        stage.finish({})
    with open_stage(config, "pair", settings={}, inputs=("generate",)) as stage:
        write_preferences(stage.shard(0), preferences)
        stage.finish({})


def pairs_of(candidates: list[Candidate]) -> list[Preference]:
    """One pair per group, its first candidate preferred."""
    return [
        Preference(better.group_id, better.prompt, (better.candidate_id, worse.candidate_id), scores=(1.0, 0.25), source="shapes.overall")
        for better, worse in zip(candidates[::2], candidates[1::2], strict=True)
    ]
