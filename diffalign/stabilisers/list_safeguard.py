"""The winner safeguard of ranked lists: no gradient of the others can raise the best one's error, not through one between either."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffalign.arguments import Share
from diffalign.stabilisers.error_gradients import Space, error_gradients
from diffalign.tensors import Outputs


def list_safeguard(outputs: Outputs, *, mu: Share = 0.9, space: Space = "output") -> Outputs:
    """The same values, the gradient through the k-th of a list times λ_k [derived]; after Fu et al. 2025, arXiv:2511.03317.

    The list is ranked as the objective ranks it, equal ones in their order; g are the gradients of the errors, g_1 that of the best. λ are
    the largest in [0, 1] for which λ_k·⟨g_1, g_k⟩ nowhere rises along the list, from (1 − μ)·‖g_1‖² on. Two samples: the winner safeguard.
    A loss that prefers each sample to those behind it alone has the gradient Σ a_ij·(g_i − g_j) over i before j, a ≥ 0. Each term of a step
    moves e_1 by −a_ij·(λ_i·⟨g_1, g_i⟩ − λ_j·⟨g_1, g_j⟩) ≤ 0. To hold every loser against the best would not be enough: terms without the
    best move e_1 too. Where an overlap below 0 comes before one above it, neither sample is learned from.
    mu, space  as in winner_safeguard
    """
    with torch.no_grad():
        scores = outputs.required("scores", "a score of each sample")[..., 0]
        order = (scores if outputs.ranking is None else outputs.ranking).argsort(dim=1, descending=True, stable=True)
        gradients = error_gradients(outputs, space)
        best = gradients.take_along_dim(order[:, :1, None], 1)
        overlap = (best * gradients).sum(2).take_along_dim(order, 1)
        falling = torch.cat([(1 - mu) * overlap[:, :1], overlap[:, 1:].clamp(min=0)], 1).cummin(1).values
        still_to_fall = overlap.clamp(max=0).flip(1).cummax(1).values.flip(1)
        share = ((falling + still_to_fall) / overlap.where(overlap != 0, 1)).where(overlap != 0, 1)
        share[:, 0] = 1
        share = share.take_along_dim(order.argsort(1), 1)[(..., *[None] * (outputs.policy.ndim - 2))].to(outputs.policy)
    still = outputs.policy.detach()
    return replace(outputs, policy=still + share * (outputs.policy - still))
