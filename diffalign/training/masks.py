"""Weights of positions, from what the reference's denoiser sees there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from diffalign.backbones import Backbone


def channels_into(head: nn.Module) -> int:
    """C' of the features that a denoiser's head takes."""
    return getattr(head, "in_channels", None) or head.in_features  # a convolution's, a linear layer's


@contextmanager
def features_of(backbone: Backbone, denoiser: nn.Module, size: tuple[int, ...], *, wanted: bool = True) -> Iterator[list[Tensor]]:
    """While a denoiser runs on latents of shape S = `size`, what goes into its head: [(N, C', *G)] of each forward, without gradient."""
    found: list[Tensor] = []
    if not wanted:
        yield found
        return

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(backbone.laid_out(inputs[0].detach(), size).float())

    handle = backbone.head(denoiser).register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


class Mask(nn.Module):
    """(N, C', *G) features → (N, 1, *G) weights ≥ 0: Christopoulou et al. 2024, arXiv:2410.05102.

    The paper gives the two schemes, weights from the reference's activations and learned ones, for tokens; what it leaves open for a
    denoiser is ours [derived]: whose activations, the standardisation, the offset, and the layer norm before w.

    kind     "activation": positions where the reference is more active than on average, relu(z + offset) with z the standardised mean
             absolute activation of the sample; nothing is trained. "learned": relu(1 + scale·w·features), w trained from 0
    offset   what an average position weighs, in standard deviations; higher is less sparse
    channels C' of a learned mask; scale  of its steps against those of the policy
    """

    def __init__(
        self, kind: Literal["activation", "learned"] = "activation", *, offset: float = 0.0, channels: int = 0, scale: float = 0.1
    ):
        super().__init__()
        self.kind, self.offset, self.scale = kind, offset, scale
        self.weight = nn.Parameter(torch.zeros(channels)) if kind == "learned" else None

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(self, features: Tensor) -> Tensor:
        if self.weight is None:
            activity = features.abs().mean(1, keepdim=True)
            flat = activity.flatten(1)
            mean, deviation = (each[(...,) + (None,) * (activity.ndim - 1)] for each in (flat.mean(1), flat.std(1)))
            return ((activity - mean) / deviation.clamp(min=1e-8) + self.offset).relu()
        scaled = torch.nn.functional.layer_norm(features.movedim(1, -1), (features.shape[1],))
        return (1 + self.scale * scaled @ self.weight).relu().unsqueeze(1)
