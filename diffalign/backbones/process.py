"""The forward processes: what x_t is, what is predicted there, and how timesteps are drawn. Only here do ε, v and velocity differ."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diffalign.backbones.density import Density, uniform


class Process(Protocol):
    """x_t = α_t·x_0 + σ_t·ε. Samples are (N, C, *S), timesteps (N,)."""

    timestep_count: int

    @property
    def clean_timestep(self) -> float:
        """The timestep of a sample without noise."""
        ...

    def timestep(self, uniform: Tensor, size: tuple[int, ...] = ()) -> Tensor:
        """Timesteps (N,) as the family trains on them, from uniform numbers in [0, 1).

        size  shape *S of the latents, which a family needs whose noise levels follow the size
        """
        ...

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, each (N,); (1, 0) at `clean_timestep`."""
        ...

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        """SNR α_t²/σ_t² (N,)."""
        ...

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        """x_t."""
        ...

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        """What the denoiser should predict at x_t: ε, v or velocity."""
        ...

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        """ε̂ that a prediction at x_t stands for."""
        ...

    def clean(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        """x̂_0 that a prediction at x_t stands for, of v and velocity also where α_t is 0."""
        ...


class Diffusion:
    """Discrete timesteps 0 … T − 1 with the noise levels of a scheduler; ε prediction, or v = α·ε − σ·x_0 (Salimans and Ho 2022).

    Raises ValueError for a scheduler without such levels or of another prediction_type; `source` names the model.
    kind   the scheduler that reads the noise levels out of the model's config, where the family has a way of its own to write them
    """

    clean_timestep = -1

    def __init__(self, scheduler: Any, source: str, kind: Any = DDIMScheduler):
        own = scheduler.config
        has_levels = own.get("trained_betas") is not None or not ({"beta_schedule", "beta_start"} - own.keys())
        if not has_levels or own.get("sigma_data") is not None or own.get("use_flow_sigmas"):
            raise ValueError(
                f"{source}: the model's {type(scheduler).__name__} has noise levels of EDM or of a flow; this family takes those of DDPM: "
                f"a scheduler whose config has beta_schedule and beta_start, or trained_betas; give a model with one, such as DDIMScheduler"
            )
        training = kind.from_config(own)
        self.prediction_type = training.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"{source}: scheduler has prediction_type {self.prediction_type!r}; this family predicts 'epsilon' or 'v_prediction'"
            )
        self.timestep_count: int = training.config.num_train_timesteps
        self.alphas_cumprod = training.alphas_cumprod.to(torch.float64)

    def timestep(self, uniform: Tensor, size: tuple[int, ...] = ()) -> Tensor:
        return (uniform * self.timestep_count).long().clamp_max(self.timestep_count - 1)

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        index = timestep.cpu().long()
        cumulative = torch.where(index < 0, 1.0, self.alphas_cumprod[index.clamp(min=0)]).to(timestep.device)
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        cumulative = self.alphas_cumprod[timestep.cpu()]
        return (cumulative / (1 - cumulative)).to(timestep.device)

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), latents)
        return alpha * latents + sigma * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return epsilon
        alpha, sigma = _levels_like(self.levels(timestep), latents)
        return alpha * epsilon - sigma * latents

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return prediction
        alpha, sigma = _levels_like(self.levels(timestep), noised)
        return alpha * prediction + sigma * noised

    def clean(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), noised)
        if self.prediction_type == "epsilon":
            return (noised - sigma * prediction) / alpha
        return alpha * noised - sigma * prediction


class _Continuous(ABC):
    """What processes with timesteps from 0 to 1000 share; `levels` is a part of each."""

    timestep_count = 1000
    clean_timestep = 0.0

    @abstractmethod
    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]: ...

    def signal_to_noise(self, timestep: Tensor) -> Tensor:
        alpha, sigma = self.levels(timestep)
        return (alpha / sigma).square()

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), latents)
        return alpha * latents + sigma * epsilon


