"""Sampling of our own, for what the families' pipelines do not offer: whole paths, and variations of a given sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from diffusers.models.modeling_utils import get_parameter_dtype
from torch import Tensor, nn

from diffalign.backbones import Backbone
from diffalign.backbones.process import Process


@torch.no_grad()
def vary(backbone: Backbone, latents: Tensor, epsilon: Tensor, embeds: Mapping[str, Tensor], negative: Mapping[str, Tensor], *,
         strength: Tensor, steps: int, guidance: float) -> Tensor:  # fmt: skip
    """Latents (N, C, *S) alike in what stands out: each noised with ε to a level of its own, then denoised without further noise.

    Meng et al. 2021 (SDEdit), arXiv:2108.01073; Wu et al. 2025 (DenseDPO), arXiv:2506.03517, whose guided pairs are two such of one clip.
    strength  (N,) the timestep to noise to, as a share of them all, in (0, 1)
    steps     of each path, from its own level on
    All in the latents' dtype, whatever the denoiser's is.
    """
    share = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    levels = strength.to(torch.float64)[:, None] * share * backbone.process.timestep_count
    timestep = levels.to(latents.device, backbone.process.timestep(torch.zeros(1), tuple(latents.shape[2:])).dtype)
    both = {name: torch.cat([value, negative[name].expand_as(value)]) for name, value in embeds.items()}

    def guided(x: Tensor, at: Tensor) -> Tensor:
        if guidance == 1:
            return predict_rounded(backbone, backbone.denoiser, x, at, dict(embeds))
        given, without = predict_rounded(backbone, backbone.denoiser, torch.cat([x, x]), torch.cat([at, at]), both).chunk(2)
        return without + guidance * (given - without)

    noised = backbone.process.noise(latents, epsilon, timestep[:, 0])
    x, prediction = follow_path(backbone.process, guided, noised, timestep)[:, :, -1].unbind(1)
    return backbone.process.clean(prediction, x, timestep[:, -1])


def predict_rounded(backbone: Backbone, denoiser: nn.Module, x: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
    """The prediction at x_t (N, C, *S), in x's dtype, of a denoiser that is given x_t in its own, as diffusers' pipelines do."""
    return backbone.predict(denoiser, x.to(get_parameter_dtype(denoiser)), timestep, embeds).to(x)


def follow_path(process: Process, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, timestep: Tensor) -> Tensor:
    """x_t and predict(x_t, t), (N, 2, P, C, *S), from noise (N, C, *S) on along falling timesteps (N, P), by DPM-Solver++(2M).

    Lu et al. 2022, arXiv:2211.01095, algorithm 2; a first step is DDIM's.
    """
    x, points, before = noise, [], None
    for place, here in enumerate(timestep.unbind(1)):
        prediction = predict(x, here).to(x)
        points.append(torch.stack([x, prediction], 1))
        if place + 1 < timestep.shape[1]:
            clean = process.clean(prediction, x, here)
            (alpha, sigma), (next_alpha, next_sigma) = (_levels(process, time, x) for time in (here, timestep[:, place + 1]))
            log_snr, next_log_snr = (alpha / sigma).log(), (next_alpha / next_sigma).log()  # half of it: λ
            mixed = clean
            if before is not None:
                mixed = clean + (0.5 * (next_log_snr - log_snr) / (log_snr - before[1])).to(x) * (clean - before[0])
            kept = next_sigma / sigma
            x, before = kept.to(x) * x + (next_alpha - alpha * kept).to(x) * mixed, (clean, log_snr)
    return torch.stack(points, 2)


def _levels(process: Process, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)) for level in process.levels(timestep))
    return alpha, sigma
