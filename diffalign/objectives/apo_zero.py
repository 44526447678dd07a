"""APO-zero: the winner up and the loser down, each bounded, each on its own."""

from __future__ import annotations

import torch

from diffalign.tensors import Loss, Outputs, implicit_reward, pair


def apo_zero(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """1 − σ(r_w) + σ(r_l): D'Oosterlinck et al. 2024, arXiv:2408.06266 Value (B,). For winners better than the policy's own samples."""
    winner, loser = pair(implicit_reward(outputs, beta))
    return Loss(torch.sigmoid(-winner) + torch.sigmoid(loser), winner - loser)
