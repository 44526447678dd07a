"""MaPO: the winner's error and a margin between errors, without a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.arguments import NotNegative, Positive
from diffalign.tensors import Loss, Outputs, pair


def mapo(outputs: Outputs, *, weight: NotNegative = 0.1, scale: Positive = 0.5, steps: Positive = 1000.0) -> Loss:
    """e_w + weight·(−log σ(steps·(g(e_w) − g(e_l)))), g(e) = s·e/(exp(s·e) − 1): Hong et al. 2024, arXiv:2406.06424. Value (B,).

    s is `scale`, `steps` the number of timesteps. For small errors the margin is steps·s/2·(e_l − e_w): without a reference, at β = 500.
    Trap: an easy, flat picture has a small error whatever the policy does, so the margin rewards low detail.
    """
    winner, loser = pair(outputs.error)
    margin = steps * (_odds(scale * winner) - _odds(scale * loser))
    return Loss(winner + weight * softplus(-margin), margin)


def _odds(x: Tensor) -> Tensor:
    """x/(exp(x) − 1), finite with its gradient at 0 and far out."""
    near = x < 1e-4
    safe = torch.where(near, 1.0, x)
    return torch.where(near, 1 - x / 2 + x.square() / 12, safe * torch.exp(-safe) / -torch.expm1(-safe))
