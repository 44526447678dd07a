"""TDPO's correction: the drift less the distance to the reference, whose square makes losers run away."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffalign.arguments import NotNegative
from diffalign.tensors import Outputs, squared_error


def kl_correction(outputs: Outputs, *, alpha: NotNegative = 0.5, through_winner: bool = False) -> Outputs:
    """Drifts less α·d, d = mean (p − q)²: Zeng et al. 2024 (TDPO), arXiv:2404.11999, with d for the divergence of a step.

    through_winner  False: TDPO-2, d_w is a constant; True with alpha 1: TDPO-1, whose margin is linear in p − q
    Of a ranked list each sample has its own d, so TDPO-1 is exact in every pair. TDPO-2's constant is that of the best alone (the first of
    equal ones): one between is the loser of one pair and the winner of another, and a correction of it has one gradient. Of samples judged
    singly the wanted ones are the winners; a reference point of theirs (KTO's z₀) stays that of the plain drift.
    Clips judged by spans want through_winner, for either may be the winner of one.
    Δ is linear in p − q plus d, so a loser's error grows with the square of how far the policy goes; α = 1 takes that away.
    """
    distance = squared_error(outputs.policy, outputs.required("reference", "the reference's prediction"))
    if not through_winner:
        winners = _winners(outputs)[(..., *[None] * (distance.ndim - 2))]
        distance = torch.where(winners, distance.detach(), distance)
    return replace(outputs, correction=alpha * distance)


def _winners(outputs: Outputs) -> Tensor:
    """(B, K) bool."""
    size = outputs.policy.shape[1]
    if size == 1 and outputs.labels is not None:
        return outputs.labels > 0
    winners = torch.zeros(outputs.policy.shape[:2], dtype=torch.bool, device=outputs.policy.device)
    ranked = outputs.ranked_by if size > 2 else None
    winners[torch.arange(len(winners)), 0 if ranked is None else ranked.argmax(1)] = True
    return winners
