"""ORPO: κe_w + λ·sp(−(o_w − o_l)), o = −ln(e^{κe} − 1)."""

from __future__ import annotations

import math

import torch
from kappa_checks import check_relative_kappa
from objective_checks import Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.asft import asft
from diffalign.objectives.orpo import orpo

VARIANTS = ({"kappa": 0.7}, {"kappa": 100.0, "weight": 0.01})  # the second beyond where exp(κe) is formed
RUNNING = {"error": [0.2, 0.33, 0.28, 0.51], "seen": [0.25, 0.3, 0.2, 0.3]}
EXEMPT = {"value at reference": "it has no reference: it depends on the errors"}


def naive(group: Group, *, weight: float, kappa: float | None, decay: float) -> float:
    if kappa is None:
        seen = group.running["seen"][group.bucket] if "seen" in group.running else 0.0
        own = (group.frozen.error(0) + group.frozen.error(1)) / 2
        kappa = seen / group.running["error"][group.bucket] if seen else 1 / own
    odds = [-math.log(math.expm1(max(kappa * group.error(sample), 1e-4))) for sample in (0, 1)]
    return kappa * group.error(0) + weight * math.log1p(math.exp(-(odds[0] - odds[1])))


def naive_tracked(group: Group, *, decay: float, **_: object) -> dict[str, list[float]]:
    total, seen = ([decay * float(value) for value in group.running.get(key, [0.0] * 4)] for key in ("error", "seen"))
    total[group.bucket] += (1 - decay) * (group.error(0) + group.error(1)) / 2
    seen[group.bucket] += 1 - decay
    return {"error": total, "seen": seen}


# κe = (ln 2, ln 3): odds 1 and ½, log-odds 0 and −ln 2, ln 2 + ln(1 + ½) = ln 3; exchanged, and over their mean x where nothing
# is tracked yet: ln 3/x + ln(1 + (3^(1/x) − 1)/(2^(1/x) − 1)); the same κe by the third bucket's E = 0.1/0.2, λ = ½: ln 2 + ½·ln 1.5;
# loser's κe below the clamp x = 1e-4: log-odds 0 and −ln(e^x − 1), ln 2 − ln(1 − e^−x); winner's below: 1e-9 + ln(1 + (e^x − 1)·1) =
# 1e-9 + x.
HAND = (
    Hand((0.6931471805599453, 1.0986122886681098), 1.0986122886681098, arguments={"kappa": 1.0}),
    Hand((1.0986122886681098, 0.6931471805599453), 2.345531551758328),
    Hand(
        (0.34657359027997264, 0.5493061443340549), 0.8958797346140275, arguments={"weight": 0.5},
        more={"running": {"error": [9.0, 9.0, 0.1, 9.0], "seen": [1.0, 1.0, 0.2, 1.0]}, "fraction": 0.6},
    ),
    Hand((0.6931471805599453, 1e-9), 9.903537552119461, arguments={"kappa": 1.0}),
    Hand((1e-9, 0.6931471805599453), 1.00001e-4, arguments={"kappa": 1.0}),
)  # fmt: skip


def test_without_its_weight_it_is_sft_scaled() -> None:
    outputs = random_outputs("orpo")
    close(orpo(outputs, weight=0.0, kappa=0.4).value, 0.4 * outputs.error[:, 0])


def test_its_ratio_is_below_the_two_terms_of_asft() -> None:
    """sp(−(o_w − o_l)) < sp(−o_w) + sp(o_l), because 1 + ab < (1 + a)(1 + b)."""
    outputs = random_outputs("orpo")
    assert bool((orpo(outputs, kappa=0.7).value < asft(outputs, kappa=0.7).value).all())


def test_relative_kappa_has_no_unit() -> None:
    """Errors ten times as large beside a mean error ten times as large: the same value."""
    error = torch.tensor([[0.3, 0.8], [1.2, 0.4]], dtype=torch.float64)
    mean = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    fraction, share = torch.tensor([0.1, 0.9], dtype=torch.float64), torch.full((4,), 0.2, dtype=torch.float64)
    small = orpo(outputs_of_errors(error, fraction=fraction, running={"error": 0.2 * mean, "seen": share}))
    large = orpo(outputs_of_errors(10 * error, fraction=fraction, running={"error": 2.0 * mean, "seen": share}))
    close(large.value, small.value)


def test_kappa_is_one_over_the_mean_of_the_errors_seen_in_a_bucket() -> None:
    check_relative_kappa(orpo)


def test_large_errors_do_not_overflow_in_float32() -> None:
    """e^{κe} − 1 passes float32 at κe = 89, where o is −κe to the last digit."""
    error = torch.tensor([[200.0, 0.5], [0.5, 200.0]], requires_grad=True)
    value = orpo(outputs_of_errors(error), kappa=1.0).value
    value.sum().backward()
    close(value, [400 - math.log(math.expm1(0.5)), 0.5], rtol=1e-6)
    assert error.grad is not None
    close(error.grad[0], [2.0, -1 / -math.expm1(-0.5)], rtol=1e-5)
