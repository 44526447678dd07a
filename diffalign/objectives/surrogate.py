"""Errors as log-probabilities: exp(−κe) stands for a sample's probability where a method needs one."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from diffalign.tensors import BUCKETS, Outputs

FLOOR = 1e-4  # of κe before its odds are formed: they are infinite at an error of 0


def scaled_error(outputs: Outputs, kappa: float | None, decay: float) -> tuple[Tensor, dict[str, Tensor]]:
    """κe, (B, K), and what is tracked for a relative κ: the mean error (B, 4) by quarter of the timesteps."""
    error = outputs.error
    if kappa is not None:
        return kappa * error, {}
    before = outputs.running.get("error", error.new_ones(BUCKETS)).to(error)
    here = one_hot(outputs.bucket, BUCKETS).to(error)
    tracked = before + BUCKETS * (1 - decay) * here * (error.detach().mean(1, keepdim=True) - before)
    return error / before[outputs.bucket][:, None], {"error": tracked}
