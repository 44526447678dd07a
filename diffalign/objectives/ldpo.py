"""LD-DPO: samples of unequal length, whose common prefix counts in full and the rest in part."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, pair, squared_error


def ldpo(outputs: Outputs, *, beta: float = 5000.0, alpha: float = 0.5, nominal: int | None = None) -> Loss:
    """−log σ(r_w − r_l), r = −(β/2)/F₀·Σ_f a_f·Δ[f]: Liu et al. 2024, arXiv:2409.06411. Value (B,).

    f runs over a sample's own length along the first axis after the channels; a_f is 1 up to the shorter length of the pair, α beyond.
    nominal  F₀, a fixed length so that β keeps its meaning; None: the tensors'. α without effect on equal lengths; 0: the prefix alone.
    """
    reference = outputs.required("reference", "the reference's prediction")
    drift = squared_error(outputs.policy, outputs.target) - squared_error(reference, outputs.target)
    frames = drift.mean(2).flatten(3).mean(3) if drift.ndim > 4 else drift.mean(2)
    place = torch.arange(frames.shape[2], device=frames.device)
    lengths = outputs.lengths if outputs.lengths is not None else torch.full(frames.shape[:2], frames.shape[2], device=frames.device)
    shorter = lengths.min(1, keepdim=True).values[..., None]
    weight = (place < lengths[..., None]).to(frames) * torch.where(place < shorter, frames.new_ones(()), alpha)
    winner, loser = pair(-0.5 * beta / (nominal or frames.shape[2]) * (weight * frames).sum(2))
    margin = winner - loser
    return Loss(softplus(-margin), margin)
