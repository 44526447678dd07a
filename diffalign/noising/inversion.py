"""Deterministic inversion: from a clean sample up the sampling ODE to x_t, in a few steps, each sample to its own t."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from diffalign.noising import Draw, Noised

Network = Literal["policy", "reference"]
Grid = Literal["exact", "released"]


@torch.no_grad()
def invert(draw: Draw, *, steps: int, eta: float, network: Network, grid: Grid, renoise: bool) -> Noised:
    """Noised at each group's own t, its ε the one that joins clean sample and x_t: (x_t − α_t·x_0)/σ_t.

    steps    of the whole range; a path to t takes its share of them, the last one shorter so that it ends at t
    eta      noise added after each step, in units of the DDIM deviation of that transition (Song et al. 2020, arXiv:2010.02502, eq. 16)
    renoise  each step is taken again with the mean of the predictions at both of its ends (Garibi et al. 2024, arXiv:2403.14602)
    Raises ValueError where there is no such network.
    """
    if network not in draw.networks:
        have = ", ".join(draw.networks) or "none"
        raise ValueError(f"inversion by the {network!r} network, and this run has: {have}; set noising.network to one of those")
    process, count = draw.process, draw.latents.shape[1]
    clean, goal = draw.latents.flatten(0, 1), draw.timestep.repeat_interleave(count)
    x = clean.clone()
    for start, end, told in _path(goal, process.timestep_count, process.clean_timestep, steps, grid):
        noise = draw.normal(draw.latents.shape[1:]).flatten(0, 1) if eta else None  # of all samples, so that none depends on the others' t
        rows = torch.nonzero(end > start).squeeze(1)
        if not len(rows):
            continue
        here, levels = x[rows], [process.levels(time[rows]) for time in (start, end)]
        epsilon = _epsilon(draw, network, here, told[rows], rows)
        there = _step(here, epsilon, *levels)
        if renoise:
            second = _epsilon(draw, network, there, end[rows].to(told), rows)
            there = _step(here, 0.5 * (epsilon + second), *levels)
        if noise is not None:
            there = there + eta * _deviation(*levels)[_as(there)].to(there) * noise[rows]
        x[rows] = there
    alpha, sigma = (level[_as(x)].to(x) for level in process.levels(goal))
    return Noised(x.view_as(draw.latents), process.target(clean, (x - alpha * clean) / sigma, goal).view_as(draw.latents))


def _path(goal: Tensor, count: int, clean: float, steps: int, grid: Grid) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(start, end, the timestep the network is told) of each step, each (N,); a sample that has arrived has end ≤ start.

    "released": the inverse scheduler of diffusers 0.20 under the released loops: grid points 1, 1 + h, …; a path ends at the first at or
    above t, or at the last one, and the network is told the point that is being stepped to, not the one where x is.
    """
    span = count / steps
    start = torch.full_like(goal, clean, dtype=torch.float64)
    for index in range(steps):
        if grid == "exact":
            end = (clean + (index + 1) * span * torch.ones_like(start)).minimum(goal.double())
            told = start.clamp(min=0)
        else:
            point = torch.full_like(start, 1 + index * span)
            end = torch.where((index == 0) | (start < goal), point, start)
            told = end
        if not goal.is_floating_point():
            end, told = end.floor(), told.floor()
        yield start.to(goal.dtype), end.to(goal.dtype), told.to(goal.dtype)
        start = end


def _epsilon(draw: Draw, network: Network, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
    return draw.process.epsilon(draw.networks[network](x, timestep, rows).to(x), x, timestep)


def _step(x: Tensor, epsilon: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """DDIM: what x would be without noise, noised again to the end's level with the same ε."""
    (alpha, sigma), (alpha_end, sigma_end) = ([level[_as(x)].to(x) for level in levels] for levels in (start, end))
    return alpha_end * (x - sigma * epsilon) / alpha + sigma_end * epsilon


def _deviation(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    (alpha, sigma), (alpha_end, sigma_end) = start, end
    return sigma / sigma_end * (1 - (alpha_end / alpha).square()).clamp(min=0).sqrt()


def _as(like: Tensor) -> tuple[object, ...]:
    """Indexes that give (N,) the axes of (N, C, *S)."""
    return (..., *[None] * (like.ndim - 1))
