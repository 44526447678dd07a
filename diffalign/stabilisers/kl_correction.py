"""TDPO's correction: the drift less the distance to the reference, whose square makes losers run away."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffalign.arguments import NotNegative
from diffalign.tensors import Outputs, squared_error


def kl_correction(outputs: Outputs, *, alpha: NotNegative = 0.5, through_winner: bool = False) -> Outputs:
    """Drifts less α·d, d = mean (p − q)²: Zeng et al. 2024 (TDPO), arXiv:2404.11999, with d for the divergence of a step.

    through_winner  False: TDPO-2, d_w is a constant; True with alpha 1: TDPO-1, whose margin is linear in p − q
    Of a ranked list each sample has its own d, so TDPO-1 is exact in every pair. TDPO-2's constant is that of the best alone, which has the
    highest first score (of equal ones the first does): one between is the loser of one pair and the winner of another, and a correction of
    it has one gradient.
    Δ is linear in p − q plus d, so a loser's error grows with the square of how far the policy goes; α = 1 takes that away.
    """
    distance = squared_error(outputs.policy, outputs.required("reference", "the reference's prediction"))
    if not through_winner:
        best = torch.zeros(distance.shape[:2], dtype=torch.bool, device=distance.device)
        place = outputs.scores[..., 0].argmax(1) if outputs.scores is not None and distance.shape[1] > 2 else 0
        best[torch.arange(len(best)), place] = True
        distance = torch.where(best[(..., *[None] * (distance.ndim - 2))], distance.detach(), distance)
    return replace(outputs, correction=alpha * distance)
