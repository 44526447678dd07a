"""rDPO: Diffusion-DPO whose gradient is right in the mean when a known share of labels is flipped."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import FlipRate
from diffalign.tensors import Loss, Outputs, implicit_margin


def rdpo(outputs: Outputs, *, beta: float = 5000.0, flip_rate: FlipRate = 0.1) -> Loss:
    """−log σ(m) − ε/(1 − 2ε)·m: Chowdhury et al. 2024, arXiv:2403.00409, ε = flip_rate. Value (B,).

    (1 − ε)L(m) + εL(−m) = −log σ(m): unbiased under flips, so its optimum is the clean one. Unbounded below: it pulls on fitted pairs
    too.
    """
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin) - flip_rate / (1 - 2 * flip_rate) * margin, margin)
