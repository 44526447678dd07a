"""R-DPO (length): −log σ(m′), m′ = m + Σ_k a_k·(φ_k(w) − φ_k(l)), φ the last scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, random_outputs
from torch import Tensor
from toys import GAUSSIANS, gauss_hermite, minimise, tabular_optimum

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.modpo import modpo
from diffalign.objectives.rlength import rlength
from diffalign.tensors import Loss, Outputs

EXEMPT = {"value at reference": "the offset depends on the features"}


def naive(group: Group, *, beta: float, coefficients: tuple[float, ...]) -> float:
    margin = group.margin(beta)
    first = group.scores.shape[1] - len(coefficients)
    for k, coefficient in enumerate(coefficients):
        margin += coefficient * (group.scores[0, first + k] - group.scores[1, first + k])
    return math.log1p(math.exp(-margin))


# m = 1.5, Δφ = 3 at the default a = 0.1: 1.8; Δφ = (1, 3) at a = (−½, .1): 1.5 − .5 + .3 = 1.3; one feature and no other score at
# a = −1: 1.5 − 3 = −1.5; m = ½ at the default β = 5000: ½ + .3 = .8.
HAND = (
    Hand((0.3, 0.6), 0.152977610526074135, (0.5, 0.5), {"beta": 10.0}, {"scores": [[0.9, 5.0], [0.4, 2.0]]}),
    Hand(
        (0.3, 0.6), 0.241008453832992205, (0.5, 0.5), {"beta": 10.0, "coefficients": (-0.5, 0.1)},
        {"scores": [[0.9, 4.0, 5.0], [0.4, 3.0, 2.0]]},
    ),
    Hand((0.3, 0.6), 1.70141327798275241, (0.5, 0.5), {"beta": 10.0, "coefficients": (-1.0,)}, {"scores": [[5.0], [2.0]]}),
    Hand((0.4999, 0.5001), 0.371100665947777726, (0.5, 0.5), more={"scores": [[0.9, 5.0], [0.4, 2.0]]}),
)  # fmt: skip


def test_without_coefficients_it_is_dpo() -> None:
    outputs = random_outputs("rlength")
    expected = diffusion_dpo(outputs, beta=BETA).value
    close(rlength(outputs, beta=BETA, coefficients=(0.0,)).value, expected)
    assert outputs.scores is not None
    level = outputs.scores.clone()
    level[..., -1] = 0.7
    close(rlength(replace(outputs, scores=level), beta=BETA, coefficients=(5.0,)).value, expected)


def test_a_feature_is_the_last_score_however_many_stand_before_it() -> None:
    outputs = random_outputs("rlength")
    assert outputs.scores is not None
    alone, behind = outputs.scores[..., -1:], torch.cat([outputs.scores, outputs.scores, outputs.scores[..., -1:]], 2)
    expected, found = (rlength(replace(outputs, scores=each), beta=BETA, coefficients=(0.8,)).value for each in (alone, behind))
    close(found, expected)


def test_is_modpo_with_a_whole_first_weight() -> None:
    """w_0 = 1 and w_k = −a_k: a feature to be ignored is an objective of the opposite sign."""
    outputs = random_outputs("rlength")
    close(
        rlength(outputs, beta=BETA, coefficients=(0.8,)).value,
        modpo(outputs, beta=BETA, weights=(1.0, -0.8)).value,
    )


@pytest.mark.parametrize("coefficient", [0.4, -0.6])
def test_optimum_has_the_feature_taken_out_of_the_reward(coefficient) -> None:
    """π* ∝ π_ref·exp((R − a·φ)/β_LM) where the labels follow R, which the feature has crept into."""
    rewards = torch.tensor([0.3, -0.4, 0.9, 0.0], dtype=torch.float64)
    feature = torch.tensor([1.0, -0.5, 0.2, 0.7], dtype=torch.float64)
    logits = torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=torch.float64)
    scores = torch.stack([rewards, feature], 1)[torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j])]

    def objective(outputs: Outputs, *, beta: float) -> Loss:
        return rlength(replace(outputs, scores=scores), beta=beta, coefficients=(coefficient,))

    trained, _ = tabular_optimum(objective, rewards, logits, beta_lm=0.7, kappa=2.0)
    close(trained, (logits + (rewards - coefficient * feature) / 0.7).log_softmax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 1.8])
def test_rounds_on_own_samples_keep_the_feature_that_the_reward_raises(coefficient) -> None:
    """iLR-DPO, Liu et al. 2024, arXiv:2406.11817. Reward 0.9·x0 and feature ½·x0 of a Gaussian's own samples, which each round starts from:
    the mean moves by (0.9 − a/2)·s²/β_LM a round. Plain DPO (a = 0) drifts as the reward pulls; at a = 1.8 the feature stays."""
    model, beta_lm = GAUSSIANS[1], 0.6
    nodes, weights = gauss_hermite(24)
    weight = torch.cartesian_prod(weights, weights).prod(1)
    mean = model.mu_reference
    for _ in range(3):
        own = replace(model, mu_reference=mean)
        pairs = torch.cartesian_prod(*[mean + own.s * nodes] * 2)
        wins = weight * torch.sigmoid(0.9 * (pairs[:, 0] - pairs[:, 1]))
        mu = torch.tensor(mean, dtype=torch.float64, requires_grad=True)

        def loss(own=own, pairs=pairs, wins=wins, mu=mu) -> Tensor:
            outputs = replace(own.outputs(pairs, mu), scores=0.5 * pairs[:, :, None])
            return 2 * (wins * rlength(outputs, beta=2 * beta_lm * own.kappa, coefficients=(coefficient,)).value).sum()

        minimise(loss, mu)
        mean = mu.item()
    assert mean - model.mu_reference == pytest.approx(3 * (0.9 - 0.5 * coefficient) * model.s**2 / beta_lm, abs=1e-5)


def test_refuses_more_coefficients_than_scores() -> None:
    with pytest.raises(ValueError, match="coefficient"):
        rlength(random_outputs("rlength"), beta=BETA, coefficients=(0.1, 0.1, 0.1))


def test_missing_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="scores"):
        rlength(replace(random_outputs("rlength"), scores=None), beta=BETA)
