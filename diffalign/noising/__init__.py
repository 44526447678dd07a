"""The table of noisings: where x_t and its target come from. A noising is one function `NAME` in `noising/NAME.py`, from Draw to Noised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from diffalign.arguments import checked

NOISINGS = {
    "shared": "one ε for all samples of a group (the released Diffusion-DPO, arXiv:2311.12908)",
    "independent": "an ε of its own for each sample of a group (as papers write it; RankDPO, arXiv:2410.18013)",
    "ddim_inversion": "x_t on the sampling path that leads to the sample, with a little noise (InPO, arXiv:2503.18454)",
    "renoise_inversion": "the same path with each step, or the last, averaged over both of its ends (SmPO, arXiv:2506.02698)",
    "trajectory": "an expert's sample under an ε of its own, and where the policy was on its way to its own sample (arXiv:2510.18353)",
}

WITHOUT_NETWORKS = ("shared", "independent")  # x_t and its target are of sample, ε and t alone


class Process(Protocol):
    """The forward process a noising needs; every backbone is one."""

    timestep_count: int

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor: ...

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, each (N,), of timesteps (N,); `clean_timestep` gives (1, 0)."""
        ...

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        """ε̂ (N, C, *S) that a prediction at x_t stands for."""
        ...

    @property
    def clean_timestep(self) -> float:
        """The timestep of a sample without noise: what a path of inversion starts from."""
        ...


@dataclass(frozen=True)
class Draw:
    """What a noising starts from.

    latents     (B, K, C, *S) clean samples
    timestep    (B,) one for each group
    generators  one CPU generator for each group
    networks    "policy", "reference" → (x (n, C, *S), timesteps (n,), rows (n,) of the B·K samples) → prediction, without gradient, under
                the prompts of those samples
    own         (B, 1, C, *S) x_t that the policy visited at the timestep while it sampled, its prediction there as the target; or None
    """

    process: Process
    latents: Tensor
    timestep: Tensor
    generators: list[Generator]
    networks: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = field(default_factory=dict)
    own: Noised | None = None

    def normal(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Standard normal numbers (B, *shape), each group's from its own generator."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.generators]).to(self.latents)


@dataclass(frozen=True)
class Noised:
    """x_t and the target there, both (B, K, C, *S), consistent at each group's own t."""

    sample: Tensor
    target: Tensor


def load_noising(name: str, **given: Any) -> Callable[[Draw], Noised]:
    """The function behind a name of NOISINGS with its arguments bound; ValueError for another name or argument, or one out of range."""
    if name not in NOISINGS:
        raise ValueError(f"unknown noising {name!r}; choose one of: {', '.join(NOISINGS)}")
    function = getattr(import_module(f"diffalign.noising.{name}"), name)
    return partial(function, **checked(f"noising {name!r}", function, given))


def apply(draw: Draw, epsilon: Tensor) -> Noised:
    """Noises the latents with ε of the same shape at each group's timestep."""
    process, latents = draw.process, draw.latents
    flat, every = latents.flatten(0, 1), draw.timestep.repeat_interleave(latents.shape[1])
    noise = epsilon.flatten(0, 1)
    return Noised(process.noise(flat, noise, every).view_as(latents), process.target(flat, noise, every).view_as(latents))
