"""DMPO (EXO): the reverse divergence from the policy's preference to a smoothed label."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from diffalign.arguments import Smoothing
from diffalign.tensors import Loss, Outputs, implicit_margin


def dmpo(outputs: Outputs, *, beta: float = 5000.0, alpha: Smoothing = 0.01) -> Loss:
    """P·ln(P/(1 − α)) + (1 − P)·ln((1 − P)/α), P = σ(m): Li et al. 2025, arXiv:2507.07510. Value (B,).

    For pairs it is EXO's loss (Ji et al. 2024, arXiv:2402.00856).
    0 at m = ln((1 − α)/α), and bounded: a pair that is far on the wrong side is given up, not fought for.
    """
    margin = implicit_margin(outputs, beta)
    right, wrong = logsigmoid(margin), logsigmoid(-margin)
    value = torch.exp(right) * (right - math.log1p(-alpha)) + torch.exp(wrong) * (wrong - math.log(alpha))
    return Loss(value, margin)
