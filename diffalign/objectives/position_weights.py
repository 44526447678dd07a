"""Weights of positions at one scale, so that β keeps its meaning."""

from __future__ import annotations

from torch import Tensor


def to_mean_one(weight: Tensor) -> Tensor:
    """(B, …) ≥ 0 with mean 1 in each row; all ones where all are 0, as a row without weights has none to compare."""
    mean = weight.flatten(1).mean(1)[(...,) + (None,) * (weight.ndim - 1)]
    return (weight / mean.where(mean > 0, 1)).where(mean > 0, 1)
