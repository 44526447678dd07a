"""RankDPO: Σ_{i≻j} Λ_ij·(−log σ(r_i − r_j)), Λ the gain and discount of learning to rank."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, permuted, random_outputs

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.rankdpo import rankdpo

VARIANTS = (
    {"weight": "gain"},
    {"weight": "none"},
    {"gain": "score"},
    {"rank_by": "model"},
    {"normalise": True},
    {"weight": "gain", "gain": "score", "normalise": True},
)


def naive(group: Group, *, beta: float, weight: str, gain: str, rank_by: str, normalise: bool) -> float:
    count, rewards = group.scores.shape
    relevance = [float(group.scores[i, 0]) for i in range(count)]
    if gain == "win_fraction":
        for i in range(count):
            wins = 0.0
            for j in range(count):
                for k in range(rewards):
                    if j != i:
                        wins += (group.scores[i, k] > group.scores[j, k]) + 0.5 * (group.scores[i, k] == group.scores[j, k])
            relevance[i] = wins / (rewards * (count - 1))
    own = [0.0 if rank_by == "label" else group.frozen.reward(i, beta) for i in range(count)]
    ranked_by = list(zip(own, relevance, strict=True))

    def discount(i: int) -> float:
        above = sum(other > ranked_by[i] for other in ranked_by)
        level = ranked_by.count(ranked_by[i])
        return sum(1 / math.log(2 + above + place) for place in range(level)) / level

    total = weights = 0.0
    for i in range(count):
        for j in range(count):
            if relevance[i] <= relevance[j]:
                continue
            gains = abs(2 ** relevance[i] - 2 ** relevance[j])
            discounts = abs(discount(i) - discount(j))
            each = {"ndcg": gains * discounts, "gain": gains, "none": 1.0}[weight]
            total += each * math.log1p(math.exp(-(group.reward(i, beta) - group.reward(j, beta))))
            weights += each
    if not normalise:
        return total
    return total / weights if weights else 0.0


ONE_ORDER = [[0.75], [0.5], [0.25]]
# r = (1, 0, −½): margins 1, 1.5 and ½; s(m) = ln(1 + e^−m).
# φ = (1, ½, 0), G = (1, √2 − 1, 0): (2 − √2)(1/ln2 − 1/ln3)s(1) + (1/ln2 − 1/ln4)s(1.5) + (√2 − 1)(1/ln3 − 1/ln4)s(½).
# Wins (2 + 1, ½ + 2, ½ + 0) of 4: φ = (¾, ⅝, ⅛), and the mean of s(1), s(1.5), s(½) with weights of |G_i − G_j|.
# φ = the scores (0, 1, 2), against the model's order, whose ranks are 1, 2, 3: 2(1/ln3 − 1/ln4)s(−½) + 3(1/ln2 − 1/ln4)s(−1.5)
# + (1/ln2 − 1/ln3)s(−1).
# φ = (1, 1, 0): the two at the top share the ranks 1 and 2: (½(1/ln2 + 1/ln3) − 1/ln4)(s(1.5) + s(½)).
HAND = (
    Hand((0.3, 0.5, 0.6), 0.280089476374351194, (0.5,) * 3, {"beta": 10.0}, {"scores": ONE_ORDER}),
    Hand(
        (0.3, 0.5, 0.6), 0.318763660348738743, (0.5,) * 3, {"beta": 10.0, "weight": "gain", "normalise": True},
        {"scores": [[0.75, 0.25], [0.5, 0.5], [0.5, 0.0]]},
    ),
    Hand(
        (0.3, 0.5, 0.6), 4.74917469612878509, (0.5,) * 3, {"beta": 10.0, "gain": "score", "rank_by": "model"},
        {"scores": [[0.0], [1.0], [2.0]]},
    ),
    Hand((0.3, 0.5, 0.6), 0.3074288669125403, (0.5,) * 3, {"beta": 10.0, "gain": "score"}, {"scores": [[1.0], [1.0], [0.0]]}),
)  # fmt: skip

SETTINGS = [
    {"weight": weight, "gain": gain, "rank_by": rank_by, "normalise": normalise}
    for weight, gain, rank_by, normalise in itertools.product(
        ("ndcg", "gain", "none"), ("win_fraction", "score"), ("label", "model"), (False, True)
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(str(value) for value in settings.values()))
def test_every_setting_equals_the_loop(settings) -> None:
    """Also where two rewards disagree, and where they tie."""
    scores = torch.randint(0, 3, (5, 4, 2), generator=torch.Generator().manual_seed(0)).double()
    outputs = replace(random_outputs("rankdpo"), scores=scores)
    close(rankdpo(outputs, beta=BETA, **settings).value, [naive(group, beta=BETA, **settings) for group in naive_groups(outputs)])


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(str(value) for value in settings.values()))
def test_samples_that_are_level_have_no_order(settings) -> None:
    """In whatever order a list with ties comes, its value is the same."""
    outputs = random_outputs("rankdpo")
    scores = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64).expand(5, 4, 1)
    whole = replace(outputs, scores=scores)
    turned = replace(permuted(outputs, [1, 0, 3, 2]), scores=scores)
    close(rankdpo(turned, beta=BETA, **settings).value, rankdpo(whole, beta=BETA, **settings).value)


def test_a_pair_without_weight_is_dpo() -> None:
    outputs = random_outputs("rankdpo", samples=2)
    assert torch.equal(rankdpo(outputs, beta=BETA, weight="none").value, diffusion_dpo(outputs, beta=BETA).value)


def test_a_pair_is_dpo_with_gain_weight() -> None:
    """K = 2: Λ = (1/ln 2 − 1/ln 3)·|G_1 − G_2| = 0.532·|G_1 − G_2|."""
    outputs = random_outputs("rankdpo", samples=2)
    assert outputs.scores is not None
    gap = 2 ** outputs.scores[:, 0, 0] - 2 ** outputs.scores[:, 1, 0]
    expected = 0.532455814262126014 * gap * diffusion_dpo(outputs, beta=BETA).value
    close(rankdpo(outputs, beta=BETA, gain="score").value, expected)


@pytest.mark.parametrize(("normalise", "total"), [(False, 1.83246124849535389), (True, 1.0)])
def test_value_at_the_reference(normalise, total) -> None:
    """φ = 1, ⅔, ⅓, 0: ln 2·ΣΛ."""
    outputs = random_outputs("rankdpo")
    assert outputs.reference is not None
    value = rankdpo(replace(outputs, policy=outputs.reference), normalise=normalise).value
    close(value, torch.full((5,), math.log(2) * total, dtype=torch.float64))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(str(value) for value in settings.values()))
def test_every_setting_leaves_the_reference(settings) -> None:
    """There all rewards are equal, and labels rank them: by the model is as by the labels, and neither is without gradient."""
    outputs = random_outputs("rankdpo")
    assert outputs.reference is not None
    gradients = []
    for rank_by in ("label", "model"):
        policy = outputs.reference.clone().requires_grad_()
        rankdpo(replace(outputs, policy=policy), beta=BETA, **{**settings, "rank_by": rank_by}).value.sum().backward()
        assert policy.grad is not None
        gradients.append(policy.grad)
    close(*gradients)
    assert all(float(group.abs().max()) > 0 for group in gradients[1])


@pytest.mark.parametrize("weight", ["ndcg", "gain", "none"])
@pytest.mark.parametrize("normalise", [False, True])
def test_equal_relevance_has_no_weight(weight, normalise) -> None:
    """Nothing is preferred to anything: value and gradient are 0, not 0/0."""
    error = torch.tensor([[0.3, 0.5, 0.6]], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(error, torch.full((1, 3), 0.5, dtype=torch.float64), scores=torch.full((1, 3, 2), 0.25).double())
    value = rankdpo(outputs, beta=10.0, weight=weight, normalise=normalise).value
    value.sum().backward()
    assert error.grad is not None
    assert (value.tolist(), error.grad.tolist()) == ([0.0], [[0.0, 0.0, 0.0]])


def test_falls_when_the_reward_of_the_best_rises() -> None:
    """The paper's 'i > j' means preferred: read as the larger rank, the sign would flip."""
    reference = torch.full((2, 3), 0.5, dtype=torch.float64)
    error = torch.tensor([[0.5, 0.5, 0.5], [0.4, 0.5, 0.5]], dtype=torch.float64)
    scores = torch.tensor([ONE_ORDER, ONE_ORDER], dtype=torch.float64)
    before, after = rankdpo(outputs_of_errors(error, reference, scores=scores), beta=10.0).value
    assert after < before
