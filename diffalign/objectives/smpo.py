"""SmPO: Diffusion-DPO whose margin is weighed by how sure the preference is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.arguments import Positive
from diffalign.tensors import Loss, Outputs, implicit_margin, pair


def smpo(outputs: Outputs, *, beta: float = 5000.0, gamma: Positive = 10.0, low: float = 11.5435, high: float = 28.2016) -> Loss:
    """−log σ(γ(2p − 1)·m): Lu et al. 2025, arXiv:2506.02698. Value (B,).

    p is the softmax of the pair's scores after (s − low)/(high − low), whose defaults are PickScore's range in the release, a hundred
    times its cosines, as `pick_score` gives them; without scores it is the pair's win probability. p = ½ teaches nothing, p < ½ turns
    the label around.
    """
    certainty = gamma * (2 * _probability(outputs, low, high) - 1)
    margin = certainty * implicit_margin(outputs, beta)
    return Loss(softplus(-margin), margin)


def _probability(outputs: Outputs, low: float, high: float) -> Tensor:
    if outputs.scores is None:
        return outputs.required("win_probability", "scores of both samples, or a win probability")
    winner, loser = pair(outputs.scores[..., 0])
    return torch.sigmoid((winner - loser) / (high - low))
