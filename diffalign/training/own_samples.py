"""The policy's own samples: a buffer of the points that it visits while it samples, made anew every few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import torch
from pydantic import Field
from torch import Tensor, distributed, nn

from diffalign.backbones import Backbone
from diffalign.noising import Noised, Process
from diffalign.section import Section
from diffalign.training.groups import CachedGroups
from diffalign.training.randomness import Order, generator, seed_of

AT_ONCE = 32  # paths in one forward


class OwnSamples(Section):
    """What the policy samples for its training. Defaults: Diffusion-DRO's release, arXiv:2510.18353, with its 4 paths on each of 4 GPUs."""

    size: int = Field(
        default=16, ge=1, description="sampling paths in the buffer, of all processes together; each is of one group's prompt"
    )
    refresh: int = Field(default=1, ge=1, description="optimiser steps that a buffer serves before the policy makes the next")
    steps: int = Field(default=20, ge=1, le=100, description="of DPM-Solver++ on a path through all timesteps, without guidance")


@dataclass(frozen=True)
class Records:
    """M points on sampling paths: x_t and the policy's prediction there, each (M, C, *S); t, the path's group and dropout, each (M,)."""

    sample: Tensor
    target: Tensor
    timestep: Tensor
    group: Tensor
    is_dropped: Tensor

    def __getitem__(self, index: Tensor) -> Records:
        return Records(*(getattr(self, each.name)[index] for each in fields(self)))

    def drawn(self, uniform: Tensor) -> Records:
        """A record for each number in [0, 1), all equally likely."""
        return self[(uniform * len(self.timestep)).long().to(self.timestep.device)]

    @property
    def noised(self) -> Noised:
        """As samples of groups, (M, 1, C, *S)."""
        return Noised(self.sample.unsqueeze(1), self.target.unsqueeze(1))


class Buffer:
    """The replay buffer of a run. A round is `refresh` steps; its paths are made by the policy as it is when the round begins.

    Path n of the run is of the n-th group in an order of the paths' own, and its noise, jitter and prompt dropout are functions of
    (seed, n). Its timesteps lie a whole path's step apart, from a random offset on, so that each of the range comes equally often; it is
    recorded inside the range and left at its end. The processes share the paths out, and all have all of them then.
    """

    def __init__(self, settings: OwnSamples, backbone: Backbone, groups: CachedGroups, *, prompt_dropout: float,
                 timesteps: tuple[float, float], seed: int):  # fmt: skip
        self.settings, self.backbone, self.groups = settings, backbone, groups
        self.prompt_dropout, self.timesteps, self.seed = prompt_dropout, timesteps, seed
        self._order = Order(len(groups), seed_of(seed, "own samples"))
        self._records: Records | None = None
        self._round = -1

    def at(self, step: int, policy: Callable[[], AbstractContextManager[nn.Module]]) -> Records:
        """The records of a step, from 0, on the denoiser's device. The first call of a round makes them, in `with policy() as denoiser`."""
        number, size = step // self.settings.refresh, self.settings.size
        if self._records is None or self._round != number:
            self._records = self._made(range(size * number, size * (number + 1)), policy)
            self._round = number
        return self._records

    def kept(self, step: int) -> dict[str, Tensor]:
        """What `at(step)` gives and the policy of that step could not make again; nothing where it begins a round."""
        if self._records is None or step % self.settings.refresh == 0:
            return {}
        return {each.name: getattr(self._records, each.name) for each in fields(Records)}

    def refill(self, step: int, kept: dict[str, Tensor]) -> None:
        """Takes back what was `kept`. ValueError where it is gone."""
        if step % self.settings.refresh == 0:
            return
        if not kept:
            raise ValueError(
                f"the checkpoint of step {step} has lost its own samples; put its resume/buffer.safetensors back, or use --redo"
            )
        device = next(self.backbone.denoiser.parameters()).device
        self._records, self._round = Records(**{name: value.to(device) for name, value in kept.items()}), step // self.settings.refresh

    @torch.no_grad()
    def _made(self, paths: Sequence[int], policy: Callable[[], AbstractContextManager[nn.Module]]) -> Records:
        device, steps, (low, high) = next(self.backbone.denoiser.parameters()).device, self.settings.steps, self.timesteps
        generators = [generator(self.seed, "own sample", path) for path in paths]
        uniform = torch.stack([torch.rand(2, generator=one, dtype=torch.float64) for one in generators])
        is_dropped, group = uniform[:, 0] < self.prompt_dropout, torch.tensor([self._order.at(path)[0] for path in paths])
        share = (torch.arange(steps - 1, int(low * steps) - 1, -1) + uniform[:, 1:]) / steps  # (N, P), of the range of timesteps
        timestep = self.backbone.timestep(share.float().flatten()).view_as(share).to(device)
        experts = self.groups.fetch(group.tolist(), dropped=is_dropped.tolist(), flipped=[False] * len(paths)).to(device)
        noise = torch.stack([torch.randn(experts.latents.shape[2:], generator=one) for one in generators]).to(device)

        def visited(rows: list[int]) -> Tensor:
            with policy() as denoiser:
                embeds = {name: value[rows] for name, value in experts.embeds.items()}
                return follow_path(self.backbone, denoiser, noise[rows], timestep[rows], embeds)

        sample, target = _shared_out(visited, len(paths)).unbind(1)
        whole = Records(sample, target, timestep, *(each.to(device)[:, None].expand_as(share) for each in (group, is_dropped)))
        return whole[((low <= share) & (share < high)).to(device)]


