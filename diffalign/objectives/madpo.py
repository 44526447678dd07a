"""MADPO: pairs weighed by how far apart their scores are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.arguments import AtLeastOne, NotNegative, Positive, Share
from diffalign.tensors import Loss, Outputs, implicit_margin, pair


def madpo(
    outputs: Outputs, *, beta: float = 5000.0, low: Share = 0.25, high: AtLeastOne = 4.0, threshold: Positive = 1.0, rate: NotNegative = 1.0
) -> Loss:
    """w(h)·(−log σ(m)), h = R_w − R_l: Rho 2025, arXiv:2510.05342, from a summary; the pieces of w are ours. Value (B,).

    w falls from `high` at h ≤ 0 in a line to 1 at the threshold, and then as e^(−rate·(h − threshold)) down to `low`.
    Where only one order of a pair occurs a weight changes the speed, not the optimum.
    """
    winner, loser = pair(outputs.required("scores", "a score of each sample")[..., 0])
    margin = implicit_margin(outputs, beta)
    return Loss(_weight((winner - loser).to(margin.dtype), low, high, threshold, rate) * softplus(-margin), margin)


def _weight(gap: Tensor, low: float, high: float, threshold: float, rate: float) -> Tensor:
    rising = high + (1 - high) * (gap / threshold).clamp(0, 1)
    return torch.where(gap <= threshold, rising, torch.exp(-rate * (gap - threshold)).clamp(min=low))
