"""Where training ends, method by method, on models whose right answer is known; Diffusion-DPO's own stand in test_toys."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import pytest
import torch
from objective_checks import Objective, close, outputs_of_errors
from torch import Tensor
from toys import GAUSSIANS, gauss_hermite, minimise, tabular_optimum

from diffalign.objectives import objective_function
from diffalign.objectives.asft import asft
from diffalign.objectives.bco import bco
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.diffusion_kto import diffusion_kto
from diffalign.objectives.ipo import ipo
from diffalign.objectives.nca import nca
from diffalign.objectives.rankdpo import rankdpo
from diffalign.objectives.rdpo import rdpo
from diffalign.objectives.rpo import rpo
from diffalign.stabilisers.kl_correction import kl_correction
from diffalign.tensors import Loss, Outputs

FLOAT = torch.float64
LOGITS = torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=FLOAT)
REWARDS = torch.tensor([0.3, -0.4, 0.9, 0.0], dtype=FLOAT)
WON = torch.sigmoid(REWARDS[:, None] - REWARDS[None]).fill_diagonal_(0).sum(1) / 3  # share of its pairs that each wins
PAIRS = torch.tensor(list(permutations(range(4), 2)))  # in both orders, by how often the first is preferred
HOW_OFTEN = torch.sigmoid(REWARDS[PAIRS[:, 0]] - REWARDS[PAIRS[:, 1]])
GAP = 0.8  # of two samples: the first is preferred in σ(0.8) of their comparisons
PREFERRED = 1 / (1 + math.exp(-GAP))
BETA_LM, KAPPA = 0.7, 2.0


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def simpo_margin(gamma: float) -> float:
    """P·σ(γ − m) = (1 − P)·σ(m + γ), solved for e^m."""
    lead = (2 * PREFERRED - 1) * math.exp(gamma)
    return math.log((lead + math.sqrt(lead**2 + 4 * PREFERRED * (1 - PREFERRED))) / (2 * (1 - PREFERRED)))


# Two samples, judged in both orders. Name → arguments, scores of the preferred and the other, and the margin that training ends at.
MARGINS: list[tuple[str, dict[str, Any], tuple[float, float], float]] = [
    ("cdpo", {"flip_rate": 0.1}, (1, 0), logit(0.9 * PREFERRED + 0.1 * (1 - PREFERRED))),  # the label as it would be smoothed
    ("rdpo", {"flip_rate": 0.1}, (1, 0), logit((PREFERRED - 0.1) / 0.8)),  # that as if a tenth of it were flips
    ("ipo", {}, (1, 0), PREFERRED - 0.5),
    ("dmpo", {"alpha": 0.1}, (1, 0), (2 * PREFERRED - 1) * math.log(9)),  # P·f(m) + (1 − P)·f(−m), f′ = σ′·(m − ln 9)
    ("simpo", {"gamma": 0.0}, (1, 0), GAP),
    ("simpo", {"gamma": 0.5}, (1, 0), simpo_margin(0.5)),
    ("cpo", {"sft": 0.0}, (1, 0), GAP),
    ("smpo", {"gamma": 2.0, "low": 0.0, "high": 1.0}, (1, 0), GAP / (2 * math.tanh(0.5))),  # p = σ(1), 2p − 1 = tanh ½
    # Whoever is preferred has 1 more of the second score, or of the feature: SimPO's margin with a target of what that is worth.
    ("modpo", {"weights": (0.6, 0.4)}, (1, 0), 0.6 * simpo_margin(0.4 / 0.6)),
    ("rlength", {"coefficients": (0.3,)}, (1, 0), simpo_margin(-0.3)),
    # Weights of a pair that are alike in both orders change how fast it is learnt, and not what.
    ("rankdpo", {}, (1, 0), GAP),
    ("irpo", {}, (1, 0), GAP),
    ("beta_dpo", {"adapt": 0.0, "filter": 0.0, "minimum": 0.0}, (1, 0), GAP),
]


@pytest.mark.parametrize(("name", "arguments", "scores", "margin"), MARGINS)
def test_margin_of_two_samples_judged_in_both_orders(name, arguments, scores, margin) -> None:
    def objective(outputs: Outputs, *, beta: float) -> Loss:
        of_both = torch.tensor(scores, dtype=FLOAT).expand(2, 2)[..., None]
        count = len(arguments.get("weights", (1,)))
        return objective_function(name)(replace(outputs, scores=of_both.expand(2, 2, count)), beta=beta, **arguments)

    trained, _ = tabular_optimum(objective, torch.tensor([GAP, 0.0], dtype=FLOAT), LOGITS[:2], beta_lm=BETA_LM, kappa=KAPPA)
    learnt = (trained - LOGITS[:2].log_softmax(0)) * BETA_LM
    assert (learnt[0] - learnt[1]).item() == pytest.approx(margin, abs=1e-6)


def test_rpo_ends_between_the_label_and_the_winners() -> None:
    """σ(m) + a·π(first) = (1 + a)·P: at a = 0 Diffusion-DPO's margin, at large a the winners' shares."""
    for sft in (0.4, 3.0):
        trained, _ = tabular_optimum(partial(rpo, sft=sft), torch.tensor([GAP, 0.0], dtype=FLOAT), LOGITS[:2], beta_lm=BETA_LM, kappa=KAPPA)
        learnt = (trained - LOGITS[:2].log_softmax(0)) * BETA_LM
        implied = torch.sigmoid(learnt[0] - learnt[1]).item()
        assert implied + sft * trained[0].exp().item() == pytest.approx((1 + sft) * PREFERRED, abs=1e-6)


def test_ipo_ends_at_the_mean_share_of_wins() -> None:
    """Least squares over all pairs: β_LM·log π/π_ref = mean over all samples j, itself too, of P(i ≻ j) − ½, and a constant."""
    trained, _ = tabular_optimum(ipo, REWARDS, LOGITS, beta_lm=BETA_LM, kappa=KAPPA)
    lead = torch.sigmoid(REWARDS[:, None] - REWARDS[None]).mean(1) - 0.5
    close(trained, (LOGITS + lead / BETA_LM).log_softmax(0), rtol=0, atol=1e-6)


def test_sft_ends_at_the_winners_shares() -> None:
    def objective(outputs: Outputs, *, beta: float) -> Loss:
        return objective_function("sft")(outputs)

    trained, _ = tabular_optimum(objective, REWARDS, LOGITS, beta_lm=BETA_LM, kappa=KAPPA)
    close(trained, (WON / WON.sum()).log(), rtol=0, atol=1e-6)


def trained_rewards(objective: Callable[[Outputs], Loss], **more: Any) -> Tensor:
    """Implicit rewards (4,) at β = 2, each free, trained on every ordered pair by how often its first sample is preferred."""
    reward = torch.zeros(4, dtype=FLOAT, requires_grad=True)

    def loss() -> Tensor:
        error = 50 - reward[PAIRS]
        return (HOW_OFTEN * objective(outputs_of_errors(error, torch.full_like(error, 50.0), **more)).value).sum()

    minimise(loss, reward)
    return reward.detach()


def test_bco_ends_at_the_log_odds_of_being_a_winner() -> None:
    """r_i = z + ln(share of its pairs that a sample wins / that it loses), each by itself."""
    learnt = trained_rewards(partial(bco, beta=2.0), running={"reward": torch.tensor(0.3, dtype=FLOAT)})
    close(learnt, 0.3 + torch.logit(WON), rtol=0, atol=1e-6)


def test_loss_averse_kto_ends_at_the_log_odds_of_being_wanted() -> None:
    """r_i = z + ln(w₁·share wanted / (w₀·share unwanted)). Under the other two utilities the loss falls as far as r goes."""
    kto = partial(diffusion_kto, beta=2.0, utility="loss_averse", desirable=0.8, undesirable=1.4)
    running, labels = {"reward": torch.tensor(0.3, dtype=FLOAT)}, torch.tensor([1, 0]).expand(12, 2)
    learnt = trained_rewards(kto, running=running, labels=labels)
    close(learnt, 0.3 + math.log(0.8 / 1.4) + torch.logit(WON), rtol=0, atol=1e-6)


def test_nca_ends_at_the_share_of_wins_over_a_half() -> None:
    """r_i = ln(2·share): where −(1 − σ(r)) of the wins and ½·σ(r) of all pairs cancel; below 0 for what loses more often than it wins."""
    close(trained_rewards(partial(nca, beta=2.0)), (2 * WON).log(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_asft_ends_at_the_weighed_odds_of_being_a_winner(weight) -> None:
    """p/(1 − p) = (1 + λ)·share won/(λ·share lost) of p = exp(−κe), each by itself. At λ = 0 there is no finite optimum: p = 1."""
    logits = torch.zeros(4, dtype=FLOAT, requires_grad=True)

    def loss() -> Tensor:
        error = -logits.sigmoid().log()[PAIRS] / KAPPA
        return (HOW_OFTEN * asft(outputs_of_errors(error), weight=weight, kappa=KAPPA).value).sum()

    minimise(loss, logits)
    close(logits.sigmoid(), (1 + weight) * WON / (WON + weight), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
@pytest.mark.parametrize(("name", "of_ratio"), [("asft", lambda p: p), ("orpo", lambda p: p**2 / (p**2 + (1 - p) ** 2))])
def test_asft_and_orpo_end_between_the_share_of_wins_and_their_own_ratio_s(name, of_ratio, weight) -> None:
    """Two samples of a softmax, κe = −ln π: π(first) + 2λ·f(π(first)) = (1 + 2λ)·P. Both terms of ASFT have their optimum at the share P
    itself, the ratio of ORPO's odds, which is the square of the probabilities', at half its log-odds. Without the softmax ORPO has no
    finite optimum: a ratio of odds holds at any small errors."""
    share = torch.tensor([PREFERRED, 1 - PREFERRED], dtype=FLOAT)
    logits = LOGITS[:2].clone().requires_grad_()

    def loss() -> Tensor:
        error = -logits.log_softmax(0) / KAPPA
        outputs = outputs_of_errors(torch.stack([error, error.flip(0)]))
        return (share * objective_function(name)(outputs, weight=weight, kappa=KAPPA).value).sum()

    minimise(loss, logits)
    first = logits.softmax(0)[0].item()
    assert first + 2 * weight * of_ratio(first) == pytest.approx((1 + 2 * weight) * PREFERRED, abs=1e-6)


def trained_on_lists(orders: Tensor, often: Tensor, **arguments: Any) -> Tensor:
    """Where RankDPO ends on a softmax: β_LM·log π/π_ref (K,), and a constant. Of ranked lists (L, K), best first, each so often."""
    count = orders.shape[1]
    reference, scores = LOGITS[:count].log_softmax(0), torch.arange(count, 0, -1, dtype=FLOAT).expand(len(orders), count)
    logits = LOGITS[:count].clone().requires_grad_()

    def loss() -> Tensor:
        error = 50 - (logits.log_softmax(0) - reference)[orders] / KAPPA
        outputs = outputs_of_errors(error, torch.full_like(error, 50.0), scores=scores[..., None])
        return (often * rankdpo(outputs, beta=2 * KAPPA * BETA_LM, **arguments).value).sum()

    minimise(loss, logits)
    return BETA_LM * (logits.detach().log_softmax(0) - reference)


def test_rankdpo_ends_at_the_rewards_that_rank_the_lists() -> None:
    """Without weights, on all orders of four as often as Plackett and Luce have them, whose pairs are Bradley–Terry's."""
    orders = torch.tensor(list(permutations(range(4))))
    worth = REWARDS.exp()[orders]
    learnt = trained_on_lists(orders, (worth / worth.flip(1).cumsum(1).flip(1)).prod(1), weight="none")
    close(learnt - learnt.mean(), REWARDS - REWARDS.mean(), rtol=0, atol=1e-6)