def follow_path(backbone: Backbone, denoiser: nn.Module, noise: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
    """x_t and the prediction there, (N, 2, P, C, *S), from noise (N, C, *S) on along falling timesteps (N, P), by DPM-Solver++(2M).

    Lu et al. 2022, arXiv:2211.01095, algorithm 2; a first step is DDIM's.
    """
    x, points, before = noise, [], None
    for place, here in enumerate(timestep.unbind(1)):
        prediction = backbone.predict(denoiser, x, here, embeds).to(x)
        points.append(torch.stack([x, prediction], 1))
        if place + 1 < timestep.shape[1]:
            clean = clean_sample(backbone, x, prediction, here)
            (alpha, sigma), (next_alpha, next_sigma) = (_levels(backbone, time, x) for time in (here, timestep[:, place + 1]))
            log_snr, next_log_snr = (alpha / sigma).log(), (next_alpha / next_sigma).log()  # half of it: λ
            mixed = clean
            if before is not None:
                mixed = clean + (0.5 * (next_log_snr - log_snr) / (log_snr - before[1])).to(x) * (clean - before[0])
            kept = next_sigma / sigma
            x, before = kept.to(x) * x + (next_alpha - alpha * kept).to(x) * mixed, (clean, log_snr)
    return torch.stack(points, 2)


def clean_sample(process: Process, noised: Tensor, prediction: Tensor, timestep: Tensor) -> Tensor:
    """x̂_0 (N, C, *S) that a prediction at x_t stands for.

    Target and x_t are both linear in sample and noise, so together they give both: for v and velocity also where α_t is 0.
    """
    alpha, sigma = (level.to(noised) for level in _levels(process, timestep, noised))
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    of_sample, of_noise = process.target(one, zero, timestep), process.target(zero, one, timestep)
    return (of_noise * noised - sigma * prediction) / (alpha * of_noise - sigma * of_sample)


def _levels(process: Process, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)) for level in process.levels(timestep))
    return alpha, sigma


def _shared_out(make: Callable[[list[int]], Tensor], count: int) -> Tensor:
    """The rows 0 … count − 1 of `make`, each process making as many; where they do not divide, some are made twice."""
    is_parallel = distributed.is_available() and distributed.is_initialized()
    processes, rank = (distributed.get_world_size(), distributed.get_rank()) if is_parallel else (1, 0)
    own = -(-count // processes)
    rows = [(rank * own + place) % count for place in range(own)]
    made = torch.cat([make(rows[first : first + AT_ONCE]) for first in range(0, own, AT_ONCE)])
    if processes == 1:
        return made
    parts = [torch.empty_like(made) for _ in range(processes)]
    distributed.all_gather(parts, made.contiguous())
    return torch.cat(parts)[:count]
