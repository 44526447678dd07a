"""β-DPO: β follows how far apart the batch's pairs are, and outlying pairs count less."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.arguments import NotNegative, PartialShare
from diffalign.tensors import Loss, Outputs, implicit_margin


def beta_dpo(outputs: Outputs, *, beta: float = 5000.0, adapt: NotNegative = 0.6, minimum: NotNegative = 5.0, filter: PartialShare = 0.2,
             decay: PartialShare = 0.9) -> Loss:  # fmt: skip
    """w·(−log σ(m·β′/β)), β′ = max(minimum, β·(1 + adapt·(m̄ − M))): Wu et al. 2024, arXiv:2407.08639. Value (B,).

    M and s are mean and deviation of the margin over the batches so far, m̄ its mean in the last batch: the whole batch's on any number
    of devices, one step late. The paper draws a share 1 − filter of the batch, likelier the nearer m is to M; here each pair counts
    w = 1 − filter + filter·exp(−½((m − M)/s)²), the same in the mean and without a draw. adapt = filter = 0: Diffusion-DPO.
    """
    margin = implicit_margin(outputs, beta)
    zero = margin.new_zeros(())
    mean, square = outputs.running.get("margin", zero), outputs.running.get("square", zero + 1)
    last = outputs.running.get("last", mean)
    here = margin.detach()
    nearness = torch.exp(-0.5 * (here - mean).square() / (square - mean.square()).clamp(min=1e-8))
    adapted = (beta * (1 + adapt * (last - mean))).clamp(min=minimum)
    margin = margin * (adapted / beta)
    tracked = {"margin": decay * mean + (1 - decay) * here, "square": decay * square + (1 - decay) * here.square(), "last": here}
    return Loss((1 - filter + filter * nearness) * softplus(-margin), margin, tracked=tracked)
