"""DenseDPO: preferences for each span of time, not for the whole clip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, by_step, even_edges, pair, span_shares


def densedpo(outputs: Outputs, *, beta: float = 1000.0, aggregate: Literal["inside", "sum", "outside"] = "inside") -> Loss:
    """−log σ(mean of l_f·m[f]) over spans with a winner: Wu et al. 2025, arXiv:2506.03517, eq. 7. Value (B,).

    l_f is 1 where index 0 is better in span f, −1 where index 1 is, 0 for neither; m[f] is the margin of the mean errors over the steps of
    the first axis after the channels that lie in span f, each by its share (Outputs.segment_shares).
    aggregate  "inside": the mean inside the logarithm, β comparable to whole clips; "sum": the equation as written; "outside": the mean
               of each span's −log σ(l_f·m[f]), the appendix's reading. A clip of ties alone has value 0.
    """
    labels = outputs.required("segment_labels", "a label of each span of time")
    winner, loser = pair(_by_span(by_step(outputs.position_drift), labels.shape[1], outputs.segment_shares))
    labels = labels.to(winner.dtype)
    margins = -0.5 * beta * labels * (winner - loser)
    judged = labels.abs()
    count = judged.sum(1)
    mean = margins.sum(1) / count.clamp(min=1)
    if aggregate == "outside":
        value = (judged * softplus(-margins)).sum(1) / count.clamp(min=1)
    else:
        value = softplus(-(mean if aggregate == "inside" else margins.sum(1))) * (count > 0)
    return Loss(value, mean, compared=margins.detach().masked_fill(labels == 0, torch.nan))


def _by_span(steps: Tensor, count: int, given: Tensor | None) -> Tensor:
    """Means over the steps of each span: (B, K, N) → (B, K, count); 0 for a span of none, which other groups have more of."""
    shares = (span_shares(even_edges(steps.shape[2]), count) if given is None else given).to(steps)
    inside = shares.sum(-1)
    weights = shares / inside.where(inside > 0, 1)[..., None]
    return (steps[:, :, None] * weights.unsqueeze(-3)).sum(3)
