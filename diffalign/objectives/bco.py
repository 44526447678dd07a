"""BCO: a classifier of winners and losers, whose threshold is the mean reward."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.arguments import PartialShare
from diffalign.tensors import Loss, Outputs, implicit_reward, pair


def bco(outputs: Outputs, *, beta: float = 5000.0, decay: PartialShare = 0.9) -> Loss:
    """−log σ(r_w − z) − log σ(z − r_l): Jung et al. 2024, arXiv:2404.04656 Value (B,). z is the mean of r over the batches so far."""
    winner, loser = pair(implicit_reward(outputs, beta))
    point = outputs.running.get("reward", winner.new_zeros(()))
    tracked = decay * point + (1 - decay) * 0.5 * (winner + loser).detach()
    return Loss(softplus(point - winner) + softplus(loser - point), winner - loser, tracked={"reward": tracked})
