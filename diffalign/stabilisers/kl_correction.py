"""TDPO's correction: the drift less the distance to the reference, whose square makes losers run away."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffalign.arguments import NotNegative
from diffalign.tensors import Outputs, pair


def kl_correction(outputs: Outputs, *, alpha: NotNegative = 0.5, through_winner: bool = False) -> Outputs:
    """Errors less α·d, d = mean (p − q)²: Zeng et al. 2024 (TDPO), arXiv:2404.11999, with d for the divergence of a step.

    through_winner  False: TDPO-2, d_w is a constant; True with alpha 1: TDPO-1, whose margin is linear in p − q
    Δ is linear in p − q plus d, so a loser's error grows with the square of how far the policy goes; α = 1 takes that away.
    """
    winner, loser = pair(outputs.displacement)
    return replace(outputs, correction=alpha * torch.stack([winner if through_winner else winner.detach(), loser], 1))
