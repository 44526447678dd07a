"""Clips of a few numbers, their scores span by span, and a denoiser over time for them: what a video backbone is to training, in small."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.backbones import Backbone
from diffalign.data.latents import (
    CacheDescription,
    LatentCache,
    write_cache_description,
    write_dropout_embeds,
    write_embeds_shard,
    write_latents_shard,
)
from diffalign.data.records import Preference
from diffalign.noising import load_noising
from diffalign.objectives import OBJECTIVES, build_objective
from diffalign.tensors import even_edges
from diffalign.training.alignment import AlignmentTask, Sampling
from diffalign.training.groups import CachedGroups
from diffalign.training.randomness import generator
from diffalign.training.reference import FrozenCopy

PROMPT = "a clip"


class Denoiser(nn.Module):
    """Random weights: a convolution over (F, H, W), what place in time it is, the timestep and the prompt, and a second convolution."""

    def __init__(self, channels: int = 2, width: int = 16, longest: int = 8):
        super().__init__()
        self.enter = nn.Conv3d(channels, width, 3, padding=1)
        self.place = nn.Parameter(torch.randn(width, longest, 1, 1))
        self.condition = nn.Linear(2, width)
        self.leave = nn.Conv3d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        condition = self.condition(torch.stack([timestep / 1000, prompt], 1))[..., None, None, None]
        return self.leave(nn.functional.silu(self.enter(x) + self.place[:, : x.shape[2]] + condition))


class Flow:
    """The parts of `Backbone` that training calls, for rectified flow: x_t = (1 − t)·x0 + t·ε, velocity ε − x0."""

    timestep_count = 1000

    def __init__(self, longest: int = 8) -> None:
        torch.manual_seed(0)
        self.denoiser, self.process = Denoiser(longest=longest), self

    def timestep(self, uniform: Tensor, size: tuple[int, ...]) -> Tensor:
        """The longer the clip, the later: a draw must say the size."""
        return 1000 * (0.05 + (0.7 + 0.01 * size[0]) * uniform)

    def _level(self, timestep: Tensor) -> Tensor:
        return (timestep / 1000)[:, None, None, None, None]

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        return ((1000 - timestep) / timestep).square()

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return (1 - self._level(timestep)) * latents + self._level(timestep) * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return epsilon - latents

    def predict(self, denoiser: nn.Module, x: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(x, timestep, embeds["prompt"])


def save_clips(folder: Path, clips: Mapping[str, Tensor], covered: Sequence[float] | None = None) -> LatentCache:
    """A latent cache of clips (C, F, H, W) that may differ in F, each in a shard of its own length, under one prompt.

    covered  of clips that were cut and are of one length
    """
    for index, length in enumerate(sorted({clip.shape[1] for clip in clips.values()})):
        ids = [name for name, clip in clips.items() if clip.shape[1] == length]
        write_latents_shard(folder, index, ids, torch.stack([clips[name] for name in ids]), covered=covered)
    write_embeds_shard(folder, 0, [PROMPT], {"prompt": torch.ones(1)})
    write_dropout_embeds(folder, {"prompt": torch.zeros(1)})
    write_cache_description(folder, CacheDescription("float32", "mean", "float32:none"))
    return LatentCache(folder)


def random_clip(name: str, level: float, length: int = 6) -> Tensor:
    """(2, length, 4, 4): noise around a level."""
    return level + 0.3 * torch.randn(2, length, 4, 4, generator=generator(name))


def make_task(cache: LatentCache, rows: list[Preference], objective: str, *, longest: int = 8,
              time_edges: Callable[[int], Sequence[float]] = even_edges, **arguments: Any) -> AlignmentTask:  # fmt: skip
    needs, backbone = OBJECTIVES[objective], Flow(longest)
    parts: Backbone = backbone  # type: ignore[assignment]  # no autoencoder, no text encoder: training calls neither
    return AlignmentTask(
        parts, CachedGroups(cache, rows, needs.rows, lengths=needs.lengths, time_edges=time_edges), build_objective(objective, **arguments),
        needs,
        load_noising("shared"), FrozenCopy(backbone.denoiser) if needs.reference else None, sampling=Sampling(), seed=3,
        identity={"kind": "full"}, write_weights=lambda denoiser, folder: None,
    )  # fmt: skip
