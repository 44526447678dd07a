"""The denoiser's prediction on many samples: each without its padding, and no more of them in one forward than the memory holds."""

from __future__ import annotations

from itertools import chain, repeat

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from diffalign.backbones import Backbone


def predict_own(backbone: Backbone, denoiser: nn.Module, x: Tensor, timestep: Tensor, embeds: dict[str, Tensor],
                lengths: Tensor | None, at_once: int | None = None) -> Tensor:  # fmt: skip
    """The prediction (N, C, *S) at x_t, of each sample without its padding as if it were alone, and zeros there; lengths (N,) or None.

    at_once  see `predict_in_parts`
    """
    if lengths is None:
        return predict_in_parts(backbone, denoiser, x, timestep, embeds, at_once)
    found = torch.zeros_like(x)
    # Through DDP, which sends buffers around in each forward, once alone: the processes may have different numbers of lengths.
    for length, network in zip(lengths.unique().tolist(), chain([denoiser], repeat(unwrapped(denoiser)))):
        rows = lengths == length
        own = {name: value[rows] for name, value in embeds.items()}
        found[rows, :, :length] = predict_in_parts(backbone, network, x[rows, :, :length], timestep[rows], own, at_once).to(found)
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """The module without DDP around it."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def predict_in_parts(backbone: Backbone, denoiser: nn.Module, x: Tensor, timestep: Tensor, embeds: dict[str, Tensor],
                     at_once: int | None) -> Tensor:  # fmt: skip
    """The prediction (N, C, *S), with at most `at_once` samples in a forward; None: all.

    With a gradient this is gradient caching, Gao et al. 2021, arXiv:2101.06983: the first forward of a part keeps no activations. Once the
    loss on all predictions has given their gradients, part after part runs forward again, with the same dropout, and backward. The paper
    caches the gradients of encodings; those of predictions serve every objective, whatever it computes from them.
    """
    if at_once is None or len(x) <= at_once:
        return backbone.predict(denoiser, x, timestep, embeds)

    # A second forward through DDP would begin a new step in the middle of a backward, and processes may have different numbers of parts.
    networks = chain([denoiser], repeat(unwrapped(denoiser)))

    def part(rows: slice) -> Tensor:
        own = {name: value[rows] for name, value in embeds.items()}

        def run(x: Tensor, timestep: Tensor) -> Tensor:
            return backbone.predict(next(networks), x, timestep, own)

        return checkpoint(run, x[rows], timestep[rows], use_reentrant=False)

    return torch.cat([part(slice(first, first + at_once)) for first in range(0, len(x), at_once)])
