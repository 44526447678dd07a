"""Numbers from seeds, on the CPU: the same on every device, in every batch and order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def generators(prompts: Sequence[str], seeds: Sequence[int]) -> list[torch.Generator]:
    """One for each prompt; ValueError where there are not as many seeds."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents_of(posterior: Any, seeds: Sequence[int] | None) -> Tensor:
    """The mean of an autoencoder's posterior over N media, or a sample of each with a seed of its own, (N, C, *S)."""
    if seeds is None:
        return posterior.mean
    noise = [torch.randn(posterior.mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return posterior.mean + posterior.std * torch.stack(noise).to(posterior.mean)