TOP, END = 2 - math.sqrt(2), math.sqrt(2) - 1  # differences of gain 2^φ at φ = 1, ½, 0
NDCG = TOP * (1 / math.log(2) - 1 / math.log(3)) / (END * (1 / math.log(3) - 1 / math.log(4)))


@pytest.mark.parametrize(("weight", "ratio"), [("ndcg", NDCG), ("gain", TOP / END), ("none", 1.0)])
@pytest.mark.parametrize("normalise", [False, True])
def test_rankdpo_s_weights_lift_what_is_first_or_last_over_what_is_always_between(weight, ratio, normalise) -> None:
    """Three in one order and its reverse, as often: each pair's log-odds are the weights' at its two places, ln Λ₁₂/Λ₂₃ over the middle."""
    learnt = trained_on_lists(torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.ones(2), weight=weight, normalise=normalise)
    close(learnt - learnt[1], [math.log(ratio), 0.0, math.log(ratio)], rtol=0, atol=1e-6)


def gaussian_mean(objective: Objective, *, flipped: float = 0.0) -> float:
    """How far the mean moves under reward 0.9·x0, labels by Bradley–Terry and a share of them turned; in units of 0.9·s²/β_LM."""
    model, beta_lm = GAUSSIANS[1], 0.6
    nodes, weights = gauss_hermite(24)
    samples = model.mu_reference + model.s * nodes
    pairs, weight = torch.cartesian_prod(samples, samples), torch.cartesian_prod(weights, weights).prod(1)
    wins = torch.sigmoid(0.9 * (pairs[:, 0] - pairs[:, 1]))
    wins = (1 - flipped) * wins + flipped * (1 - wins)
    mu = torch.tensor(model.mu_reference, dtype=FLOAT, requires_grad=True)

    def loss() -> Tensor:
        return 2 * (weight * wins * objective(model.outputs(pairs, mu), beta=2 * beta_lm * model.kappa).value).sum()

    minimise(loss, mu)
    return (mu.item() - model.mu_reference) / (0.9 * model.s**2 / beta_lm)


