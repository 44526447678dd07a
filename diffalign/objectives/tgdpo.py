"""TGDPO: Diffusion-DPO whose positions are weighed by what an already aligned model prefers there."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus

from diffalign.arguments import NotNegative, Positive
from diffalign.objectives.position_weights import to_mean_one
from diffalign.tensors import Loss, Outputs, pair


def tgdpo(outputs: Outputs, *, beta: float = 5000.0, alpha: NotNegative = 0.5, teacher_beta: Positive | None = None) -> Loss:
    """−log σ(mean M_w·r_w − mean M_l·r_l) over positions: Zhu et al. 2025, arXiv:2506.14574. Value (B,).

    M_w = max(0, 1 + α·r̂_w), M_l = max(0, 1 − α·r̂_l), each scaled to a mean of 1; r̂ is the teacher's implicit reward at a position, mean
    over channels and over `train.teacher_draws`: of root mean square 1 over a sample's positions, or as it is at β = teacher_beta. A
    token's is small beside 1, a latent's is not at the β of whole samples, and a few positions would carry all weight. The release lets
    weights go negative, which turns the label around there. α = 0: Diffusion-DPO.
    """
    reward = -0.5 * beta * outputs.position_drift
    hint = _unit(-outputs.teacher_drift) if teacher_beta is None else -0.5 * teacher_beta * outputs.teacher_drift
    winner, loser = pair(reward)
    winner_weight, loser_weight = to_mean_one(relu(1 + alpha * hint[:, 0])), to_mean_one(relu(1 - alpha * hint[:, 1]))
    margin = (winner_weight * winner).flatten(1).mean(1) - (loser_weight * loser).flatten(1).mean(1)
    return Loss(softplus(-margin), margin)


def _unit(reward: Tensor) -> Tensor:
    """(B, K, …) of root mean square 1 in each sample; 0 where a teacher that prefers nothing gives 0 everywhere."""
    size = reward.flatten(2).square().mean(2).sqrt()[(..., *[None] * (reward.ndim - 2))]
    return reward / size.where(size > 0, 1)
