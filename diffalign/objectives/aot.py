"""AOT: the winners' rewards as a distribution above the losers', not pair by pair."""

from __future__ import annotations

from torch.nn.functional import softplus

from diffalign.tensors import Loss, Outputs, implicit_reward, pair


def aot(outputs: Outputs, *, beta: float = 5000.0) -> Loss:
    """−log σ(r_w,(i) − r_l,(i)) with each side sorted over the batch: Melnyk et al. 2024, arXiv:2406.05882. Value (B,), i the place.

    First-order stochastic dominance of winners over losers. Sorted within a forward's groups: keep micro_batch_size large; at 1 it is DPO.
    """
    winner, loser = pair(implicit_reward(outputs, beta))
    margin = winner.sort().values - loser.sort().values
    return Loss(softplus(-margin), margin, compared=winner - loser)
