"""LD-DPO: samples of unequal length, whose common prefix counts in full and the rest in part."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.arguments import Count, Share
from diffalign.tensors import Loss, Outputs, by_step, pair, within


def ldpo(outputs: Outputs, *, beta: float = 5000.0, alpha: Share = 0.5, nominal: Count | None = None) -> Loss:
    """−log σ(r_w − r_l), r = −(β/2)/F₀·Σ_f a_f·Δ[f]: Liu et al. 2024, arXiv:2409.06411. Value (B,).

    f runs over a sample's own length along the first axis after the channels; a_f is 1 up to the shorter length of the pair, α beyond.
    nominal  F₀, a fixed length so that β keeps its meaning; None: the longest of the whole set
    α is without effect on equal lengths; 0: the prefix alone.
    """
    steps = by_step(outputs.position_drift)
    count = steps.shape[2]
    lengths = torch.full(steps.shape[:2], count, device=steps.device) if outputs.lengths is None else outputs.lengths
    own, common = (within(each, count).to(steps) for each in (lengths, lengths.min(1, keepdim=True).values))
    weight = alpha * own + (1 - alpha) * common
    longest = steps.new_tensor(count) if outputs.longest is None else outputs.longest.to(steps)[:, None]
    winner, loser = pair(-0.5 * beta / (nominal or longest) * (weight * steps).sum(2))
    margin = winner - loser
    return Loss(softplus(-margin), margin)
