"""Errors as log-probabilities: exp(−κe) stands for a sample's probability where a method needs one."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from diffalign.tensors import BUCKETS, Outputs

FLOOR = 1e-4  # of κe before its odds are formed: they are infinite at an error of 0
LEAST = 1e-12  # of an error, and of how much a quarter was seen: below it counts as not seen


def scaled_error(outputs: Outputs, kappa: float | None, decay: float) -> tuple[Tensor, dict[str, Tensor]]:
    """κe, (B, K), and what is tracked for a relative κ, each (B, 4) by quarter of the timesteps: errors, and how many groups they are of.

    Relative: κ = 1/(mean error of the quarter over the batches so far, the later the more). The ratio of two moving averages, so a mean
    of errors that were seen, from the first batch on. A quarter not seen yet: the group's own mean. It is the policy's error, detached,
    as the objectives of this scale run without a reference.
    """
    error = outputs.error
    if kappa is not None:
        return kappa * error, {}
    own = error.detach().mean(1)
    here = one_hot(outputs.bucket, BUCKETS).to(own)
    total, seen = (outputs.running.get(name, own.new_zeros(BUCKETS)).to(own) for name in ("error", "seen"))
    tracked = {"error": decay * total + (1 - decay) * here * own[:, None], "seen": decay * seen + (1 - decay) * here}
    known = (seen > LEAST)[outputs.bucket]
    mean = (total / seen.clamp(min=LEAST))[outputs.bucket].where(known, own)
    return error / mean.clamp(min=LEAST)[:, None], tracked
