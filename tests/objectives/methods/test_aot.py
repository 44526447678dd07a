"""AOT: −log σ(r_w,(i) − r_l,(i)), winners and losers each sorted over the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs, taken

from diffalign.objectives.aot import aot
from diffalign.objectives.diffusion_dpo import diffusion_dpo

EXEMPT = {"unreduced": "the rank of a reward depends on the batch"}


def naive_batch(groups: Sequence[Group], *, beta: float) -> list[float]:
    winners, losers = (sorted(group.reward(sample, beta) for group in groups) for sample in (0, 1))
    return [math.log1p(math.exp(-(winner - loser))) for winner, loser in zip(winners, losers, strict=True)]


# A batch of one is DPO: m = 1.5, −1.5, and ½ at the default β = 5000. Batches by hand stand below.
HAND = (
    Hand((0.3, 0.6), 0.20141327798275241, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.70141327798275241, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.4999, 0.5001), 0.47407698418010668, (0.5, 0.5)),
)


def test_a_batch_by_hand() -> None:
    """r_w = 3, −1, 1 and r_l = 2, 0, −2, sorted −1, 1, 3 and −2, 0, 2: each rank is 1 apart, where DPO's pairs are at 1, −1, 3."""
    reward = torch.tensor([[3.0, 2.0], [-1.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    error = (9 - reward).requires_grad_()  # β = 2: r = −Δ
    value = aot(outputs_of_errors(error, torch.full((3, 2), 9.0, dtype=torch.float64)), beta=2.0).value
    close(value, [math.log1p(math.exp(-1))] * 3)
    value.sum().backward()
    low = 1 / (1 + math.e)
    close(error.grad, [[low, -low]] * 3)


def test_the_lowest_rank_comes_first() -> None:
    """r_w = 5, 1 and r_l = 0, 0: rank 0 has margin 1, rank 1 margin 5."""
    error = torch.tensor([[4.0, 9.0], [8.0, 9.0]], dtype=torch.float64)
    value = aot(outputs_of_errors(error, torch.full((2, 2), 9.0, dtype=torch.float64)), beta=2.0).value
    close(value, [math.log1p(math.exp(-1)), math.log1p(math.exp(-5))])


def test_who_was_compared_with_whom_does_not_count() -> None:
    """Two distributions are compared: the losers of the batch may be dealt out anew."""
    outputs = random_outputs("aot")
    order = [3, 0, 4, 1, 2]
    dealt = {
        key: torch.stack([part[:, 0], part[order, 1]], 1)
        for key, part in (("policy", outputs.policy), ("target", outputs.target), ("reference", outputs.reference))
        if part is not None
    }
    close(aot(replace(outputs, **dealt), beta=BETA).value, aot(outputs, beta=BETA).value)
    assert not torch.allclose(diffusion_dpo(replace(outputs, **dealt), beta=BETA).value, diffusion_dpo(outputs, beta=BETA).value)


def test_sorting_is_the_cheapest_matching() -> None:
    """The link is convex in r_w − r_l, so the sorted matching has the smallest sum of all, below DPO's; of one group they are equal."""
    outputs = random_outputs("aot", groups=8)
    assert aot(outputs, beta=BETA).value.sum() < diffusion_dpo(outputs, beta=BETA).value.sum() - 0.01
    single = taken(outputs, slice(2, 3))
    close(aot(single, beta=BETA).value, diffusion_dpo(single, beta=BETA).value)
