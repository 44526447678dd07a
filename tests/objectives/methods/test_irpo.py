"""IRPO: Σ_i w_i·softplus(logsumexp_{j≠i}(r_j − r_i)), w_i the discounted gain of the grade at place i."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, permuted, random_outputs
from torch import Tensor
from toys import minimise

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.irpo import irpo

EXEMPT = {"permutation": "a grade is discounted by its place in the list"}


def naive(group: Group, *, beta: float) -> float:
    total = 0.0
    for i in range(len(group.scores)):
        gain = (2 ** float(group.scores[i, 0]) - 1) / math.log2(2 + i)
        odds_against = sum(math.exp(group.reward(j, beta) - group.reward(i, beta)) for j in range(len(group.scores)) if j != i)
        total += gain * math.log1p(odds_against)
    return total


# r = (1, 0, −½). Grades 2, 1, 0: 3·ln(1 + e^−1 + e^−1.5) + ln(1 + e + e^−½)/log₂3; grades 1, 0 of a pair: DPO at m = 1.5;
# grades 0, 1, ½: ln(1 + e + e^−½)/log₂3 + (√2 − 1)/2·ln(1 + e^1.5 + e^½), and a second score is not read.
HAND = (
    Hand((0.3, 0.5, 0.6), 2.31702018841879492, (0.5,) * 3, {"beta": 10.0}, {"scores": [[2.0], [1.0], [0.0]]}),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0}, {"scores": [[1.0], [0.0]]}),
    Hand((0.3, 0.5, 0.6), 1.33074793203488894, (0.5,) * 3, {"beta": 10.0}, {"scores": [[0.0, 3.0], [1.0, 0.0], [0.5, 1.0]]}),
)


def graded(grades: list[float], samples: int) -> torch.Tensor:
    return torch.tensor(grades, dtype=torch.float64).expand(5, samples)[..., None]


def test_a_pair_of_which_one_is_clicked_is_dpo() -> None:
    outputs = random_outputs("irpo", samples=2)
    clicked = replace(outputs, scores=graded([1.0, 0.0], 2))
    close(irpo(clicked, beta=BETA).value, diffusion_dpo(outputs, beta=BETA).value)


def test_a_grade_below_0_is_refused() -> None:
    """Its weight would be below 0, and the loss would fall without end as its sample is pushed away."""
    with pytest.raises(ValueError, match=r"irpo got a score of -0\.5; grades are 0 or above: .*standardise_scores: false"):
        irpo(replace(random_outputs("irpo", samples=2), scores=graded([1.0, -0.5], 2)))


def test_no_grade_no_weight() -> None:
    error = torch.tensor([[0.3, 0.5, 0.6]], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(error, torch.full((1, 3), 0.5, dtype=torch.float64), scores=torch.zeros(1, 3, 1, dtype=torch.float64))
    value = irpo(outputs, beta=10.0).value
    value.sum().backward()
    assert error.grad is not None
    assert (value.tolist(), error.grad.tolist()) == ([0.0], [[0.0, 0.0, 0.0]])


def test_value_at_the_reference() -> None:
    """Σ w_i·ln K; grades (0, 0, 2, 0): w_3 = 3/log₂4 = 1.5."""
    outputs = random_outputs("irpo")
    assert outputs.reference is not None
    at_reference = replace(outputs, policy=outputs.reference, scores=graded([0.0, 0.0, 2.0, 0.0], 4))
    close(irpo(at_reference).value, torch.full((5,), 1.5 * math.log(4), dtype=torch.float64))


def test_a_click_weighs_less_further_down_the_list() -> None:
    """At the reference one click costs ln K/log₂(1 + i): half as much at place 3 as at place 1."""
    outputs = random_outputs("irpo")
    assert outputs.reference is not None
    first = replace(outputs, policy=outputs.reference, scores=graded([1.0, 0.0, 0.0, 0.0], 4))
    third = permuted(first, [1, 2, 0, 3])
    close(irpo(third).value, irpo(first).value / 2)


def test_optimum_is_the_share_of_weight() -> None:
    """Σ w_i·(−log softmax_i): softmax(r) = w/Σw. Grades 2, 1, 1: w = 3, 1/log₂3, ½."""
    error = torch.full((1, 3), 5.0, dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[[2.0], [1.0], [1.0]]], dtype=torch.float64)
    reference = torch.full((1, 3), 5.0, dtype=torch.float64)

    def loss() -> Tensor:
        return irpo(outputs_of_errors(error, reference, scores=scores), beta=2.0).value.sum()

    minimise(loss, error)
    weights = torch.tensor([[3.0, math.log(2) / math.log(3), 0.5]], dtype=torch.float64)
    close((reference - error).softmax(1), weights / weights.sum(), rtol=0, atol=1e-6)
