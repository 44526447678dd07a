"""LD-DPO: −log σ(r_w − r_l), r = −(β/2)·Σ_{f<len} a_f·Δ[f]/F₀, a_f = 1 while both samples last and α beyond."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_error, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.ldpo import ldpo
from diffalign.tensors import Outputs

EXEMPT = {"any shape": "the first axis is time, along which lengths are counted"}


def naive(group: Group, *, beta: float, alpha: float, nominal: float | None) -> float:
    steps = group.policy.shape[2]
    lengths = [steps, steps] if group.lengths is None else [int(each) for each in group.lengths]
    rewards = []
    for sample in (0, 1):
        total = 0.0
        for f in range(lengths[sample]):
            policy, reference, target = (each[sample][:, f] for each in (group.policy, group.reference, group.target))
            drift = naive_error(policy, target) - naive_error(reference, target)
            total += drift if f < min(lengths) else alpha * drift
        longest = steps if group.longest is None else group.longest
        rewards.append(-(beta / 2) * total / (longest if nominal is None else nominal))
    return math.log1p(math.exp(-(rewards[0] - rewards[1])))


# Δ[f] = (−.2, .1) at each of 3 steps, β = 12. Lengths (3, 2): r = −2(−.2·2.5) = 1, −2(.1·2) = −.4, m = 1.4; lengths (1, 3), α = ¼ and
# F₀ = 2: r = −3(−.2) = .6, −3(.1·1.5) = −.45, m = 1.05; all full: m = −6(−.3) = 1.8; (1, 3) with α = 0, F₀ = 3: −2(−.2) + 2(.1) = .6;
# Δ = ∓1e-4 at the default β = 5000, (3, 2): ¼·2.5/3 + ¼·2/3 = .375; all full at 3 in a set whose longest has 6: half of 1.8.
HAND = (
    Hand((0.3, 0.6), 0.220417409918450927, (0.5, 0.5), {"beta": 12.0}, {"lengths": [3, 2]}),
    Hand((0.3, 0.6), 0.300058479617643201, (0.5, 0.5), {"beta": 12.0, "alpha": 0.25, "nominal": 2}, {"lengths": [1, 3]}),
    Hand((0.3, 0.6), 0.152977610526074135, (0.5, 0.5), {"beta": 12.0}),
    Hand((0.3, 0.6), 0.437487950485885626, (0.5, 0.5), {"beta": 12.0, "alpha": 0.0}, {"lengths": [1, 3]}),
    Hand((0.4999, 0.5001), 0.523123264139840044, (0.5, 0.5), more={"lengths": [3, 2]}),
    Hand((0.3, 0.6), 0.341153874732087889, (0.5, 0.5), {"beta": 12.0}, {"longest": 6}),
)


def clips(lengths: tuple[int, int], *, groups: int = 5) -> Outputs:
    """Random clips of 6 steps, all of these lengths."""
    outputs = random_outputs("ldpo", (4, 6, 5), groups=groups)
    return replace(outputs, lengths=torch.tensor([lengths] * groups), longest=None)


def test_full_clips_are_dpo() -> None:
    """Whatever α: there is no step that one of them lacks."""
    expected = diffusion_dpo(clips((6, 6)), beta=BETA).value
    for alpha in (0.0, 0.5, 1.0):
        close(ldpo(clips((6, 6)), beta=BETA, alpha=alpha).value, expected)
        close(ldpo(replace(clips((6, 6)), lengths=None), beta=BETA, alpha=alpha).value, expected)


def test_equal_lengths_leave_alpha_without_effect() -> None:
    """And both are DPO on the clips cut to 4 steps, its margin scaled by 4/6."""
    outputs = clips((4, 4))
    cut = {key: part[:, :, :, :4] for key, part in (("policy", outputs.policy), ("target", outputs.target))}
    assert outputs.reference is not None
    expected = diffusion_dpo(replace(outputs, **cut, reference=outputs.reference[:, :, :, :4]), beta=BETA * 4 / 6).value
    for alpha in (0.0, 0.5, 1.0):
        close(ldpo(outputs, beta=BETA, alpha=alpha).value, expected)


def test_alpha_one_is_dpo_on_sums() -> None:
    """Each clip by all of its own steps: a longer one has the larger reward, which α < 1 takes back."""
    outputs = clips((6, 3))
    assert outputs.reference is not None
    policy, reference = ((each - outputs.target).square().mean((2, 4)) for each in (outputs.policy, outputs.reference))
    drift = policy - reference
    margin = -BETA / 2 * (drift[:, 0].sum(1) - drift[:, 1, :3].sum(1))
    close(ldpo(outputs, beta=BETA, alpha=1.0, nominal=1).value, torch.nn.functional.softplus(-margin))


def test_gradient_by_step() -> None:
    """Per step beyond the shorter clip α of that within, at equal errors, and none in the padding."""
    outputs = clips((5, 2), groups=1)
    policy = torch.ones_like(outputs.policy).requires_grad_()
    moved = replace(outputs, policy=policy, target=torch.zeros_like(policy))
    ldpo(moved, beta=BETA, alpha=0.3).value.sum().backward()
    assert policy.grad is not None
    share = policy.grad[0, :, 0, :, 0] / policy.grad[0, 0, 0, 0, 0]
    close(share, [[1.0, 1.0, 0.3, 0.3, 0.3, 0.0], [-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]])


def test_padding_is_not_read() -> None:
    outputs = clips((5, 2))
    padded = outputs.policy.clone()
    padded[:, 0, :, 5:] = 1e6
    padded[:, 1, :, 2:] = -1e6
    close(ldpo(replace(outputs, policy=padded), beta=BETA).value, ldpo(outputs, beta=BETA).value)


@pytest.mark.parametrize("nominal", [3, 12])
def test_nominal_length_scales_the_margin(nominal) -> None:
    """Given, or the longest of the set, each group's own tensors of which may be shorter."""
    outputs = clips((5, 2))
    expected = ldpo(outputs, beta=BETA * 6 / nominal).value
    of_set = replace(outputs, longest=torch.full((5,), nominal))
    close(ldpo(outputs, beta=BETA, nominal=nominal).value, expected)
    close(ldpo(of_set, beta=BETA).value, expected)
    close(ldpo(of_set, beta=BETA, nominal=6).value, ldpo(outputs, beta=BETA).value)
