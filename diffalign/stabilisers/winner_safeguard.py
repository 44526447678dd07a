"""The winner safeguard: the loser's gradient is scaled so that a step down a margin cannot raise the winner's error."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from diffalign.arguments import Share
from diffalign.stabilisers.error_gradients import Space, error_gradients
from diffalign.tensors import Outputs


def winner_safeguard(
    outputs: Outputs, *, mu: Share = 0.9, scope: Literal["sample", "batch"] = "sample", space: Space = "output"
) -> Outputs:
    """The same values, the gradient through the loser's prediction times λ: Fu et al. 2025 (Diffusion-SDPO), arXiv:2511.03317.

    λ = clip((1 − μ)·‖g_w‖²/⟨g_w, g_l⟩, 0, 1) where the gradients g of the two errors overlap, else 1.
    mu     0.9 for SD1.5, 0.6 for SDXL in the release; 1: nothing is learned from a loser that overlaps with its winner
    scope  "sample": a λ for each pair; "batch": one for a whole forward, as the release has it
    space  of g. "output": 2(p − y)/D, as the release has it; it stands for the weights' gradients as far as both samples move the same
           weights alike. "last_layer": of the weights of the denoiser's last layer, whose own step of SGD keeps what λ promises [derived]
    A triple is a gold sample before a pair: its gradient stays.
    The promise is of a loss that falls with the margin as much as it rises with the loser's error, |∂L/∂e_l| ≤ ∂L/∂e_w: of all functions of
    one margin, and those with fine-tuning on the winner. Where an objective may push the loser harder than the winner (fdpo under another
    divergence, bco, nca, apo_zero, aot, weighed positions) λ makes a rise rarer and does not exclude it.
    """
    with torch.no_grad():
        winner, loser = error_gradients(outputs, space)[:, -2:].unbind(1)
        if scope == "batch" and space == "last_layer":  # weights have one gradient for all samples
            winner, loser = (each.sum(0).expand_as(each) for each in (winner, loser))
        squared, overlap = winner.square().sum(1), (winner * loser).sum(1)
        if scope == "batch" and space == "output":
            squared, overlap = squared.sum().expand_as(squared), overlap.sum().expand_as(overlap)
        allowed = ((1 - mu) * squared / overlap.where(overlap > 0, 1)).clamp(0, 1).where(overlap > 0, 1)
        ones = [torch.ones_like(allowed)] * (outputs.policy.shape[1] - 1)
        share = torch.stack([*ones, allowed], 1)[(..., *[None] * (outputs.policy.ndim - 2))].to(outputs.policy)
    still = outputs.policy.detach()
    return replace(outputs, policy=still + share * (outputs.policy - still))
