"""ORPO: fine-tuning on the winner with an odds ratio between winner and loser, without a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.tensors import BUCKETS, Loss, Outputs, pair

FLOOR = 1e-4  # of κe before its odds are formed: they are infinite at an error of 0


def orpo(outputs: Outputs, *, weight: float = 1.0, kappa: float | None = None, decay: float = 0.9) -> Loss:
    """κe_w + weight·(−log σ(o_w − o_l)), o = −ln(exp(κe) − 1): Hong et al. 2024, arXiv:2403.07691 Value (B,).

    exp(−κe) stands for a sample's probability. kappa None: 1 over the running mean of the error in the timestep's quarter, so κe is near 1.
    """
    scaled, tracked = scaled_error(outputs, kappa, decay)
    log_odds = -torch.expm1(scaled.clamp(FLOOR, 80)).log() - (scaled - scaled.clamp(max=80))
    winner, loser = pair(log_odds)
    margin = winner - loser
    return Loss(scaled[:, 0] + weight * softplus(-margin), margin, tracked=tracked)


def scaled_error(outputs: Outputs, kappa: float | None, decay: float) -> tuple[Tensor, dict[str, Tensor]]:
    """κe, (B, K), and what is tracked for a relative κ: the mean error (B, 4) by quarter of the timesteps."""
    error = outputs.error
    if kappa is not None:
        return kappa * error, {}
    before = outputs.running.get("error", error.new_ones(BUCKETS)).to(error)
    here = torch.nn.functional.one_hot(outputs.bucket, BUCKETS).to(error)
    tracked = before + BUCKETS * (1 - decay) * here * (error.detach().mean(1, keepdim=True) - before)
    return error / before[outputs.bucket][:, None], {"error": tracked}
