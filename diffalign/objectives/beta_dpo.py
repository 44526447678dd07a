"""β-DPO: β follows how far apart the batch's pairs are, and outlying pairs count less."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn.functional import softplus

from diffalign.arguments import NotNegative, PartialShare
from diffalign.tensors import Loss, Outputs, implicit_margin


def beta_dpo(outputs: Outputs, *, beta: float = 5000.0, adapt: NotNegative = 0.6, minimum: NotNegative = 5.0, filter: PartialShare = 0.2,
             decay: PartialShare = 0.9) -> Loss:  # fmt: skip
    """w·(−log σ(m·β′/β)), β′ = max(minimum, β·(1 + adapt·(m̄ − M))): Wu et al. 2024, arXiv:2407.08639. Value (B,).

    M and s are mean and deviation of the margin over the batches so far, m̄ its mean in the last batch: the whole batch's on any number
    of devices, one step late. As in the release, M has m̄'s batch in it already; there m̄ is over the pairs kept.
    The release keeps a share 1 − filter of the batch, drawn without replacement by k = exp(−½((m − M)/s)²), and divides by how many it
    kept. Such a draw is a race of clocks of rates k, in a large batch ended at one time λ: a pair is kept with probability 1 − e^(−λk),
    and w is that over 1 − filter, with the λ of normal margins. adapt = filter = 0: Diffusion-DPO.
    """
    margin = implicit_margin(outputs, beta)
    zero, one, here = margin.new_zeros(()), margin.new_ones(()), margin.detach()
    mean, square = outputs.running.get("margin", zero), outputs.running.get("square", one)
    last = outputs.running.get("last", mean)
    weight = torch.ones_like(here)
    if filter and "margin" in outputs.running:  # the first batch has nothing to be usual by
        nearness = torch.exp(-0.5 * (here - mean).square() / (square - mean.square()).clamp(min=1e-8))
        weight = -torch.expm1(-_race(filter) * nearness) / (1 - filter)
    adapted = (beta * (1 + adapt * (last - mean))).clamp(min=minimum)
    margin = margin * (adapted / beta)
    tracked = {"margin": decay * mean + (1 - decay) * here, "square": decay * square + (1 - decay) * here.square(), "last": here}
    return Loss(weight * softplus(-margin), margin, tracked=tracked)


@cache
def _race(share: float) -> float:
    """λ at which the race of normal margins, k = exp(−z²/2) with z ~ N(0, 1), has a share left out: E[e^(−λk)] = share."""
    z = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    nearness = torch.exp(-z.square() / 2)
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        left = float((nearness * torch.exp(-math.exp(middle) * nearness)).sum() / nearness.sum())
        low, high = (middle, high) if left > share else (low, middle)
    return math.exp(low)
