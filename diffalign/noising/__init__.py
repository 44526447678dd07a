"""The table of noisings: where x_t and its target come from. A noising is one function `NAME` in `noising/NAME.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from torch import Generator, Tensor

NOISINGS = {
    "shared": "one ε for all samples of a group (the released Diffusion-DPO, arXiv:2311.12908)",
    "independent": "an ε of its own for each sample of a group (as papers write it; RankDPO, arXiv:2410.18013)",
}


class Process(Protocol):
    """The forward process a noising needs; every backbone is one."""

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Noised:
    """x_t and the target there, both (B, K, C, *S), consistent at each group's own t."""

    sample: Tensor
    target: Tensor


def load_noising(name: str) -> Callable[[Process, Tensor, Tensor, list[Generator]], Noised]:
    """The function behind a name of NOISINGS: (process, latents (B, K, C, *S), timestep (B,), one generator per group) → Noised."""
    if name not in NOISINGS:
        raise ValueError(f"unknown noising {name!r}; choose one of: {', '.join(NOISINGS)}")
    return getattr(import_module(f"diffalign.noising.{name}"), name)


def apply(process: Process, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Noised:
    """Noises (B, K, C, *S) latents with ε of the same shape at (B,) timesteps."""
    flat, every = latents.flatten(0, 1), timestep.repeat_interleave(latents.shape[1])
    noise = epsilon.flatten(0, 1)
    return Noised(process.noise(flat, noise, every).view_as(latents), process.target(flat, noise, every).view_as(latents))
