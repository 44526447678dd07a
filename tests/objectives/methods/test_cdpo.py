"""cDPO (label smoothing): −log σ(m) + ε·m."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs, swapped
from torch import Tensor
from toys import minimise

from diffalign.objectives.cdpo import cdpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.rdpo import rdpo


def naive(group: Group, *, beta: float, flip_rate: float) -> float:
    as_labelled = math.log1p(math.exp(-group.margin(beta)))
    as_flipped = math.log1p(math.exp(group.margin(beta)))
    return (1 - flip_rate) * as_labelled + flip_rate * as_flipped


# DPO's value and ε·m: 0.2014… + 0.1·1.5, 1.7014… − ¼·1.5, 0.4741… + 0.1·0.5.
HAND = (
    Hand((0.3, 0.6), 0.351413277982752409, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 1.32641327798275241, (0.5, 0.5), {"beta": 10.0, "flip_rate": 0.25}),
    Hand((0.4999, 0.5001), 0.524076984180106681, (0.5, 0.5)),
)


def test_without_flips_it_is_dpo() -> None:
    outputs = random_outputs("cdpo")
    assert torch.equal(cdpo(outputs, beta=BETA, flip_rate=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_is_dpo_averaged_over_the_flips() -> None:
    outputs = random_outputs("cdpo")
    right, wrong = (diffusion_dpo(each, beta=BETA).value for each in (outputs, swapped(outputs)))
    close(cdpo(outputs, beta=BETA, flip_rate=0.3).value, 0.7 * right + 0.3 * wrong)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_optimum_is_the_log_odds(rate) -> None:
    """m = log((1 − ε)/ε), finite although every pair has one label."""
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        error = torch.stack([50 - margin / 2, 50 + margin / 2], 1)
        return cdpo(outputs_of_errors(error, torch.full_like(error.detach(), 50.0)), beta=2.0, flip_rate=rate).value.sum()

    minimise(loss, margin)
    close(margin, [math.log((1 - rate) / rate)], rtol=0, atol=1e-6)


def test_pulls_fitted_pairs_back_where_rdpo_pulls_on() -> None:
    """At m = 8,000 ∂L/∂e_w = −(β/2)·ε: the terms in ε·m of the two have opposite signs."""
    reference = torch.full((1, 2), 100.0, dtype=torch.float64)
    for objective, gradient in ((cdpo, [[-1.25, 1.25]]), (rdpo, [[2.5, -2.5]])):
        error = torch.tensor([[100.0, 1700.0]], dtype=torch.float64, requires_grad=True)
        objective(outputs_of_errors(error, reference), beta=10.0, flip_rate=0.25).value.sum().backward()
        close(error.grad, gradient)
