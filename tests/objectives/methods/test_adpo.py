"""ADPO: −Σ_k q_k·log softmax_k(r), q = softmax(scores/temperature)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs
from torch import Tensor
from toys import minimise

from diffalign.objectives.adpo import adpo
from diffalign.objectives.cdpo import cdpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo


def naive(group: Group, *, beta: float, temperature: float) -> float:
    count = len(group.scores)
    wanted = [math.exp(float(group.scores[k, 0]) / temperature) for k in range(count)]
    given = [math.exp(group.reward(k, beta)) for k in range(count)]
    return -sum(wanted[k] / sum(wanted) * math.log(given[k] / sum(given)) for k in range(count))


# r = (1, 0, −½). Scores ¾, ½, ¼ at temperature ¼: q ∝ (e², e, 1), ln(e + 1 + e^−½) − (e² − ½)/(e² + e + 1); equal scores of a pair with
# r = (1, −½): ln(e + e^−½) − ¼; scores ¾, ¼ at the default temperature: q_w = σ(½/0.3), ln(e + e^−½) − q_w + ½(1 − q_w).
HAND = (
    Hand(
        (0.3, 0.5, 0.6), 0.844143114918313181, (0.5,) * 3, {"beta": 10.0, "temperature": 0.25},
        {"scores": [[0.75, 0.0], [0.5, 1.0], [0.25, 2.0]]},
    ),
    Hand((0.3, 0.6), 0.951413277982752409, (0.5, 0.5), {"beta": 10.0}, {"scores": [[0.5], [0.5]]}),
    Hand((0.3, 0.6), 0.439716935304125137, (0.5, 0.5), {"beta": 10.0}, {"scores": [[0.75], [0.25]]}),
)  # fmt: skip


def of_rewards(reward: Tensor, target: Tensor) -> Tensor:
    """Value (B,) at implicit rewards (B, K) and q = softmax(target)."""
    reference = torch.full_like(reward, 5.0)
    return adpo(outputs_of_errors(reference - reward, reference, scores=target[..., None]), beta=2.0, temperature=1.0).value


def pair_of_scores(winner: float, loser: float) -> Tensor:
    return torch.tensor([winner, loser], dtype=torch.float64).expand(5, 2)[..., None]


def test_a_certain_pair_is_dpo() -> None:
    """K = 2 and q = (1, 0), exactly: e^−1000 is 0."""
    outputs = replace(random_outputs("adpo", samples=2), scores=pair_of_scores(1.0, 0.0))
    close(adpo(outputs, beta=BETA, temperature=1e-3).value, diffusion_dpo(outputs, beta=BETA).value)


def test_an_uncertain_pair_is_cdpo() -> None:
    """q = (1 − ε, ε) from scores that lie log((1 − ε)/ε) temperatures apart."""
    outputs = replace(random_outputs("adpo", samples=2), scores=pair_of_scores(0.3 * math.log(4), 0.0))
    close(adpo(outputs, beta=BETA, temperature=0.3).value, cdpo(outputs, beta=BETA, flip_rate=0.2).value)


def test_value_at_the_reference_is_ln_k() -> None:
    for samples in (2, 4):
        outputs = random_outputs("adpo", samples=samples)
        assert outputs.reference is not None
        close(adpo(replace(outputs, policy=outputs.reference)).value, torch.full((5,), math.log(samples), dtype=torch.float64))


def test_equal_scores_are_stationary_at_the_reference() -> None:
    reward = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    of_rewards(reward, torch.full((1, 4), 0.7, dtype=torch.float64)).sum().backward()
    close(reward.grad, torch.zeros(1, 4, dtype=torch.float64), atol=1e-15)


def test_curvature_at_the_optimum() -> None:
    """At softmax(r) = q the second derivative in r is diag q − q·qᵀ."""
    target = torch.tensor([0.4, 0.1, -0.3], dtype=torch.float64)
    q = target.softmax(0)
    hessian = torch.autograd.functional.hessian(lambda reward: of_rewards(reward[None], target[None]).sum(), target)
    close(hessian, q.diag() - q.outer(q), atol=1e-10)


@pytest.mark.parametrize("tau", [0.5, 0.8, 2.0])
def test_tabular_optimum(tau) -> None:
    """r = log(π/π_ref)/τ, that is β_LM = 1/τ: π* ∝ π_ref·q^τ on a softmax over the list."""
    kappa, temperature = 2.0, 0.3
    rewards = torch.tensor([[0.3, -0.4, 0.9, 0.0]], dtype=torch.float64)
    reference = torch.tensor([[0.2, 0.5, -0.3, 0.1]], dtype=torch.float64).log_softmax(1)
    logits = reference.clone().requires_grad_()

    def loss() -> Tensor:
        error = 50 - (logits.log_softmax(1) - reference) / kappa
        outputs = outputs_of_errors(error, torch.full_like(error, 50.0), scores=rewards[..., None])
        return adpo(outputs, beta=2 * kappa / tau, temperature=temperature).value.sum()

    minimise(loss, logits)
    optimum = (reference + tau * (rewards / temperature).log_softmax(1)).log_softmax(1)
    close(logits.detach().log_softmax(1), optimum, rtol=0, atol=1e-6)
