"""ASFT: (1 + λ)κe_w − λ·ln(1 − e^{−κe_l})."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from objective_checks import Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.asft import asft

VARIANTS = ({"kappa": 0.7, "weight": 0.3},)
RUNNING = {"error": [0.8, 1.1, 1.4, 1.7]}
EXEMPT = {"value at reference": "it has no reference: it depends on the errors"}


def naive(group: Group, *, weight: float, kappa: float | None, decay: float) -> float:
    if kappa is None:
        kappa = 1 / group.running["error"][group.bucket] if "error" in group.running else 1.0
    winner, loser = kappa * group.error(0), max(kappa * group.error(1), 1e-4)
    return (1 + weight) * winner - weight * math.log(1 - math.exp(-loser))


def naive_tracked(group: Group, *, decay: float, **_: object) -> dict[str, list[float]]:
    errors = [float(value) for value in group.running.get("error", [1.0] * 4)]
    mean = (group.error(0) + group.error(1)) / 2
    errors[group.bucket] += 4 * (1 - decay) * (mean - errors[group.bucket])
    return {"error": errors}


# κe = (ln 2, ln 2): 2·ln 2 − ln ½; (ln 3, ln 4) with κ = 1 where nothing is tracked yet: 2·ln 3 − ln ¾; (ln 2, ln 3) by the third
# bucket's E = ½, λ = ½: 1.5·ln 2 − ½·ln ⅔; loser's κe below the clamp: 2·ln 2 − ln(1 − e^−0.0001).
HAND = (
    Hand((0.6931471805599453, 0.6931471805599453), 2.0794415416798359, arguments={"kappa": 1.0}),
    Hand((1.0986122886681098, 1.3862943611198906), 2.4849066497880003),
    Hand(
        (0.34657359027997264, 0.5493061443340549), 1.2424533248940001, arguments={"weight": 0.5},
        more={"running": {"error": [9.0, 9.0, 0.5, 9.0]}, "fraction": 0.6},
    ),
    Hand((0.6931471805599453, 1e-9), 10.596684732679407, arguments={"kappa": 1.0}),
)  # fmt: skip


def test_without_its_weight_it_is_sft_scaled() -> None:
    outputs = random_outputs("asft")
    close(asft(outputs, weight=0.0, kappa=0.4).value, 0.4 * outputs.error[:, 0])


def test_is_the_sum_of_sft_and_both_log_odds() -> None:
    """κe_w − λ·log σ(o_w) − λ·log σ(−o_l), with −log σ(o_w) = κe_w."""
    outputs = random_outputs("asft")
    kappa, weight = 0.7, 0.6
    odds = -torch.log(torch.expm1(kappa * outputs.error))
    terms = torch.nn.functional.softplus(odds * torch.tensor([-1.0, 1.0], dtype=torch.float64))
    close(asft(outputs, weight=weight, kappa=kappa).value, kappa * outputs.error[:, 0] + weight * terms.sum(1))


def test_lets_go_of_a_lost_loser() -> None:
    """∂L/∂e_l = −λκ/(e^{κe_l} − 1): by itself it vanishes as e_l grows, whatever the winner does."""
    error = torch.tensor([[0.5, 0.1], [0.5, 1.0], [5.0, 1.0], [0.5, 50.0]], dtype=torch.float64, requires_grad=True)
    asft(outputs_of_errors(error), weight=0.6, kappa=2.0).value.sum().backward()
    assert error.grad is not None
    close(error.grad[:, 0], [3.2] * 4)
    close(error.grad[:, 1], [-1.2 / math.expm1(0.2), -1.2 / math.expm1(2), -1.2 / math.expm1(2), -1.2 / math.expm1(100)])


def test_relative_kappa_has_no_unit() -> None:
    """Errors ten times as large beside a mean error ten times as large: the same value."""
    error = torch.tensor([[0.3, 0.8], [1.2, 0.4]], dtype=torch.float64)
    mean = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    fraction = torch.tensor([0.1, 0.9], dtype=torch.float64)
    small = asft(outputs_of_errors(error, fraction=fraction, running={"error": mean}))
    large = asft(outputs_of_errors(10 * error, fraction=fraction, running={"error": 10 * mean}))
    close(large.value, small.value)


def test_tracks_the_error_of_each_bucket() -> None:
    """Timesteps spread over all buckets: the mean over the batch is decay·E + (1 − decay)·mean error, bucket by bucket."""
    error = torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 1.0], [5.0, 1.0]], dtype=torch.float64)
    fraction = torch.tensor([0.3, 0.8, 0.0, 0.5], dtype=torch.float64)
    before = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    outputs = outputs_of_errors(error, fraction=fraction, running={"error": before})
    tracked = asft(outputs, decay=0.8).tracked["error"]
    assert tracked.shape == (4, 4)
    close(tracked[2], [1.0 + 0.8 * (0.5 - 1.0), 2.0, 3.0, 4.0])
    close(tracked.mean(0), [0.8 * 1 + 0.2 * 0.5, 0.8 * 2 + 0.2 * 2.0, 0.8 * 3 + 0.2 * 3.0, 0.8 * 4 + 0.2 * 2.0])
    close(asft(replace(outputs, running={})).tracked["error"][2], [1 + 0.4 * (0.5 - 1), 1.0, 1.0, 1.0])
