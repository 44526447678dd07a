"""SimPO: a margin between errors as they are, without a reference."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import NotNegative
from diffalign.tensors import Loss, Outputs, pair


def simpo(outputs: Outputs, *, beta: float = 500.0, gamma: NotNegative = 0.5) -> Loss:
    """−log σ((β/2)(e_l − e_w) − γ): Meng et al. 2024, arXiv:2405.14734, on the denoising surrogate. Value (B,).

    γ is in units of the margin; the paper's ratio γ/β is of its own β. The mean over dimensions is its length normalisation.
    Trap: an easy, flat picture has a small error whatever the policy does, so a margin without a reference rewards low detail.
    """
    winner, loser = pair(outputs.error)
    gap = 0.5 * beta * (loser - winner)
    margin = gap - gamma
    return Loss(softplus(-margin), margin, compared=gap)
