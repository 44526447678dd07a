"""SparsePO: −log σ(m) + l1·mean M, m = −(β/2)(mean M_w·s_w − mean M_l·s_l) + kl·(β/2)(mean M_w·δ_w² − mean M_l·δ_l²)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_checks import BETA, Group, Hand, close, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.sparsepo import sparsepo
from diffalign.tensors import Outputs

VARIANTS = ({"l1": 0.3, "kl": 0.5}, {"kl": 0.0})


def naive(group: Group, *, beta: float, kl: float, l1: float) -> float:
    mean = group.mask.sum() / group.mask.size
    margin = 0.0
    for sample, sign in ((0, 1), (1, -1)):
        policy, reference, target = group.policy[sample], group.reference[sample], group.target[sample]
        improvement = displacement = 0.0
        for place in np.ndindex(*policy.shape):
            weight = group.mask[sample][(0, *place[1:])] / mean
            improvement += weight * ((policy[place] - target[place]) ** 2 - (reference[place] - target[place]) ** 2) / policy.size
            displacement += weight * (policy[place] - reference[place]) ** 2 / policy.size
        margin += sign * (-(beta / 2) * improvement + kl * (beta / 2) * displacement)
    return math.log1p(math.exp(-margin)) + l1 * mean


# Masks of mean 2 and 1, over their joint mean: 4/3 and 2/3. Roots of the errors .3 and .7, of the reference's .5 and .4: Δ = (−.16, .33),
# d = (.04, .09). β = 6: m = −3(−.16·4/3 − .33·2/3) = 1.3, with kl = 1 less 3(.09·2/3 − .04·4/3) = .02; l1 = ½ adds ½ · 1.5. Even masks:
# with kl = 0 the m = 1.5 of diffusion_dpo, with kl = 1 TDPO-1's m = −β(mean⟨δ_w, q_w⟩ − mean⟨δ_l, q_l⟩) = 10·√.5·(√.6 − √.3);
# at the default β = 5000 of errors ∓1e-4 off ½, 5000·√.5·(√.5001 − √.4999) = 0.5000000025.
MASK = [[[1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0]]]
EVEN = [[[0.7] * 3]] * 2
HAND = (
    Hand((0.09, 0.49), 0.24100845383299221, (0.25, 0.16), {"beta": 6.0, "kl": 0.0}, {"mask": MASK}),
    Hand((0.09, 0.49), 0.99532554211251703, (0.25, 0.16), {"beta": 6.0, "l1": 0.5}, {"mask": MASK}),
    Hand((0.3, 0.6), 0.20141327798275241, (0.5, 0.5), {"beta": 10.0, "kl": 0.0}, {"mask": EVEN}),
    Hand((0.3, 0.6), 0.18318938088577339, (0.5, 0.5), {"beta": 10.0}, {"mask": EVEN}),
    Hand((0.4999, 0.5001), 0.474076983236254993, (0.5, 0.5), more={"mask": EVEN}),
)


def evenly_masked() -> Outputs:
    outputs = random_outputs("sparsepo")
    assert outputs.mask is not None
    return replace(outputs, mask=torch.full_like(outputs.mask, 0.3))


def test_an_even_mask_without_kl_is_dpo() -> None:
    outputs = evenly_masked()
    close(sparsepo(outputs, beta=BETA, kl=0.0).value, diffusion_dpo(outputs, beta=BETA).value)


def test_an_even_mask_with_kl_is_tdpo1() -> None:
    """m = −β(mean⟨δ_w, q_w − y⟩ − mean⟨δ_l, q_l − y⟩): linear in δ, so twice the displacement is twice the margin."""
    outputs = evenly_masked()
    assert outputs.reference is not None
    delta = outputs.policy - outputs.reference
    inner = (delta * (outputs.reference - outputs.target)).flatten(2).mean(2)
    margin = -BETA * (inner[:, 0] - inner[:, 1])
    for scale in (1, 2):
        value = sparsepo(replace(outputs, policy=outputs.reference + scale * delta), beta=BETA).value
        close(value, torch.nn.functional.softplus(-scale * margin))


def test_scaling_the_mask_changes_nothing() -> None:
    """(M, β) → (cM, β/c) is a gauge, fixed by mean M = 1: no value from a scaled mask, and none to be won by scaling it."""
    outputs = random_outputs("sparsepo")
    assert outputs.mask is not None
    mask = outputs.mask.clone().requires_grad_()
    value = sparsepo(replace(outputs, mask=mask), beta=BETA).value
    close(sparsepo(replace(outputs, mask=7 * outputs.mask), beta=BETA).value, value)
    value.sum().backward()
    assert mask.grad is not None
    assert mask.grad.abs().max() > 1e-4, "a learned mask needs a gradient"
    close((outputs.mask * mask.grad).flatten(1).sum(1), np.zeros(len(mask)))


def test_l1_pulls_the_raw_mask_down_evenly() -> None:
    """∂(l1·mean M)/∂M = l1/(2·positions), before the division by the mean."""
    outputs = random_outputs("sparsepo")
    gradients = []
    for l1 in (0.0, 0.6):
        assert outputs.mask is not None
        mask = outputs.mask.clone().requires_grad_()
        sparsepo(replace(outputs, mask=mask), beta=BETA, l1=l1).value.sum().backward()
        gradients.append(mask.grad)
    close(gradients[1] - gradients[0], np.full(gradients[0].shape, 0.6 / gradients[0][0].numel()))


def test_no_gradient_where_the_mask_is_zero() -> None:
    outputs = random_outputs("sparsepo")
    assert outputs.mask is not None
    policy, mask = outputs.policy.clone().requires_grad_(), outputs.mask.clone()
    mask[:, :, :, :3] = 0
    sparsepo(replace(outputs, policy=policy, mask=mask), beta=BETA).value.sum().backward()
    assert policy.grad is not None
    assert bool((policy.grad[:, :, :, :3] == 0).all()) and bool((policy.grad[:, :, :, 3:] != 0).all())


def test_a_mask_of_zeros_is_an_even_one() -> None:
    """Value and gradient of that pair, and of the others beside it: no NaN from a division by its mean."""
    outputs = random_outputs("sparsepo")
    assert outputs.mask is not None
    found = []
    for first in (0.0, 1.0):
        mask, policy = outputs.mask.clone(), outputs.policy.clone().requires_grad_()
        mask[0] = first
        mask.requires_grad_()
        value = sparsepo(replace(outputs, mask=mask, policy=policy), beta=BETA).value
        value.sum().backward()
        assert policy.grad is not None and mask.grad is not None and bool(torch.isfinite(mask.grad).all())
        found.append((value, policy.grad))
    (value, gradient), (even_value, even_gradient) = found
    close(value, even_value)
    close(gradient, even_gradient)


def test_a_missing_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="mask"):
        sparsepo(replace(random_outputs("sparsepo"), mask=None), beta=BETA)
