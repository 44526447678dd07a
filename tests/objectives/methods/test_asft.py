"""ASFT: (1 + λ)κe_w − λ·ln(1 − e^{−κe_l})."""

from __future__ import annotations

import math

import torch
from kappa_checks import check_relative_kappa
from objective_checks import Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.asft import asft

VARIANTS = ({"kappa": 0.7, "weight": 0.3},)
RUNNING = {"error": [0.2, 0.33, 0.28, 0.51], "seen": [0.25, 0.3, 0.2, 0.3]}
EXEMPT = {"value at reference": "it has no reference: it depends on the errors"}


def naive(group: Group, *, weight: float, kappa: float | None, decay: float) -> float:
    if kappa is None:
        seen = group.running["seen"][group.bucket] if "seen" in group.running else 0.0
        own = (group.frozen.error(0) + group.frozen.error(1)) / 2
        kappa = seen / group.running["error"][group.bucket] if seen else 1 / own
    winner, loser = kappa * group.error(0), max(kappa * group.error(1), 1e-4)
    return (1 + weight) * winner - weight * math.log(1 - math.exp(-loser))


def naive_tracked(group: Group, *, decay: float, **_: object) -> dict[str, list[float]]:
    total, seen = ([decay * float(value) for value in group.running.get(key, [0.0] * 4)] for key in ("error", "seen"))
    total[group.bucket] += (1 - decay) * (group.error(0) + group.error(1)) / 2
    seen[group.bucket] += 1 - decay
    return {"error": total, "seen": seen}


# κe = (ln 2, ln 2): 2·ln 2 − ln ½; (ln 3, ln 4) over their mean x where nothing is tracked
# yet: 2·ln 3/x − ln(1 − e^(−ln 4/x)); (ln 2, ln 3) by the third bucket's
# E = 0.1/0.2, λ = ½: 1.5·ln 2 − ½·ln ⅔; loser's κe below the clamp: 2·ln 2 − ln(1 − e^−0.0001).
HAND = (
    Hand((0.6931471805599453, 0.6931471805599453), 2.0794415416798359, arguments={"kappa": 1.0}),
    Hand((1.0986122886681098, 1.3862943611198906), 2.165450965590259),
    Hand(
        (0.34657359027997264, 0.5493061443340549), 1.2424533248940001, arguments={"weight": 0.5},
        more={"running": {"error": [9.0, 9.0, 0.1, 9.0], "seen": [1.0, 1.0, 0.2, 1.0]}, "fraction": 0.6},
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
    fraction, share = torch.tensor([0.1, 0.9], dtype=torch.float64), torch.full((4,), 0.2, dtype=torch.float64)
    small = asft(outputs_of_errors(error, fraction=fraction, running={"error": 0.2 * mean, "seen": share}))
    large = asft(outputs_of_errors(10 * error, fraction=fraction, running={"error": 2.0 * mean, "seen": share}))
    close(large.value, small.value)


def test_kappa_is_one_over_the_mean_of_the_errors_seen_in_a_bucket() -> None:
    check_relative_kappa(asft)
