"""f-DPO: −log σ(b·(h(u_w) − h(u_l))), u = r/b, h = f′ of a divergence."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, random_outputs
from torch import Tensor
from toys import tabular_optimum

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.fdpo import fdpo

VARIANTS = (
    {"divergence": "reverse_kl"},
    {"divergence": "forward_kl"},
    {"divergence": "alpha"},
    {"divergence": "alpha", "alpha": 0.3},
    {"divergence": "alpha", "alpha": 0.0},
    {"divergence": "alpha", "beta_lm": 0.05},  # some u are below the floor
)
EXEMPT = {"reference constant": "h is not linear"}
DIVERGENCES = ["reverse_kl", "forward_kl", "js", "alpha"]


def naive(group: Group, *, beta: float, divergence: str, beta_lm: float, alpha: float) -> float:
    def h(u: float) -> float:
        power = {"forward_kl": 1.0, "alpha": alpha}.get(divergence)
        if power:
            return h(-10.0) + math.exp(10 * power) * (u + 10) if u < -10 else (1 - math.exp(-power * u)) / power
        return -math.log1p(math.exp(-u)) if divergence == "js" else u

    winner, loser = (h(group.reward(k, beta) / beta_lm) for k in (0, 1))
    return math.log1p(math.exp(-beta_lm * (winner - loser)))


# r = (1, −½) and b = ½: u = (2, −1). JS ½(ln σ(2) − ln σ(−1)), forward KL ½(e − e^−2), α = ½: √e − 1/e, reverse KL 1.5; JS at b = 2,
# u = (½, −¼): 2(ln σ(½) − ln σ(−¼)). The value is ln(1 + e^−m).
HAND = (
    Hand((0.3, 0.6), 0.439914583009486354, (0.5, 0.5), {"beta": 10.0}),
    Hand((0.3, 0.6), 0.242840708562148949, (0.5, 0.5), {"beta": 10.0, "divergence": "forward_kl"}),
    Hand((0.3, 0.6), 0.245142462217024832, (0.5, 0.5), {"beta": 10.0, "divergence": "alpha"}),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0, "divergence": "reverse_kl"}),
    Hand((0.3, 0.6), 0.401951628461834949, (0.5, 0.5), {"beta": 10.0, "beta_lm": 2.0}),
)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_equals_the_loop(divergence) -> None:
    outputs = random_outputs("fdpo")
    settings = {"beta": BETA, "divergence": divergence, "beta_lm": 0.7, "alpha": 0.3}
    close(fdpo(outputs, **settings).value, [naive(group, **settings) for group in naive_groups(outputs)])


@pytest.mark.parametrize("beta_lm", [0.1, 0.5, 3.0])
def test_the_reverse_divergence_is_dpo(beta_lm) -> None:
    """h(u) = u, and b cancels: bit for bit."""
    outputs = random_outputs("fdpo")
    for settings in ({"divergence": "reverse_kl"}, {"divergence": "alpha", "alpha": 0.0}):
        assert torch.equal(fdpo(outputs, beta=BETA, beta_lm=beta_lm, **settings).value, diffusion_dpo(outputs, beta=BETA).value)


def test_alpha_goes_from_the_reverse_to_the_forward_divergence() -> None:
    """α → 0: (1 − e^(−αu))/α → u; α = 1: 1 − e^−u, forward KL's up to a constant."""
    outputs = random_outputs("fdpo")
    small, one = (fdpo(outputs, beta=BETA, divergence="alpha", alpha=alpha).value for alpha in (1e-7, 1.0))
    close(small, diffusion_dpo(outputs, beta=BETA).value, rtol=1e-5)
    close(one, fdpo(outputs, beta=BETA, divergence="forward_kl").value, rtol=1e-9)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tabular_optimum(divergence) -> None:
    """Where pairs follow Bradley–Terry, b·f′(π*/π_ref) − R is one constant for all samples: Wang et al. 2023, arXiv:2309.16240."""
    rewards, logits = torch.tensor([0.3, -0.4, 0.9, 0.0], dtype=torch.float64), torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=torch.float64)
    objective = partial(fdpo, divergence=divergence, beta_lm=0.7)
    trained, optimum = tabular_optimum(objective, rewards, logits, beta_lm=0.7, kappa=2.0)
    ratio = (trained - logits.log_softmax(0)).exp()
    slopes = {
        "reverse_kl": ratio.log(), "forward_kl": -1 / ratio, "js": (2 * ratio / (1 + ratio)).log(), "alpha": 2 * (1 - ratio**-0.5),
    }  # fmt: skip
    offset = 0.7 * slopes[divergence] - rewards
    close(offset - offset[0], torch.zeros(4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(trained, optimum, atol=1e-5) is (divergence == "reverse_kl")


def gradient(error: tuple[float, float], divergence: str) -> Tensor:
    """∂L/∂e at β = 2 and b = 1, u = e_ref − e, e_ref = 50."""
    errors = torch.tensor([error], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(errors, torch.full((1, 2), 50.0, dtype=torch.float64))
    fdpo(outputs, beta=2.0, divergence=divergence, beta_lm=1.0).value.sum().backward()
    assert errors.grad is not None
    return errors.grad[0]


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_pushes_harder_on_what_is_already_bad(divergence) -> None:
    """h′ falls with u: a loser of u = −2 is pushed up harder than a winner of u = 2 is pulled down, where DPO is even."""
    winner, loser = gradient((48.0, 52.0), divergence).tolist()
    assert 0 < 2 * winner < -loser


def test_the_pull_on_an_improving_winner_dies_with_js() -> None:
    """h ≤ 0: at u_w = 40 σ(−u) = e^−40 is all that is left, whatever the loser does."""
    winner, loser = gradient((10.0, 50.0), "js").tolist()
    assert 0 < winner < 1e-16 and loser < -0.1


@pytest.mark.parametrize("divergence", ["forward_kl", "alpha"])
def test_far_below_the_reference_it_goes_on_straight(divergence) -> None:
    """From u = −10 on with the slope e^(−αu) there: a winner far behind is pulled on as at −10, where e^1000 would be no number."""
    slope = math.exp(10.0 if divergence == "forward_kl" else 5.0)
    for loser in (61.0, 1050.0):  # u_l = −11 and −1000
        pulled = [gradient((loser + ahead, loser), divergence)[0].item() for ahead in (-0.001, 0.001)]
        expected = [slope * torch.sigmoid(torch.tensor(slope * ahead, dtype=torch.float64)).item() for ahead in (-0.001, 0.001)]
        assert pulled == pytest.approx(expected, rel=0.002)
    winner, loser = gradient((1050.0, 40.0), divergence).tolist()
    assert winner == pytest.approx(slope, rel=1e-9) and -1 < loser < 0
