"""Diffusion-DRO: an expert's picture must be explained better, by a margin, than what the policy itself makes of the prompt."""

from __future__ import annotations

from torch.nn.functional import relu

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs, pair


def dro(outputs: Outputs, *, margin: NotNegative = 0.001) -> Loss:
    """max(0, margin + Δ_expert − Δ_own): Wu et al. 2025, arXiv:2510.18353. Value (B,).

    Index 0 is the expert's sample under forward noise, index 1 the policy's own on its sampling trajectory (`noising: trajectory`).
    The margin is in raw mean-squared error: a hinge at β = 2. No gradient once −(Δ_expert − Δ_own) has reached it.
    """
    expert, own = pair(outputs.drift)
    gap = own - expert
    return Loss(relu(margin - gap), gap)
