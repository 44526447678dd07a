"""CaPO: mean over pairs of (w·(r_i − r_j) − (c_i − c_j))², c the calibrated reward, w = σ(bias − ln SNR)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, permuted, random_outputs
from torch import Tensor
from toys import minimise

from diffalign.objectives.capo import capo
from diffalign.objectives.ipo import ipo

VARIANTS = ({"bias": None}, {"bias": 0.5})
ARGUMENTS = {"bias": -1.0}  # w < 1 keeps the gaps of the sign check below those of the calibrated rewards, past which they are narrowed


def naive(group: Group, *, beta: float, bias: float | None) -> float:
    count, rewards = group.scores.shape
    weight = 1.0 if bias is None else 1 / (1 + math.exp(math.log(float(group.snr)) - bias))
    calibrated = []
    for i in range(count):
        wins = [1 / (1 + math.exp(group.scores[j, k] - group.scores[i, k])) for j in range(count) if j != i for k in range(rewards)]
        calibrated.append(sum(wins) / len(wins))
    squares = []
    for i in range(count):
        for j in range(i + 1, count):
            gap = group.reward(i, beta) - group.reward(j, beta)
            squares.append((weight * gap - (calibrated[i] - calibrated[j])) ** 2)
    return sum(squares) / len(squares)


# m = 1.5, c = σ(±½): (1.5 − tanh ¼)². r = (1, 0, −½), two rewards and w = 1/(1 + SNR) = ¼: c_0 − c_1 = (3σ(1) − 1.5)/4 = D, c_0 = c_2:
# ((¼ − D)² + (⅜)² + (⅛ + D)²)/3. m = −1.5 with w = σ(ln 3) = ¾: (−1.125 − tanh ¼)².
HAND = (
    Hand((0.3, 0.6), 1.57522916398249466, (0.5, 0.5), {"beta": 10.0}, {"scores": [[0.75], [0.25]]}),
    Hand(
        (0.3, 0.5, 0.6), 0.078496030536735667, (0.5,) * 3, {"beta": 10.0, "bias": 0.0},
        {"scores": [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], "snr": 3.0},
    ),
    Hand(
        (0.6, 0.3), 1.87667714160196758, (0.5, 0.5), {"beta": 10.0, "bias": 1.0986122886681098},
        {"scores": [[0.75], [0.25]], "snr": 1.0},
    ),
)  # fmt: skip


@pytest.mark.parametrize("bias", [None, -0.5, 2.0])
@pytest.mark.parametrize("samples", [2, 4])
def test_every_setting_equals_the_loop(bias, samples) -> None:
    """Also where the rewards disagree about the order."""
    outputs = random_outputs("capo", samples=samples)
    outputs = replace(outputs, scores=torch.randn(5, samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    close(capo(outputs, beta=BETA, bias=bias).value, [naive(group, beta=BETA, bias=bias) for group in naive_groups(outputs)])


def test_one_gap_for_all_pairs_is_ipo() -> None:
    """tanh(ΔR/2) = ½ at ΔR = ln 3: the target of every pair is IPO's."""
    scores = torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64).expand(5, 2, 1)
    outputs = replace(random_outputs("capo", samples=2), scores=scores)
    close(capo(outputs, beta=BETA).value, ipo(outputs, beta=BETA).value)


def test_a_list_is_the_mean_of_its_pairs_with_calibration_over_the_list() -> None:
    """Certain scores: c = 1, ⅔, ⅓, 0, and each pair (i, j) has the target (j − i)/3."""
    outputs = random_outputs("capo")
    outputs = replace(outputs, scores=torch.tensor([300.0, 200.0, 100.0, 0.0], dtype=torch.float64).expand(5, 4)[..., None])
    margins = {
        (i, j): -(BETA / 2) * (permuted(outputs, [i, j]).drift[:, 0] - permuted(outputs, [i, j]).drift[:, 1])
        for i, j in itertools.combinations(range(4), 2)
    }
    expected = torch.stack([(margin - (j - i) / 3) ** 2 for (i, j), margin in margins.items()]).mean(0)
    close(capo(outputs, beta=BETA).value, expected)


@pytest.mark.parametrize(("bias", "weight"), [(None, 1.0), (0.0, 0.25)])
def test_optimum(bias, weight) -> None:
    """w·(r_i − r_j) = c_i − c_j for all pairs at once: value 0. With SNR = 3 and bias 0, w = ¼."""
    error = torch.full((1, 3), 50.0, dtype=torch.float64, requires_grad=True)
    reference, scores = torch.full((1, 3), 50.0, dtype=torch.float64), torch.tensor([[[2.0], [1.0], [0.0]]], dtype=torch.float64)
    snr = torch.tensor([3.0], dtype=torch.float64)

    def loss() -> Tensor:
        return capo(outputs_of_errors(error, reference, scores=scores, snr=snr), beta=2.0, bias=bias).value.sum()

    minimise(loss, error)
    gap = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2 - 0.5  # c_0 − c_1 = c_1 − c_2, and c_1 = ½
    reward = (reference - error).detach()[0]
    close(weight * (reward[:2] - reward[1:]), [gap, gap], rtol=0, atol=1e-7)


def test_a_weight_of_the_timestep_needs_its_snr() -> None:
    with pytest.raises(ValueError, match="snr"):
        capo(replace(random_outputs("capo"), snr=None), bias=0.0)
