"""SimPO: −log σ(m), m = (β/2)(e_l − e_w) − γ, without reference."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from objective_checks import BETA, Group, Hand, close, outputs_of_errors, random_outputs

from diffalign.objectives.cpo import cpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.simpo import simpo

EXEMPT = {"margin flips": "γ is taken off in both orders"}


def naive(group: Group, *, beta: float, gamma: float) -> float:
    margin = beta / 2 * (group.error(1) - group.error(0)) - gamma
    return math.log1p(math.exp(-margin))


# m = 1.5 − ½ = 1, m = −1.5 − ½ = −2, m = 250·0.004 − ½ = ½ at the defaults, and m = 1.5 without γ.
HAND = (
    Hand((0.3, 0.6), 0.313261687518222834, arguments={"beta": 10.0}),
    Hand((0.6, 0.3), 2.1269280110429725, arguments={"beta": 10.0}),
    Hand((0.5, 0.504), 0.474076984180106681),
    Hand((0.3, 0.6), 0.201413277982752409, arguments={"beta": 10.0, "gamma": 0.0}),
)


def test_without_its_target_margin_it_is_cpo_without_sft() -> None:
    outputs = random_outputs("simpo")
    close(simpo(outputs, beta=BETA, gamma=0.0).value, cpo(outputs, beta=BETA, sft=0.0).value)


def test_equals_dpo_only_where_the_reference_is_even() -> None:
    outputs = random_outputs("simpo")
    value = simpo(outputs, beta=BETA, gamma=0.0).value
    even = replace(outputs, known_reference_error=torch.full((5, 2), 0.8, dtype=torch.float64))
    uneven = replace(outputs, known_reference_error=torch.tensor([0.8, 0.9], dtype=torch.float64).expand(5, 2))
    close(diffusion_dpo(even, beta=BETA).value, value)
    assert not torch.allclose(diffusion_dpo(uneven, beta=BETA).value, value)


def test_starts_with_the_bias_of_the_reference() -> None:
    """At the policy = reference m = (β/2)(e_ref,l − e_ref,w) − γ, not 0: a flat image, whose error is low, is ahead from the start."""
    reference = torch.tensor([[0.2, 0.6], [0.6, 0.2]], dtype=torch.float64)
    loss = simpo(outputs_of_errors(reference, reference), beta=10.0, gamma=0.3)
    assert loss.margin is not None
    close(loss.margin, [1.7, -2.3])


def test_pair_that_is_even_is_pulled_apart_by_more_than_a_half() -> None:
    """∂L/∂e_w = (β/2)·σ(−m) at m = −γ: σ(γ) > ½, so that γ is a margin to be passed."""
    error = torch.full((1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    simpo(outputs_of_errors(error), beta=2.0, gamma=2.0).value.sum().backward()
    sigmoid = 1 / (1 + math.exp(-2))
    close(error.grad, [[sigmoid, -sigmoid]])
