"""NCA: winner and loser each against a fixed reward, so the winner's likelihood does not fall."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_reward, pair


def nca(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """−log σ(r_w) − ½·log σ(−r_w) − ½·log σ(−r_l): Chen et al. 2024, arXiv:2402.05369 Value (B,). Its optimum is r_w = ln 2."""
    winner, loser = pair(implicit_reward(outputs, beta))
    return Loss(softplus(-winner) + 0.5 * softplus(winner) + 0.5 * softplus(loser), winner - loser)