class Flow(_Continuous):
    """Rectified flow (Liu et al. 2022, arXiv:2209.03003): x_t = (1 − σ)·x_0 + σ·ε, velocity ε − x_0, timestep 1000·σ.

    shift    s of σ = s·u/(1 + (s − 1)·u): Esser et al. 2024, arXiv:2403.03206, eq. 23; or s of the latents' shape *S. Where the logit
             of u is normal, that of σ is normal too, its mean larger by ln s.
    density  of u
    part     of the uniform numbers that u is made of, those that are drawn: its least and its most
    """

    def __init__(
        self, shift: float | Callable[[tuple[int, ...]], float], density: Density = uniform, part: tuple[float, float] = (0.0, 1.0)
    ):
        self.shift, self.density, self.part = shift, density, part

    def timestep(self, uniform: Tensor, size: tuple[int, ...] = ()) -> Tensor:
        """Never quite 0, where there is nothing to predict."""
        least, most = self.part
        shift = self.shift(size) if callable(self.shift) else self.shift
        before = self.density(least + (most - least) * uniform.double()).clamp(1e-3, 1)
        return (self.timestep_count * shift * before / (1 + (shift - 1) * before)).float()

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        sigma = timestep.double() / self.timestep_count
        return 1 - sigma, sigma

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return epsilon - latents

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, _ = _levels_like(self.levels(timestep), noised)
        return noised + alpha * prediction

    def clean(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        _, sigma = _levels_like(self.levels(timestep), noised)
        return noised - sigma * prediction


class FlowFromFirst(Flow):
    """A flow of videos whose first latent along time is given: it is never noised, and its velocity is 0.

    So it is in no error: an error is a mean over all latents, to which the first adds nothing.
    """

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return torch.cat([latents[:, :, :1], super().noise(latents, epsilon, timestep)[:, :, 1:]], 2)

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return without_first(super().target(latents, epsilon, timestep))


def without_first(values: Tensor) -> Tensor:
    """Values (N, C, T, H, W) with zeros in the first place in time."""
    return torch.cat([torch.zeros_like(values[:, :, :1]), values[:, :, 1:]], 2)


class Angle(_Continuous):
    """Continuous time on a circle: x_t = cos φ·x_0 + sin φ·ε, φ = π/2·timestep/1000, timesteps uniform; v = cos φ·ε − sin φ·x_0.

    Salimans and Ho 2022, arXiv:2202.00512, section 4 and appendix D.
    """

    def timestep(self, uniform: Tensor, size: tuple[int, ...] = ()) -> Tensor:
        """Never quite 0, where there is no noise to tell."""
        return (self.timestep_count * uniform.double().clamp(1e-3, 1)).float()

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        angle = timestep.double() / self.timestep_count * (math.pi / 2)
        return angle.cos(), angle.sin()

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), latents)
        return alpha * epsilon - sigma * latents

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), noised)
        return alpha * prediction + sigma * noised

    def clean(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = _levels_like(self.levels(timestep), noised)
        return alpha * noised - sigma * prediction


def shift_of(scheduler: Any) -> float:
    """The shift that a flow's scheduler has at every size; 1 where it shifts by the size, which it does in sampling alone."""
    config = scheduler.config
    return 1.0 if config.get("use_dynamic_shifting") else float(config.get("flow_shift", config.get("shift", 1.0)))


def shift_by_size(scheduler: Any, patch: int = 1) -> float | Callable[[tuple[int, ...]], float]:
    """The shift of a flow that was trained, too, with another one at each size, for latents of shape *S, `patch` of them to a token.

    As the scheduler's config has it: ln s is on a line through two counts of tokens; or s at every size, where it does not shift by size.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return shift_of(scheduler)
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return lambda size: math.exp(config.base_shift + slope * (math.prod(size) / patch - config.base_image_seq_len))


def _levels_like(levels: tuple[Tensor, Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)).to(like) for level in levels)
    return alpha, sigma
