"""RankDPO: Diffusion-DPO on all pairs of a ranked list, weighed as in learning to rank."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_reward


def rankdpo(outputs: Outputs, *, beta: float = 5000.0, weight: Literal["ndcg", "gain", "none"] = "ndcg",
            gain: Literal["win_fraction", "score"] = "win_fraction", rank_by: Literal["label", "model"] = "label",
            normalise: bool = False) -> Loss:  # fmt: skip
    """Σ over i ≻ j of Λ_ij·(−log σ(r_i − r_j)): Karthik et al. 2024, arXiv:2410.18013, eq. 5–7. Value (B,).

    weight   "ndcg": Λ = |G_i − G_j|·|1/D(τ_i) − 1/D(τ_j)| with G = 2^φ − 1, D = ln(1 + τ); "gain": without the discount; "none": 1
    gain     φ is the share of (reward, other sample) duels a sample wins, or its first score as it is (TPO, arXiv:2410.12854)
    rank_by  τ from the labels, as the paper's equations and algorithm have it, or from the model's own rewards, as its figure 2 has it,
             where equal ones, as all are before the first step, are ranked by the labels
    The paper sums over "i > j" and means i preferred: read as ranks, the sign would flip.
    """
    scores = outputs.required("scores", "a score of each sample")
    reward = implicit_reward(outputs, beta)
    phi = _win_fraction(scores) if gain == "win_fraction" else scores[..., 0]
    phi = phi.to(reward.dtype)
    preferred = phi[:, :, None] > phi[:, None, :]
    weights = preferred.to(reward.dtype)
    if weight != "none":
        gains = 2**phi  # the 1 of G cancels in the difference
        weights = weights * (gains[:, :, None] - gains[:, None, :]).abs()
    if weight == "ndcg":
        discount = _discounts(phi if rank_by == "label" else reward.detach(), phi)
        weights = weights * (discount[:, :, None] - discount[:, None, :]).abs()
    if normalise:
        total = weights.sum((1, 2), keepdim=True)
        weights = weights / torch.where(total > 0, total, 1)
    value = weights * softplus(reward[:, None, :] - reward[:, :, None])
    return Loss(value.sum((1, 2)), reward=reward, ranking=phi)


def _win_fraction(scores: Tensor) -> Tensor:
    """φ, (B, K), of scores (B, K, R): duels won over all rewards, a tie counts ½."""
    ahead = scores[:, :, None] - scores[:, None, :]
    won = (ahead > 0).to(scores.dtype) + 0.5 * (ahead == 0).to(scores.dtype)
    duels = scores.shape[2] * (scores.shape[1] - 1)
    return (won.sum((2, 3)) - 0.5 * scores.shape[2]) / duels  # nobody duels with itself


def _discounts(values: Tensor, then: Tensor) -> Tensor:
    """1/D of each value's rank in its row, 1 for the largest, of equal ones by `then`; those equal in both share the mean of theirs,
    wherever they stand in the list.
    """
    order = then.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, values.gather(1, order).argsort(dim=1, descending=True, stable=True))
    discounts = 1 / torch.log1p((order.argsort(1) + 1).to(values.dtype))
    level = ((values[:, :, None] == values[:, None, :]) & (then[:, :, None] == then[:, None, :])).to(values.dtype)
    return (level * discounts[:, None, :]).sum(2) / level.sum(2)
