"""How often a flow is trained at each noise level: σ before the shift, as a function of uniform numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Density = Callable[[Tensor], Tensor]  # uniform numbers (N,) in [0, 1) → σ (N,) in [0, 1], which rises with them


def uniform(number: Tensor) -> Tensor:
    """Every level alike."""
    return number


def logit_normal(number: Tensor) -> Tensor:
    """σ whose logit is normal with mean 0 and deviation 1: the middle levels most. Esser et al. 2024, arXiv:2403.03206, eq. 19."""
    return torch.special.ndtri(number).sigmoid()