def corrected(outputs: Outputs, *, beta: float, **arguments: Any) -> Loss:
    return diffusion_dpo(kl_correction(outputs, **arguments), beta=beta)


def test_rdpo_finds_the_clean_mean_under_flipped_labels() -> None:
    assert gaussian_mean(partial(rdpo, flip_rate=0.2), flipped=0.2) == pytest.approx(1, abs=1e-6)
    assert gaussian_mean(diffusion_dpo, flipped=0.2) < 0.65


def test_tdpo_1_ends_where_dpo_does_and_tdpo_2_short_of_it() -> None:
    """A shift of the mean moves both predictions of a pair alike: d_w = d_l cancels, but for the gradient that TDPO-2 stops. Those of the
    next test differ."""
    assert gaussian_mean(partial(corrected, alpha=1.0, through_winner=True)) == pytest.approx(1, abs=1e-6)
    means = [gaussian_mean(partial(corrected, alpha=alpha)) for alpha in (0.0, 0.25, 0.5, 1.0)]
    assert means[0] == pytest.approx(1, abs=1e-6)
    assert means == sorted(means, reverse=True) and 0 < means[3] < means[1] < 0.95


def test_tdpo_1_fits_the_linear_part_of_the_reward_where_distances_differ() -> None:
    """Predictions that go a share of the way from the reference's to the target: p − q = θ(y − q), Δ = −2θe_ref + d, d = θ²e_ref. Without d
    the reward is β·θ·e_ref, whose differences end at those of the labels' rewards; with it, or with its sign turned, elsewhere."""
    reference = torch.tensor([0.5, 0.9, 0.3, 1.4], dtype=FLOAT)

    def linear_rewards(alpha: float) -> Tensor:
        theta = torch.zeros(4, dtype=FLOAT, requires_grad=True)

        def loss() -> Tensor:
            far = reference.sqrt()[PAIRS][..., None]
            outputs = Outputs((1 - theta[PAIRS][..., None]) * far, torch.zeros_like(far), torch.zeros(12), reference=far)
            return (HOW_OFTEN * corrected(outputs, beta=6.0, alpha=alpha, through_winner=True).value).sum()

        minimise(loss, theta)
        return 6.0 * theta.detach() * reference

    def off(rewards: Tensor) -> float:
        return (rewards - rewards.mean() - (REWARDS - REWARDS.mean())).abs().max().item()

    assert off(linear_rewards(1.0)) < 1e-6
    assert off(linear_rewards(0.0)) > 0.01


