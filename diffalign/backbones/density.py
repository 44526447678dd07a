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


DENSITIES: dict[str, Density] = {"uniform": uniform, "logit_normal": logit_normal}


def number_of(density: Density, level: float) -> float:
    """The least uniform number whose σ is `level` or more: the share of σ below it, in (0, 1). By bisection, to 2⁻⁵²."""
    least, most = 0.0, 1.0
    for _ in range(52):
        middle = (least + most) / 2
        is_below = float(density(torch.tensor(middle, dtype=torch.float64))) < level
        least, most = (middle, most) if is_below else (least, middle)
    return most
