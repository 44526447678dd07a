"""rDPO (robust): [(1 − ε)·(−log σ(m)) + ε·log σ(−m)]/(1 − 2ε)."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from objective_checks import BETA, Group, Hand, Objective, close, outputs_of_errors, random_outputs, swapped
from toys import tabular_optimum

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.rdpo import rdpo
from diffalign.tensors import Loss, Outputs


def naive(group: Group, *, beta: float, flip_rate: float) -> float:
    as_labelled = math.log1p(math.exp(-group.margin(beta)))
    as_flipped = math.log1p(math.exp(group.margin(beta)))
    return ((1 - flip_rate) * as_labelled - flip_rate * as_flipped) / (1 - 2 * flip_rate)


# DPO's value less ε/(1 − 2ε)·m: 0.2014… − 0.125·1.5 at ε = 0.1, 1.7014… + 0.5·1.5 at ε = ¼, 0.4741… − 0.125·0.5.
HAND = (
    Hand((0.3, 0.6), 0.0139132779827524095, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.6, 0.3), 2.45141327798275241, (0.5, 0.5), {"beta": 10.0, "flip_rate": 0.25}),
    Hand((0.4999, 0.5001), 0.411576984180106681, (0.5, 0.5)),
)


def with_flipped_labels(objective: Objective, rate: float) -> Objective:
    """What the objective costs on average where a share of the pairs has its label turned."""

    def average(outputs: Outputs, *, beta: float) -> Loss:
        right, wrong = (objective(each, beta=beta).value for each in (outputs, swapped(outputs)))
        return Loss((1 - rate) * right + rate * wrong)

    return average


def test_without_flips_it_is_dpo() -> None:
    outputs = random_outputs("rdpo")
    assert torch.equal(rdpo(outputs, beta=BETA, flip_rate=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.45])
def test_is_unbiased_under_flips(rate) -> None:
    """(1 − ε)L(m) + εL(−m) = −log σ(m)."""
    outputs = random_outputs("rdpo")
    average = with_flipped_labels(partial(rdpo, flip_rate=rate), rate)(outputs, beta=BETA)
    close(average.value, diffusion_dpo(outputs, beta=BETA).value)


def test_recovers_the_clean_optimum_from_flipped_labels() -> None:
    """With 20 % of the labels turned DPO ends elsewhere: its log-odds are those of the noisy labels."""
    rewards, logits = torch.tensor([0.3, -0.4, 0.9, 0.0], dtype=torch.float64), torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=torch.float64)
    distance = {}
    for objective in (partial(rdpo, flip_rate=0.2), diffusion_dpo):
        trained, clean = tabular_optimum(with_flipped_labels(objective, 0.2), rewards, logits, beta_lm=0.7, kappa=2.0)
        distance[objective] = (trained - clean).abs().max().item()
    robust, plain = distance.values()
    assert robust < 1e-6 and plain > 0.1


def test_keeps_pulling_on_fitted_pairs() -> None:
    """Unbounded below: at m = 8,000 ∂L/∂e = ±(β/2)·ε/(1 − 2ε), where DPO's is 0."""
    error = torch.tensor([[100.0, 1700.0]], dtype=torch.float64, requires_grad=True)
    rdpo(outputs_of_errors(error, torch.full((1, 2), 100.0, dtype=torch.float64)), beta=10.0, flip_rate=0.25).value.sum().backward()
    close(error.grad, [[2.5, -2.5]])
