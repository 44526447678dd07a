"""Deterministic inversion: from a clean sample up the sampling ODE to x_t, in a few steps, each sample to its own t."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffalign.noising import Draw, Noised

Network = Literal["policy", "reference"]
Grid = Literal["exact", "released"]
Renoise = Literal["every", "last"]


@torch.no_grad()
def invert(draw: Draw, *, steps: int, eta: float, network: Network, grid: Grid, renoise: Renoise | None) -> Noised:
    """Noised at each group's own t, its ε the one that joins clean sample and x_t: (x_t − α_t·x_0)/σ_t.

    steps    of the whole range; a path to t takes its share of them, the last one shorter so that it ends at t
    eta      noise added after each step, in units of the DDIM deviation of that transition (Song et al. 2020, arXiv:2010.02502, eq. 16)
    renoise  which steps of a sample's path are taken again with the mean of the predictions at both of their ends (Garibi et al. 2024,
             arXiv:2403.14602): every one, or the last one before its t; None: none
    Raises ValueError where there is no such network, or no such grid on this process.
    """
    if network not in draw.networks:
        have = ", ".join(draw.networks) or "none"
        raise ValueError(f"inversion by the {network!r} network, and this run has: {have}; set noising.network to one of those")
    process, count = draw.process, draw.latents.shape[1]
    clean, goal = draw.latents.flatten(0, 1), draw.timestep.repeat_interleave(count)
    if grid == "released" and (goal.is_floating_point() or steps >= process.timestep_count):
        kind = "continuous" if goal.is_floating_point() else "discrete"
        raise ValueError(
            f"noising.grid 'released' with {steps} steps on {process.timestep_count} {kind} timesteps; that grid is of discrete timesteps, "
            f"more than steps; set noising.grid=exact"
        )
    x = clean.clone()
    if grid == "exact":
        path = list(_exact(goal, process.timestep_count, process.clean_timestep, steps))
    else:
        path = list(_released(goal, process.timestep_count, steps))
    moves = torch.stack([step.end > step.start for step in path])
    is_last = moves & (moves.flip(0).cumsum(0).flip(0) == 1)  # none follows
    again = {"every": moves, "last": is_last, None: torch.zeros_like(moves)}[renoise]
    for index, step in enumerate(path):
        noise = draw.normal(draw.latents.shape[1:]).flatten(0, 1) if eta else None  # of all samples, so that none depends on the others' t
        rows = torch.nonzero(moves[index]).squeeze(1)
        if not len(rows):
            continue
        here, levels = x[rows], [process.levels(time[rows]) for time in (step.start, step.end)]
        epsilon = _epsilon(draw, network, here, step.told[rows], rows)
        there = _step(here, epsilon, *levels)
        chosen = again[index][rows]
        if chosen.any():
            second = _epsilon(draw, network, there[chosen], step.told_there[rows][chosen], rows[chosen])
            ends = ((alpha[chosen], sigma[chosen]) for alpha, sigma in levels)
            there[chosen] = _step(here[chosen], 0.5 * (epsilon[chosen] + second), *ends)
        if noise is not None:
            there = there + eta * _deviation(*levels)[_as(there)].to(there) * noise[rows]
        x[rows] = there
    alpha, sigma = (level[_as(x)].to(x) for level in process.levels(goal))
    epsilon = (x - alpha * clean) / sigma.clamp(min=torch.finfo(x.dtype).tiny)  # at the clean end of a flow there is no noise
    return Noised(x.view_as(draw.latents), process.target(clean, epsilon, goal).view_as(draw.latents))


@dataclass(frozen=True)
class _Step:
    """Timesteps (N,) of one step: where x comes from and goes to, and what the network is told at either end. Arrived: end ≤ start."""

    start: Tensor
    end: Tensor
    told: Tensor
    told_there: Tensor


def _exact(goal: Tensor, count: int, clean: float, steps: int) -> Iterator[_Step]:
    """Equal steps from the clean sample, the last one shortened to end at t; the network is told where x is."""
    start = torch.full_like(goal, clean, dtype=torch.float64)
    for index in range(steps):
        end = (clean + (index + 1) * count / steps * torch.ones_like(start)).minimum(goal.double())
        told = start.clamp(min=0)
        if not goal.is_floating_point():
            end, told = end.floor(), told.floor()
        yield _Step(start.to(goal.dtype), end.to(goal.dtype), told.to(goal.dtype), end.to(goal.dtype))
        start = end


def _released(goal: Tensor, count: int, steps: int) -> Iterator[_Step]:
    """The release's loops over the inverse scheduler of diffusers 0.20, with the scheduler settings of Stable Diffusion.

    Its timesteps are 1 − h, 1, 1 + h, …: each below t is told to the network, at both ends of its step, and x goes on from there by h. So
    the first is negative, its x at the level of timestep 0 (set_alpha_to_one is false there), and x stops at the first point at or above
    t, or at the last.
    """
    span = count // steps
    for index in range(steps):
        told = torch.full_like(goal, 1 + (index - 1) * span)
        start = told.clamp(min=0)
        yield _Step(start, torch.where(told < goal, told + span, start), told, told)


def _epsilon(draw: Draw, network: Network, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
    # A negative timestep is told as it is, and its prediction read at the level of 0, where the step starts.
    return draw.process.epsilon(draw.networks[network](x, timestep, rows).to(x), x, timestep.clamp(min=0))


def _step(x: Tensor, epsilon: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """DDIM: what x would be without noise, noised again to the end's level with the same ε."""
    (alpha, sigma), (alpha_end, sigma_end) = ([level[_as(x)].to(x) for level in levels] for levels in (start, end))
    return alpha_end * (x - sigma * epsilon) / alpha + sigma_end * epsilon


def _deviation(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """DDIM's, (N,): σ_s/σ_t times the deviation of what noises x_s to x_t, √(σ_t² − (α_t/α_s)²·σ_s²), whether α² + σ² = 1 or not."""
    (alpha, sigma), (alpha_end, sigma_end) = start, end
    return sigma / sigma_end * (sigma_end.square() - (alpha_end / alpha * sigma).square()).clamp(min=0).sqrt()


def _as(like: Tensor) -> tuple[object, ...]:
    """Indexes that give (N,) the axes of (N, C, *S)."""
    return (..., *[None] * (like.ndim - 1))
