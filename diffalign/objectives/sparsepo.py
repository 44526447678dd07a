"""SparsePO: rewards and divergences of positions through a sparse mask, given or learned."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import NotNegative
from diffalign.objectives.position_weights import to_mean_one
from diffalign.tensors import Loss, Outputs, pair, squared_error


def sparsepo(outputs: Outputs, *, beta: float = 5000.0, kl: NotNegative = 1.0, l1: NotNegative = 0.0) -> Loss:
    """−log σ(m) + l1·mean M, m = Σ±mean M·(r + kl·(β/2)·(p − q)²): Christopoulou et al. 2024, arXiv:2410.05102. Value (B,).

    M is scaled to a mean of 1 over the pair: (M, β) → (cM, β/c) is the same loss. M = 1 and kl = 0: Diffusion-DPO; kl = 1: TDPO-1.
    A pair whose mask is 0 everywhere counts as under an even one.
    """
    raw = outputs.required("mask", "a mask of positions").to(outputs.error.dtype)
    mask = to_mean_one(raw)
    reference = outputs.required("reference", "the reference's prediction")
    reward = -0.5 * beta * (mask * (outputs.position_drift - kl * squared_error(outputs.policy, reference))).flatten(2).mean(2)
    winner, loser = pair(reward)
    margin = winner - loser
    return Loss(softplus(-margin) + l1 * raw.flatten(1).mean(1), margin)
