"""SPPO: each sample's implicit reward is regressed on how often it wins against the others of its list."""

from __future__ import annotations

import torch
from torch import Tensor

from diffalign.arguments import Positive
from diffalign.tensors import Loss, Outputs, implicit_reward


def sppo(outputs: Outputs, *, beta: float = 500.0, hard: bool = False, temperature: Positive | None = 1.0) -> Loss:
    """½·Σ_k (r_k − (P_k − ½))²: Wu et al. 2024, arXiv:2405.00675 in units of reward. Value (B,).

    P_k is the mean over the other samples j of P(k ≻ j) = σ((R_k − R_j)/temperature), or of 0, ½ and 1 where `hard`. R is the first score.
    temperature  None: the first score is P_k itself, the share of the others that a sample beats, as judges of pairs give it. Of a matrix
                 of duels the loss reads these means alone, so votes that go in circles need no more; differences of a score never do
    The method is iterative: its samples are the policy's own, and the reference is the round before.
    Raises ValueError for a share outside 0 … 1.
    """
    scores = outputs.required("scores", "a score of each sample")[..., 0]
    reward = implicit_reward(outputs, beta)
    probability = _won(scores, hard, temperature).to(reward.dtype)
    return Loss(0.5 * (reward - (probability - 0.5)).square().sum(1), reward=reward, ranking=scores)


def _won(scores: Tensor, hard: bool, temperature: float | None) -> Tensor:
    """P_k, (B, K)."""
    ahead = scores[:, :, None] - scores[:, None, :]
    if hard:
        wins = 0.5 * (1 + ahead.sign())
    elif temperature is not None:
        wins = torch.sigmoid(ahead / temperature)
    else:
        low, high = scores.aminmax()
        if low < 0 or high > 1:
            raise ValueError(
                f"sppo with temperature None got scores from {low.item():g} to {high.item():g}; shares of wins lie in 0 … 1: name such a "
                f"score in train.scores, with standardise_scores: false, or give a temperature for a reward"
            )
        return scores
    return (wins.sum(2) - 0.5) / (scores.shape[1] - 1)  # itself counts ½ in the sum, and is no other
