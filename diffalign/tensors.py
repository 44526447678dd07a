"""The tensors that objectives, noising, backbones and training share.

Any modality is (B, K, C, *S): B groups of one prompt each, K samples per group, index 0 preferred; S is (H, W), (F, H, W), (T,) or (M, T).
Nothing here names a spatial dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Rows = Literal["pairs", "lists", "labelled", "segments", "positives"]


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Error of each sample, (B, K): the mean of (prediction − target)² over every axis after the second, in float32.

    Float32 before the subtraction: two bf16 errors differ by less than their rounding, and β/2 ≈ 1000 multiplies the difference.
    Float64 stays float64, so that tests can check values by hand.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}; they must be equal")
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(2).mean(2)


@dataclass(frozen=True)
class Outputs:
    """What one forward of policy and reference gives an objective.

    policy      (B, K, C, *S) prediction of the trained denoiser, with gradient
    target      (B, K, C, *S) what it should predict (ε, v or velocity: the backbone's affair)
    timestep    (B,) in the units of the backbone's scheduler
    reference   (B, K, C, *S) prediction of the frozen reference, or None
    known_reference_error  (B, K) the reference's error where it was computed before and kept, or None
    scores      (B, K, R) external scores of the samples, or None
    labels      (B, K) in {0, 1}, for unpaired rows, or None
    """

    policy: Tensor
    target: Tensor
    timestep: Tensor
    reference: Tensor | None = None
    known_reference_error: Tensor | None = None
    scores: Tensor | None = None
    labels: Tensor | None = None

    @cached_property
    def error(self) -> Tensor:
        """Error of the policy, (B, K), with gradient."""
        return mean_squared_error(self.policy, self.target)

    @cached_property
    def reference_error(self) -> Tensor:
        """Error of the reference, (B, K). Raises ValueError where the objective's table line asked for no reference."""
        if self.known_reference_error is not None:
            return self.known_reference_error
        if self.reference is None:
            raise ValueError("the objective reads the reference's error; its OBJECTIVES line says reference=None; write reference='error'")
        return mean_squared_error(self.reference, self.target)

    @cached_property
    def drift(self) -> Tensor:
        """Δ = error of the policy − error of the reference, (B, K). Negative: the policy explains the sample better."""
        return self.error - self.reference_error


@dataclass(frozen=True)
class Loss:
    """An objective's result: value (B,) unreduced, and the margin r_w − r_l (B,) where the method has one. The loop alone reduces."""

    value: Tensor
    margin: Tensor | None = None


def implicit_margin(outputs: Outputs, beta: float) -> Tensor:
    """m = r_w − r_l = −(β/2)·(Δ_w − Δ_l), (B,): Wallace et al. 2023, arXiv:2311.12908, with mean-reduced float32 errors."""
    drift = outputs.drift
    if drift.shape[1] != 2:
        raise ValueError(f"a pairwise objective got groups of K = {drift.shape[1]} samples; it needs K = 2, index 0 preferred")
    return -0.5 * beta * (drift[:, 0] - drift[:, 1])
