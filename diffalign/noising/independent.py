"""An ε of its own for each sample of a group."""

import torch
from torch import Generator, Tensor

from diffalign.noising import Noised, Process, apply


def independent(process: Process, latents: Tensor, timestep: Tensor, generators: list[Generator]) -> Noised:
    """latents (B, K, C, *S), timestep (B,), one CPU generator per group → Noised. Wallace et al. 2023, eq. 14 as written."""
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    return apply(process, latents, noise.to(latents), timestep)
