"""IRPO: each sample of a list against all others at once, weighed by its relevance and its place."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_reward


def irpo(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """Σ_i w_i·(−log σ(−log Σ_{j≠i} exp(r_j − r_i))), w_i = (2^{y_i} − 1)/log₂(1 + i): Wu et al. 2025, arXiv:2504.15477. Value (B,).

    y is the first score (a click or a grade), i the place in the list. Clicks want the inverse propensity of their place folded into y.
    The weight and j ≠ i are our reading; with j ≠ i two samples are Diffusion-DPO.
    Raises ValueError for a grade below 0, whose weight would be negative and the loss without a lower bound.
    """
    relevance = outputs.required("scores", "a relevance of each sample")[..., 0]
    if relevance.min() < 0:
        raise ValueError(
            f"irpo got a score of {relevance.min().item():g}; grades are 0 or above: name such a score in train.scores, with "
            f"standardise_scores: false, or take rankdpo, which reads differences"
        )
    reward = implicit_reward(outputs, beta)
    count = reward.shape[1]
    place = torch.arange(2, count + 2, device=reward.device, dtype=reward.dtype).log2()
    weights = (2 ** relevance.to(reward.dtype) - 1) / place
    ahead = reward[:, None, :] - reward[:, :, None]
    itself = torch.eye(count, dtype=torch.bool, device=reward.device)
    against = ahead.masked_fill(itself, -torch.inf).logsumexp(2)
    return Loss((weights * softplus(against)).sum(1), reward=reward, ranking=relevance)
