"""DenseDPO: preferences for each span of time, not for the whole clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, by_step, pair, squared_error


def densedpo(outputs: Outputs, *, beta: float = 1000.0, aggregate: Literal["inside", "sum", "outside"] = "inside") -> Loss:
    """−log σ(mean of l_f·m[f]) over spans with a winner: Wu et al. 2025, arXiv:2506.03517, eq. 7. Value (B,).

    l_f is 1 where index 0 is better in span f, −1 where index 1 is, 0 for neither; spans cut the first axis after the channels evenly.
    aggregate  "inside": the mean inside the logarithm, β comparable to whole clips; "sum": the equation as written; "outside": the mean
               of each span's −log σ(l_f·m[f]), the appendix's reading. A clip of ties alone has value 0.
    """
    labels = outputs.required("segment_labels", "a label of each span of time")
    reference = outputs.required("reference", "the reference's prediction")
    drift = squared_error(outputs.policy, outputs.target) - squared_error(reference, outputs.target)
    winner, loser = pair(_spans(drift, labels.shape[1]))
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


def _spans(values: Tensor, count: int) -> Tensor:
    """Means over spans of the first axis after the channels: (B, K, C, N, …) → (B, K, count)."""
    rows = by_step(values)
    length = rows.shape[2]
    if length < count:
        raise ValueError(f"{count} segment labels for {length} latent positions in time; label longer spans")
    edges = [index * length // count for index in range(count + 1)]
    return torch.stack([rows[:, :, start:end].mean(2) for start, end in pairwise(edges)], 2)
