"""f-DPO: Diffusion-DPO under another divergence from the reference than the reverse Kullback–Leibler."""

from __future__ import annotations

from math import exp
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from diffalign.arguments import Positive, Share
from diffalign.tensors import Loss, Outputs, implicit_margin, implicit_reward, pair

FLOOR = -10.0  # below this u, h goes on straight with the slope that it has there: exp(−u) would overflow, and a cut would let go


def fdpo(outputs: Outputs, *, beta: float = 5000.0, divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "js",
         beta_lm: Positive = 0.5, alpha: Share = 0.5) -> Loss:  # fmt: skip
    """−log σ(b·(h(u_w) − h(u_l))), u = r/b: Wang et al. 2023, arXiv:2309.16240 Value (B,).

    divergence  h = u (reverse_kl: Diffusion-DPO), −e^−u (forward_kl), ln σ(u) (js), (1 − e^−αu)/α (alpha; 0 is reverse, 1 forward)
    beta_lm     b: how far a drift is in log-ratios, u = r/b. The larger, the nearer is every divergence to Diffusion-DPO.
    """
    if divergence == "reverse_kl" or (divergence == "alpha" and alpha == 0):
        margin = implicit_margin(outputs, beta)
    else:
        winner, loser = pair(_transformed(implicit_reward(outputs, beta) / beta_lm, divergence, alpha))
        margin = beta_lm * (winner - loser)
    return Loss(softplus(-margin), margin)


def _transformed(u: Tensor, divergence: str, alpha: float) -> Tensor:
    if divergence == "js":
        return logsigmoid(u)
    alpha = 1.0 if divergence == "forward_kl" else alpha  # h but for a constant, which a margin loses
    held = u.clamp(min=FLOOR)
    return -torch.expm1(-alpha * held) / alpha + exp(-alpha * FLOOR) * (u - held)
