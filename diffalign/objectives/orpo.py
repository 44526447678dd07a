"""ORPO: fine-tuning on the winner with an odds ratio between winner and loser, without a reference."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.arguments import NotNegative, PartialShare, Positive
from diffalign.objectives.surrogate import FLOOR, scaled_error
from diffalign.tensors import Loss, Outputs, pair


def orpo(outputs: Outputs, *, weight: NotNegative = 1.0, kappa: Positive | None = None, decay: PartialShare = 0.9) -> Loss:
    """κe_w + weight·(−log σ(o_w − o_l)), o = −ln(exp(κe) − 1): Hong et al. 2024, arXiv:2403.07691 Value (B,).

    exp(−κe) stands for a sample's probability. kappa None: 1 over the mean error so far in the timestep's quarter, so κe is near 1.
    """
    scaled, tracked = scaled_error(outputs, kappa, decay)
    log_odds = -torch.expm1(scaled.clamp(FLOOR, 80)).log() - (scaled - scaled.clamp(max=80))
    winner, loser = pair(log_odds)
    margin = winner - loser
    return Loss(scaled[:, 0] + weight * softplus(-margin), margin, tracked=tracked)
