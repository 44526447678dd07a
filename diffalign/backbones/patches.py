"""Latents as the tokens of a transformer that takes squares of them: (N, C, H, W) ↔ (N, H/2·W/2, 4·C)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH = 2  # latents along each side that are one token


def packed(latents: Tensor) -> Tensor:
    """Tokens row by row, each a square of the first channel, then one of the second, …"""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of `packed`, of the shape of the latents `like`."""
    rows, columns = (side // PATCH for side in like.shape[-2:])
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)
