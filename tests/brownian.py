"""A stand-in for torchsde, which .ci/run has: what the cosine scheduler of diffusers asks of it, and no more."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


class BrownianInterval:
    """Increments of a Brownian motion: a function of seed and interval, independent for intervals that do not overlap."""

    def __init__(self, *, size: torch.Size, dtype: torch.dtype, device: torch.device, entropy: int, **_: Any):
        self.size, self.dtype, self.device, self.entropy = size, dtype, device, entropy

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed((1_000_003 * self.entropy + round(1000 * float(end))) % 2**63)
        return (torch.randn(self.size, generator=draw) * (end - start).abs().sqrt()).to(self.device, self.dtype)


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """The scheduler can be used while the patch holds."""
    import diffusers
    from diffusers.utils import import_utils, is_torchsde_available

    if is_torchsde_available():
        return
    module = ModuleType("torchsde")
    module.__dict__["BrownianInterval"] = BrownianInterval
    patch.setitem(sys.modules, "torchsde", module)
    patch.setattr(import_utils, "_torchsde_available", True)
    for name in ("scheduling_dpmsolver_sde", "scheduling_cosine_dpmsolver_multistep"):
        patch.delitem(sys.modules, f"diffusers.schedulers.{name}", raising=False)
    own = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    patch.setattr(diffusers, "CosineDPMSolverMultistepScheduler", own.CosineDPMSolverMultistepScheduler)
