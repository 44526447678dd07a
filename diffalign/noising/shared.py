"""One ε for all samples of a group: what depends on (ε, t) alone then cancels in every difference of errors."""

import torch
from torch import Generator, Tensor

from diffalign.noising import Noised, Process, apply


def shared(process: Process, latents: Tensor, timestep: Tensor, generators: list[Generator]) -> Noised:
    """latents (B, K, C, *S), timestep (B,), one CPU generator per group → Noised. Wallace et al. 2023, released code."""
    noise = torch.stack([torch.randn(latents.shape[2:], generator=generator) for generator in generators])
    return apply(process, latents, noise.to(latents).unsqueeze(1).expand_as(latents), timestep)
