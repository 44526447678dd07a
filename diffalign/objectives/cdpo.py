"""cDPO: Diffusion-DPO with label smoothing."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import FlipRate
from diffalign.tensors import Loss, Outputs, implicit_margin


def cdpo(outputs: Outputs, *, beta: float = 5000.0, flip_rate: FlipRate = 0.1) -> Loss:
    """−log σ(m) + ε·m = −(1 − ε)·log σ(m) − ε·log σ(−m): Mitchell 2023, https://ericmitchell.ai/cdpo.pdf, ε = flip_rate. Value (B,).

    A finite optimum m = ln((1 − ε)/ε) even for labels that are all alike.
    """
    margin = implicit_margin(outputs, beta)
    return Loss(softplus(-margin) + flip_rate * margin, margin)
