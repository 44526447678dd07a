"""The head of LAION's aesthetic predictor and of ImageReward: five linear layers, 1024, 128, 64, 16 and 1, with nothing between them."""

from __future__ import annotations

from typing import Any

WIDTHS = (1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # in `layers`, as released: dropout stood between, and not before the last


def linear_head(width: int) -> Any:
    """A module of embeddings (N, width) → (N, 1) with the released names layers.0.weight … layers.7.bias, in its mode for evaluation."""
    from torch import nn

    layers: list[nn.Module] = [nn.Identity() for _ in range(PLACES[-1] + 1)]
    for place, inputs, outputs in zip(PLACES, (width, *WIDTHS), WIDTHS, strict=False):
        layers[place] = nn.Linear(inputs, outputs)
    return nn.ModuleDict({"layers": nn.Sequential(*layers)}).eval()
