"""ADPO: cross-entropy between soft targets and the softmax of implicit rewards over a list."""

from __future__ import annotations

from diffalign.arguments import Positive
from diffalign.tensors import Loss, Outputs, implicit_reward


def adpo(outputs: Outputs, *, beta: float = 5000.0, temperature: Positive = 0.3) -> Loss:
    """−Σ_k q_k·log softmax_k(r), q = softmax(R/temperature): Wang 2025, arXiv:2510.18913. Value (B,).

    R is the first score. Rewards are anchored: r is measured from the reference, initial or moving (`train.reference`).
    A one-hot q on two samples is Diffusion-DPO, q = (1 − ε, ε) its label-smoothed form.
    """
    scores = outputs.required("scores", "a score of each sample")[..., 0]
    reward = implicit_reward(outputs, beta)
    targets = (scores.to(reward.dtype) / temperature).softmax(1)
    return Loss(-(targets * reward.log_softmax(1)).sum(1), reward=reward, ranking=scores)
