"""MODPO: −log σ(m′), m′ = (m − Σ_{k≥1} w_k·ΔR_k)/w_0."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, random_outputs
from toys import tabular_optimum

from diffalign.objectives import build_objective
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.modpo import modpo
from diffalign.tensors import Loss, Outputs

VARIANTS = ({"cap": 1.5}, {"cap": 4.0})
EXEMPT = {"value at reference": "the offset depends on the scores"}


def naive(group: Group, *, beta: float, weights: tuple[float, ...], cap: float | None) -> float:
    margin = group.margin(beta)
    for k in range(1, len(weights)):
        margin -= weights[k] * (group.scores[0, k] - group.scores[1, k])
    scale = 1 / weights[0]
    return math.log1p(math.exp(-margin * (scale if cap is None or scale < cap else cap)))


# m = 1.5. ΔR = (1, ½) at the default (½, ½): (1.5 − .25)/½ = 2.5; at (.8, .3): (1.5 − .15)/.8 = 1.6875; ΔR = (1, ½, −¾) at (½, .2, .3):
# (1.5 − .1 + .225)/½ = 3.25; m = ½ at the default β = 5000, ΔR = (1, ¼): (.5 − .125)/½ = ¾. The first score, whose labels they are, is
# never read. Capped at 5: at (.1, .5) 5·(1.5 − .25) = 6.25, at (½, ½) still 2.5.
HAND = (
    Hand((0.3, 0.6), 0.0788897342925496233, (0.5, 0.5), {"beta": 10.0}, {"scores": [[2.0, 0.75], [1.0, 0.25]]}),
    Hand((0.3, 0.6), 0.169727078183150729, (0.5, 0.5), {"beta": 10.0, "weights": (0.8, 0.3)}, {"scores": [[0.0, 0.75], [9.0, 0.25]]}),
    Hand(
        (0.3, 0.6), 0.0380413716877831286, (0.5, 0.5), {"beta": 10.0, "weights": (0.5, 0.2, 0.3)},
        {"scores": [[2.0, 0.75, 0.25], [1.0, 0.25, 1.0]]},
    ),
    Hand(
        (0.3, 0.6), 0.00192859320421938, (0.5, 0.5), {"beta": 10.0, "weights": (0.1, 0.5), "cap": 5.0},
        {"scores": [[2.0, 0.75], [1.0, 0.25]]},
    ),
    Hand((0.3, 0.6), 0.0788897342925496233, (0.5, 0.5), {"beta": 10.0, "cap": 5.0}, {"scores": [[2.0, 0.75], [1.0, 0.25]]}),
    Hand((0.4999, 0.5001), 0.386871006114899944, (0.5, 0.5), more={"scores": [[2.0, 0.5], [1.0, 0.25]]}),
)  # fmt: skip


def test_with_one_objective_it_is_dpo() -> None:
    outputs = random_outputs("modpo")
    expected = diffusion_dpo(outputs, beta=BETA).value
    close(modpo(outputs, beta=BETA, weights=(1.0, 0.0)).value, expected)
    assert outputs.scores is not None
    close(modpo(replace(outputs, scores=outputs.scores[..., :1]), beta=BETA, weights=(1.0,)).value, expected)


@pytest.mark.parametrize(
    ("weights", "cap", "first"), [((0.6, 0.4), None, 0.6), ((0.9, 0.1), None, 0.9), ((0.3, 0.7), None, 0.3), ((0.05, 0.7), 2.0, 0.5)]
)
def test_optimum_is_that_of_the_weighted_reward(weights, cap, first) -> None:
    """π* ∝ π_ref·exp((w_0·R_0 + w_1·R_1)/β_LM), though the labels are those of R_0 alone; with a cap, w_0 is 1/cap at least."""
    rewards = torch.tensor([[0.3, -0.2], [-0.4, 0.8], [0.9, 0.1], [0.0, -0.5]], dtype=torch.float64)
    logits = torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=torch.float64)
    scores = rewards[torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j])]

    def objective(outputs: Outputs, *, beta: float) -> Loss:
        return modpo(replace(outputs, scores=scores), beta=beta, weights=weights, cap=cap)

    trained, _ = tabular_optimum(objective, rewards[:, 0], logits, beta_lm=0.7, kappa=2.0)
    combined = first * rewards[:, 0] + weights[1] * rewards[:, 1]
    close(trained, (logits + combined / 0.7).log_softmax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0,), (0.4, 0.3, 0.3)])
def test_refuses_weights_that_fit_no_score(weights) -> None:
    with pytest.raises(ValueError, match="weight"):
        modpo(random_outputs("modpo"), beta=BETA, weights=weights)


@pytest.mark.parametrize("weights", [(), (0.0, 1.0), (-0.5, 0.5)])
def test_refuses_a_first_weight_that_is_not_above_zero(weights) -> None:
    with pytest.raises(ValueError, match="the first above 0: the margin is divided by it"):
        build_objective("modpo", weights=weights)


@pytest.mark.parametrize("weights", [(0.01, 1.0), (0.6, -0.4)])
def test_takes_any_first_weight_above_zero(weights) -> None:
    """Whatever the others are: below 0 their reward is to fall."""
    outputs = random_outputs("modpo")
    close(build_objective("modpo", beta=BETA, weights=weights)(outputs).value, modpo(outputs, beta=BETA, weights=weights).value)


def test_missing_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="scores"):
        modpo(replace(random_outputs("modpo"), scores=None), beta=BETA)
