"""DSPO: score matching on the winner, whose target is pushed on by the preference."""

from __future__ import annotations

import torch

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs, implicit_margin


def dspo(outputs: Outputs, *, beta: float = 5000.0, gamma: NotNegative = 0.01) -> Loss:
    """mean[((p_w − y) − γσ(−m)·(p_w − q_w))²]: Zhu et al. 2025 (ICLR), https://openreview.net/forum?id=xyfb9HHvMe. Value (B,).

    p and q are the predictions of policy and reference, y the target. With c = γσ(−m) its minimum is y + c/(1 − c)·(y − q_w), past the
    target and away from the reference. Gradient flows through σ too. The release uses one number for γ and for β inside m.
    """
    margin = implicit_margin(outputs, beta)
    reference = outputs.required("reference", "the reference's prediction")
    policy, q, y = (tensor[:, 0].to(margin.dtype) for tensor in (outputs.policy, reference, outputs.target))
    push = (gamma * torch.sigmoid(-margin))[(...,) + (None,) * (policy.ndim - 1)]
    value = ((policy - y) - push * (policy - q)).square().flatten(1).mean(1)
    return Loss(value, margin.clone())  # apart from the value, whose slope in m says nothing of how much a pair teaches
