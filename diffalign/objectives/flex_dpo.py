"""Flex-DPO: Diffusion-DPO that pushes less on losers than on winners."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs, pair


def flex_dpo(outputs: Outputs, *, beta: float = 5000.0, loser: NotNegative = 0.5) -> Loss:
    """−log σ(−(β/2)(Δ_w − loser·Δ_l)): Yan et al. 2024 (3D-properties), arXiv:2406.07327 Value (B,).

    loser is β⁻/β⁺. 1: Diffusion-DPO; 0: fine-tuning on winners that have not been learned yet. Below 1 log Z no longer cancels.
    """
    winner, other = pair(outputs.drift)
    margin = -0.5 * beta * (winner - loser * other)
    return Loss(softplus(-margin), margin)
