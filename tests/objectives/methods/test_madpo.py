"""MADPO: −w(h)·log σ(m), h the winner's score over the loser's; w is high for h ≤ 0, falls to 1 at a threshold and on to low."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs
from toys import minimise

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.madpo import madpo
from diffalign.tensors import Outputs

VARIANTS = ({"threshold": 0.2, "low": 0.01, "rate": 2.0}, {"threshold": 0.3, "low": 0.95})
EXEMPT = {"value at reference": "w(h)·ln 2 depends on the scores"}


def naive(group: Group, *, beta: float, low: float, high: float, threshold: float, rate: float) -> float:
    gap = group.scores[0, 0] - group.scores[1, 0]
    if gap <= 0:
        weight = high
    elif gap < threshold:
        weight = high + (1 - high) * gap / threshold
    else:
        weight = max(low, math.exp(-rate * (gap - threshold)))
    return weight * math.log1p(math.exp(-group.margin(beta)))


def gap(*gaps: float) -> torch.Tensor:
    """Scores (B, 2, 1) with these gaps."""
    return torch.tensor([[[1 + each / 2], [1 - each / 2]] for each in gaps], dtype=torch.float64)


# m = 1.5, sp(−m) = 0.2014…: h = −1, w = 4; h = ½, w = 2.5; h = 2, w = 1/e; h = 5, w = ¼; h = ½ of a threshold 2 with high 3, w = 2.5
# (the second score is not read); h = 3 beyond it at a rate of 2: w = e^−2; m = ½ at the default β = 5000, h = ½: 2.5·sp(−½).
HAND = (
    Hand((0.3, 0.6), 0.80565311193100964, (0.5, 0.5), {"beta": 10.0}, {"scores": [[0.5], [1.5]]}),
    Hand((0.3, 0.6), 0.50353319495688102, (0.5, 0.5), {"beta": 10.0}, {"scores": [[1.5], [1.0]]}),
    Hand((0.3, 0.6), 0.07409580414880332, (0.5, 0.5), {"beta": 10.0}, {"scores": [[3.0], [1.0]]}),
    Hand((0.3, 0.6), 0.05035331949568810, (0.5, 0.5), {"beta": 10.0}, {"scores": [[6.0], [1.0]]}),
    Hand((0.3, 0.6), 0.50353319495688102, (0.5, 0.5), {"beta": 10.0, "high": 3.0, "threshold": 2.0}, {"scores": [[1.5, 0.0], [1.0, 9.0]]}),
    Hand(
        (0.3, 0.6), 0.0272583230234104043, (0.5, 0.5), {"beta": 10.0, "low": 0.01, "threshold": 2.0, "rate": 2.0},
        {"scores": [[3.5], [0.5]]},
    ),
    Hand((0.4999, 0.5001), 1.1851924604502667, (0.5, 0.5), more={"scores": [[1.5], [1.0]]}),
)  # fmt: skip


def test_without_weights_it_is_dpo() -> None:
    outputs = replace(random_outputs("madpo"), scores=gap(-1.0, 0.0, 0.4, 1.0, 7.0))
    close(madpo(outputs, beta=BETA, low=1.0, high=1.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_the_weight_is_continuous_and_falls() -> None:
    """At h = 0 and h = threshold its pieces meet, and so they do where e^{−rate(h − τ)} reaches low: at τ + ln 4."""
    meeting = torch.tensor([0.0, 1.0, 1.0 + math.log(4)], dtype=torch.float64)
    gaps = torch.cat([meeting - 1e-9, meeting + 1e-9])
    error = torch.full((6, 2), 0.5, dtype=torch.float64)
    value = madpo(outputs_of_errors(error, error, scores=gap(*gaps.tolist())), beta=BETA).value / math.log(2)
    close(value, [4.0, 1.0, 0.25] * 2, rtol=1e-7)


@pytest.mark.parametrize("h", [0.3, 0.9, 1.7])
def test_both_orders_of_a_pair_move_the_optimum(h) -> None:
    """A pair labelled σ(h) for index 0: m* = h + log(w(h)/w(−h)), below DPO's h, by the weights 4 − 3h or e^{1−h} against 4."""
    weight = 4 - 3 * h if h < 1 else math.exp(1 - h)
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def ordered(sign: int) -> Outputs:
        error = 20 + sign * torch.stack([-margin, margin], 1) / 2  # β = 2: m = −(Δ_w − Δ_l)
        return outputs_of_errors(error, torch.full_like(error, 20.0), scores=gap(sign * h))

    def loss() -> torch.Tensor:
        share = 1 / (1 + math.exp(-h))
        return (share * madpo(ordered(1), beta=2.0).value + (1 - share) * madpo(ordered(-1), beta=2.0).value).sum()

    minimise(loss, margin)
    close(margin, [h + math.log(weight / 4)], atol=1e-6)


def test_missing_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="scores"):
        madpo(replace(random_outputs("madpo"), scores=None), beta=BETA)
