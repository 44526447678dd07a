"""The features of a denoiser: vectors that its last layer makes the prediction of, laid out as the latents are."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn


class HasFeatures:
    """The part of `Backbone` that knows where a UNet's and a transformer's features are.

    PATCH  positions of the latents along each side that a transformer takes as one token; None: its config's patch_size
    """

    DENOISER: ClassVar[str]
    PATCH: ClassVar[int | None] = None

    pipeline: Any
    source: str

    def head(self, denoiser: nn.Module) -> nn.Module:
        return denoiser.get_submodule("conv_out" if self.DENOISER == "unet" else "proj_out")

    def laid_out(self, features: Tensor, size: tuple[int, ...]) -> Tensor:
        if self.DENOISER == "unet":
            return features
        grid = tuple(extent // patch for extent, patch in zip(size, self.patches(len(size)), strict=True))
        return features[:, : math.prod(grid)].transpose(1, 2).unflatten(2, grid)  # conditions stand behind, row by row as all do

    def by_position(self, values: Tensor, size: tuple[int, ...]) -> Tensor:
        for axis, (extent, tokens) in enumerate(zip(size, values.shape[2:], strict=True), 2):
            values = values.repeat_interleave(extent // tokens, axis)
        return values

    def patches(self, axes: int) -> tuple[int, ...]:
        """Positions along each axis of the latents that are one token."""
        own = self.PATCH or getattr(self.pipeline, self.DENOISER).config.patch_size
        return (own,) * axes if isinstance(own, int) else tuple(own)

    def last_layer(self, denoiser: nn.Module) -> nn.Module:
        """A UNet's; ValueError for a transformer."""
        if self.DENOISER == "unet":
            return self.head(denoiser)
        raise ValueError(
            f"{self.source}: the last layer of a transformer makes patches, not positions, and a safeguard's space 'last_layer' "
            f"reads features of positions; set the safeguard's space to output"
        )
