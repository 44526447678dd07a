"""Prospect theory's value of single samples: what a gain or a loss against a reference point is worth."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.tensors import Outputs

Utility = Literal["kahneman_tversky", "loss_averse", "risk_seeking"]
UTILITIES = {
    "kahneman_tversky": lambda gain: torch.sigmoid(-gain),
    "loss_averse": lambda gain: softplus(-gain),
    "risk_seeking": lambda gain: -softplus(gain),
}


def prospect(outputs: Outputs, reward: Tensor, point: Tensor, utility: Utility, desirable: float, undesirable: float) -> Tensor:
    """Mean over a group of w_y·U(±(r − point)), (B,), the signs from its labels."""
    wanted = outputs.required("labels", "a label of each sample") > 0
    gain = torch.where(wanted, reward - point, point - reward)
    weights = torch.where(wanted, reward.new_tensor(desirable), undesirable)
    return (weights * UTILITIES[utility](gain)).mean(1)
