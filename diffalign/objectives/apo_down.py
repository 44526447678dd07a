"""APO-down: both down, the loser further, for winners worse than what the policy makes."""

from __future__ import annotations

import torch

from diffalign.tensors import Loss, Outputs, implicit_reward, pair


def apo_down(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """σ(r_w) + 1 − σ(m): D'Oosterlinck et al. 2024, arXiv:2408.06266 Value (B,). It pushes the winner's error up by design."""
    winner, loser = pair(implicit_reward(outputs, beta))
    margin = winner - loser
    return Loss(torch.sigmoid(winner) + torch.sigmoid(-margin), margin)