# The slope of the loss in the margin where policy = reference, as a multiple of Diffusion-DPO's −½.
FIRST_STEPS: list[tuple[str, dict[str, Any], float]] = [
    ("rdpo", {"flip_rate": 0.1}, 1.25),
    ("cdpo", {"flip_rate": 0.1}, 0.8),
    ("ipo", {}, 2),
    ("hinge", {}, 2),
    ("dmpo", {"alpha": 0.1}, math.log(9) / 2),
    ("fdpo", {"divergence": "forward_kl"}, 1),
    ("fdpo", {"divergence": "js"}, 0.5),
    ("fdpo", {"divergence": "alpha", "alpha": 0.3}, 1),
    ("flex_dpo", {"loser": 1.0}, 1),
    ("nca", {}, 0.5),
    ("bco", {}, 1),
    ("apo_zero", {}, 0.5),
    ("aot", {}, 1),
    ("beta_dpo", {}, 1),
]


@pytest.mark.parametrize(("name", "arguments", "times"), FIRST_STEPS)
def test_the_first_step_is_diffusion_dpo_s_times_a_number(name, arguments, times) -> None:
    """∂L/∂θ = times·(β/4)·∇(e_w − e_l), through a network of two layers."""
    generator = torch.Generator().manual_seed(0)
    noised, target = torch.randn(2, 4, 2, 3, 7, generator=generator, dtype=FLOAT)
    layers = [torch.randn(*size, generator=generator, dtype=FLOAT).requires_grad_() for size in ((7, 11), (11, 7))]
    policy = torch.tanh(noised @ layers[0]) @ layers[1]
    outputs = Outputs(policy, target, torch.zeros(4), reference=policy.detach())
    value = objective_function(name)(outputs, beta=5000.0, **arguments).value
    gap = (outputs.error[:, 0] - outputs.error[:, 1]).mean()
    expected = torch.autograd.grad(gap, layers, retain_graph=True)
    for actual, each in zip(torch.autograd.grad(value.mean(), layers), expected, strict=True):
        close(actual, times * 5000 / 4 * each, rtol=1e-9, atol=1e-9)
