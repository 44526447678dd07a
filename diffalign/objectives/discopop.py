"""DiscoPOP: the loss a language model discovered, a blend of logistic and exponential."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.arguments import Positive
from diffalign.tensors import Loss, Outputs, implicit_margin


def discopop(outputs: Outputs, *, beta: float = 5000.0, temperature: Positive = 0.05) -> Loss:
    """(1 − s)·(−log σ(m)) + s·e^−m, s = σ(m/temperature): Lu et al. 2024, arXiv:2406.08414 Value (B,).

    Warning: it rises with m on about [−0.12, 0.07], by 0.78 at m = 0. Every run starts there, and starts in the wrong direction.
    """
    margin = implicit_margin(outputs, beta)
    blend = torch.sigmoid(margin / temperature)
    return Loss((1 - blend) * softplus(-margin) + blend * torch.exp(-margin.clamp(min=-20)), margin)
