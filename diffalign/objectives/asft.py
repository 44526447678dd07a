"""ASFT: fine-tuning on the winner and away from the loser, each on its own, without a reference."""

from __future__ import annotations

import torch

from diffalign.arguments import NotNegative, PartialShare, Positive
from diffalign.objectives.surrogate import FLOOR, scaled_error
from diffalign.tensors import Loss, Outputs, pair


def asft(outputs: Outputs, *, weight: NotNegative = 1.0, kappa: Positive | None = None, decay: PartialShare = 0.9) -> Loss:
    """(1 + λ)·κe_w − λ·ln(1 − exp(−κe_l)), λ = weight: Wang et al. 2024, arXiv:2409.10571, from the abstract. Value (B,).

    exp(−κe) stands for a sample's probability; kappa as in orpo. The loser's gradient fades by itself as its error grows. λ = 0: sft.
    """
    scaled, tracked = scaled_error(outputs, kappa, decay)
    winner, loser = pair(scaled)
    unlikely = -torch.log(-torch.expm1(-loser.clamp(min=FLOOR)))
    return Loss((1 + weight) * winner + weight * unlikely, loser - winner, tracked=tracked)
