"""SPPO: each sample's implicit reward is regressed on how often it wins against the others of its list."""

from __future__ import annotations

import torch

from diffalign.arguments import Positive
from diffalign.tensors import Loss, Outputs, implicit_reward


def sppo(outputs: Outputs, *, beta: float = 5000.0, hard: bool = False, temperature: Positive = 1.0) -> Loss:
    """½·Σ_k (r_k − (P_k − ½))²: Wu et al. 2024, arXiv:2405.00675 in units of reward. Value (B,).

    P_k is the mean over the other samples j of P(k ≻ j) = σ((R_k − R_j)/temperature), or of 0, ½ and 1 where `hard`. R is the first score.
    The method is iterative: its samples are the policy's own, and the reference is the round before.
    """
    scores = outputs.required("scores", "a score of each sample")[..., 0]
    reward = implicit_reward(outputs, beta)
    ahead = (scores[:, :, None] - scores[:, None, :]).to(reward.dtype)
    wins = 0.5 * (1 + ahead.sign()) if hard else torch.sigmoid(ahead / temperature)
    probability = (wins.sum(2) - 0.5) / (reward.shape[1] - 1)  # itself counts ½ in the sum, and is no other
    return Loss(0.5 * (reward - (probability - 0.5)).square().sum(1), reward=reward)
