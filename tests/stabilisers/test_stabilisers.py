"""Stabilisers: what they leave, what they change, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from objective_checks import BETA, arguments, close, outputs_of_errors, permuted, random_outputs
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import conv2d, softplus

from diffalign.objectives import OBJECTIVES, build_objective
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.rpo import rpo
from diffalign.stabilisers import ROWS, STABILISERS, build_stabiliser, build_stabilisers
from diffalign.stabilisers.kl_correction import kl_correction
from diffalign.stabilisers.list_safeguard import list_safeguard
from diffalign.stabilisers.winner_safeguard import winner_safeguard
from diffalign.tensors import Outputs, implicit_reward, mean_squared_error
from diffalign.training.last_layer import last_layer_gradients
from pipelines.train import Train

PAIRWISE = [name for name, needs in OBJECTIVES.items() if needs.is_pairwise and needs.reference]


def gradient(outputs: Outputs, stabiliser=lambda outputs: outputs) -> Tensor:
    policy = outputs.policy.clone().requires_grad_()
    diffusion_dpo(stabiliser(replace(outputs, policy=policy)), beta=BETA).value.sum().backward()
    assert policy.grad is not None
    return policy.grad


def overlapping(seed: int = 0) -> Outputs:
    """Pairs whose loser's error points half along its winner's."""
    outputs = random_outputs("diffusion_dpo", seed=seed)
    policy = outputs.policy.clone()
    policy[:, 1] = outputs.target[:, 1] + 1.5 * (policy[:, 0] - outputs.target[:, 0]) + 0.3 * policy[:, 1]
    return replace(outputs, policy=policy)


@pytest.mark.parametrize("name", PAIRWISE)
def test_the_safeguard_leaves_every_value(name: str) -> None:
    outputs = random_outputs(name)
    objective = build_objective(name, **arguments(name))
    close(objective(winner_safeguard(outputs)).value, objective(outputs).value)


def test_the_safeguard_scales_the_loser_s_gradient_alone() -> None:
    """By λ = (1 − μ)·‖g_w‖²/⟨g_w, g_l⟩, worked out here pair by pair."""
    outputs = overlapping()
    plain, safe = gradient(outputs), gradient(outputs, lambda each: winner_safeguard(each, mu=0.6))
    close(safe[:, 0], plain[:, 0])
    for index in range(len(plain)):
        winner, loser = (outputs.policy - outputs.target)[index].flatten(1)
        share = float(min(0.4 * winner @ winner / (winner @ loser), 1.0))
        assert 0 < share < 1
        close(safe[index, 1], share * plain[index, 1])


def test_the_safeguard_of_a_triple_is_that_of_its_pair() -> None:
    """Gold before winner and loser: it keeps its gradient, and has no part in λ."""
    outputs = overlapping()
    triple = permuted(outputs, [0, 0, 1])
    triple = replace(triple, policy=(triple.policy + 3 * (torch.arange(3) == 0).view(1, 3, 1, 1, 1)).requires_grad_())
    pair = outputs.policy.clone().requires_grad_()
    weight = random_outputs("diffusion_dpo", seed=1).target
    found = winner_safeguard(triple, mu=0.6).policy * torch.cat([weight[:, :1], weight], 1)
    expected = winner_safeguard(replace(outputs, policy=pair), mu=0.6).policy * weight
    found.sum().backward()
    expected.sum().backward()
    assert triple.policy.grad is not None and pair.grad is not None
    close(triple.policy.grad[:, 1:], pair.grad)
    close(triple.policy.grad[:, 0], weight[:, 0])


def test_padding_has_no_part_in_the_scale() -> None:
    """λ from the gradients of the errors as they are: over a sample's own steps alone, each a mean over as many as it has."""
    outputs = overlapping()
    lengths = torch.tensor([[3, 6], [6, 3], [4, 4], [6, 6], [2, 5]])
    outputs = replace(outputs, lengths=lengths)
    policy = outputs.policy.clone().requires_grad_()
    errors = replace(outputs, policy=policy).error
    (by_winner,), (by_loser,) = (torch.autograd.grad(errors[:, k].sum(), policy, retain_graph=True) for k in (0, 1))
    plain, safe = gradient(outputs), gradient(outputs, lambda each: winner_safeguard(each, mu=0.6))
    close(safe[:, 0], plain[:, 0])
    shares = []
    for index in range(len(plain)):
        winner, loser = by_winner[index, 0].flatten(), by_loser[index, 1].flatten()
        shares.append(float(min(0.4 * winner @ winner / (winner @ loser), 1.0)) if winner @ loser > 0 else 1.0)
        close(safe[index, 1], shares[-1] * plain[index, 1])
    assert any(0 < share < 1 for share in shares)
    filled = outputs.policy + 100 * (torch.arange(6).view(6, 1) >= lengths[..., None, None, None])
    close(gradient(replace(outputs, policy=filled), lambda each: winner_safeguard(each, mu=0.6)), safe)


def test_the_scale_of_padded_samples_by_hand() -> None:
    """Of two and three steps: g_w = (1, 1)/2, g_l = (1, 0, 2)/3, so ‖g_w‖² = ½ and ⟨g_w, g_l⟩ = 1/6: λ = 0.1·½·6 = 0.3."""
    policy = torch.tensor([[[[1.0, 1.0, 9.0, 9.0]], [[1.0, 0.0, 2.0, 9.0]]]], dtype=torch.float64)
    outputs = Outputs(policy, torch.zeros_like(policy), torch.zeros(1), lengths=torch.tensor([[2, 3]]))
    close(shares(outputs, winner_safeguard, mu=0.9), [[1, 0.3]])


def test_a_loser_that_points_away_is_left_alone() -> None:
    outputs = overlapping()
    policy = outputs.policy.clone()
    policy[:, 1] = 2 * outputs.target[:, 1] - policy[:, 1]
    outputs = replace(outputs, policy=policy)
    close(gradient(outputs, winner_safeguard), gradient(outputs))


def test_at_mu_one_the_winner_alone_is_learned_from() -> None:
    safe = gradient(overlapping(), lambda each: winner_safeguard(each, mu=1.0))
    assert bool((safe[:, 1] == 0).all()) and bool((safe[:, 0] != 0).any())


def test_no_first_step_raises_a_winner_s_error_where_outputs_are_the_weights() -> None:
    """One output for both samples (J = I): Diffusion-DPO raises e_w where the loser is twice as far; with the safeguard it cannot."""
    outputs = random_outputs("diffusion_dpo")
    shared = outputs.policy.mean(1)
    near = outputs.target[:, 0]
    outputs = replace(outputs, target=torch.stack([near, shared - 2 * (shared - near)], 1))

    def step(stabiliser) -> Tensor:
        weights = shared.clone().requires_grad_()
        both = replace(
            outputs, policy=weights.unsqueeze(1).expand_as(outputs.policy), reference=shared.unsqueeze(1).expand_as(outputs.policy)
        )
        diffusion_dpo(stabiliser(both), beta=BETA).value.sum().backward()
        assert weights.grad is not None
        moved = shared - 1e-3 * weights.grad
        before, after = ((each - outputs.target[:, 0]).square().flatten(1).mean(1) for each in (shared, moved))
        return after - before

    assert bool((step(lambda each: winner_safeguard(each, mu=0.0)) <= 1e-9).all())
    assert bool((step(lambda each: each) > 0).any())


@dataclass(frozen=True)
class Linear:
    """A denoiser that is one convolution W of features h (1, 2, C', *S), where winners' features are smaller than losers'."""

    weights: Tensor
    features: Tensor
    target: Tensor
    reference: Tensor

    def outputs(self, weights: Tensor) -> Outputs:
        policy = conv2d(self.features.flatten(0, 1), weights, padding=1).view_as(self.target)
        layer = torch.nn.Conv2d(*weights.shape[1::-1], 3, padding=1, bias=False)
        gap = 2 * (policy.detach() - self.target).flatten(0, 1) / self.target[0, 0].numel()
        gradients = last_layer_gradients(layer, self.features.flatten(0, 1), gap).unflatten(0, self.target.shape[:2])
        return Outputs(policy, self.target, torch.zeros(1), reference=self.reference, last_layer_gradient=gradients)

    def rise(self, **arguments: Any) -> float:
        """How much the winner's error rises by a small step of SGD on Diffusion-DPO behind the safeguard, per unit of the step."""
        weights, rate = self.weights.clone().requires_grad_(), 1e-6
        outputs = self.outputs(weights)
        diffusion_dpo(winner_safeguard(outputs, mu=0.1, **arguments), beta=BETA).value.sum().backward()
        assert weights.grad is not None
        after = self.outputs(self.weights - rate * weights.grad)
        return float((after.error - outputs.error)[0, 0].detach()) / rate


def linear(seed: int) -> Linear:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    shared, own = normal(1, 1, 3, 5, 5), normal(1, 2, 3, 5, 5)
    features = (shared + 0.5 * own) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    weights = normal(4, 3, 3, 3)
    policy = conv2d(features.flatten(0, 1), weights, padding=1).view(1, 2, 4, 5, 5)
    return Linear(weights, features, policy + normal(1, 1, 4, 5, 5) + 0.3 * normal(1, 2, 4, 5, 5), policy)


def test_no_first_step_of_a_linear_denoiser_raises_a_winner_s_error() -> None:
    """The last layer's λ keeps its promise to first order; that of the outputs does not, where the loser has the larger features."""
    rises = {space: [linear(seed).rise(space=space) for seed in range(20)] for space in ("last_layer", "output")}
    assert max(rises["last_layer"]) < -1e-2  # what μ keeps of the winner's own step
    assert min(rises["output"]) > 0.1


def test_the_last_layer_s_scale_is_that_of_its_gradients() -> None:
    """λ = (1 − μ)·‖G_w‖²/⟨G_w, G_l⟩ with G by autograd on the errors, pair by pair, or of the sums over the batch."""
    outputs = overlapping()
    features = torch.randn(5, 2, 3, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features[:, 1] = features[:, 0] + 0.2 * features[:, 1]
    layer = torch.nn.Conv2d(3, 4, 3, padding=1).double()
    policy = torch.stack([layer(features[:, index]) for index in range(2)], 1)
    outputs = replace(outputs, target=policy.detach() + outputs.target[:, :1] + 0.1 * outputs.target, policy=policy)
    found: list[Tensor] = []
    for index in range(5):
        both = [torch.autograd.grad(outputs.error[index, k], [layer.weight, layer.bias], retain_graph=True) for k in (0, 1)]
        found.append(torch.stack([torch.cat([each.flatten() for each in own]) for own in both]))
    expected = torch.stack(found)
    gap = 2 * (policy - outputs.target).detach().flatten(0, 1) / outputs.target[0, 0].numel()
    own = last_layer_gradients(layer, features.flatten(0, 1), gap).unflatten(0, (5, 2))
    close(own, expected)
    outputs = replace(outputs, policy=policy.detach(), last_layer_gradient=own)
    plain = gradient(outputs)
    for scope, gradients in (("sample", expected), ("batch", expected.sum(0).expand_as(expected))):
        safe = gradient(outputs, lambda each, scope=scope: winner_safeguard(each, mu=0.6, scope=scope, space="last_layer"))
        close(safe[:, 0], plain[:, 0])
        for index, (winner, loser) in enumerate(gradients):
            share = float(min(0.4 * winner @ winner / (winner @ loser), 1.0))
            assert 0 < share < 1
            close(safe[index, 1], share * plain[index, 1])


def test_without_the_last_layer_s_gradients_there_is_no_such_scale() -> None:
    with pytest.raises(
        ValueError, match=r"reads Outputs\.last_layer_gradient, and this forward gives none; build the task with reads_last"
    ):
        winner_safeguard(overlapping(), space="last_layer")


def test_one_scale_for_a_batch_is_the_release_s() -> None:
    outputs = overlapping()
    plain, safe = gradient(outputs), gradient(outputs, lambda each: winner_safeguard(each, mu=0.6, scope="batch"))
    winner, loser = (outputs.policy - outputs.target)[:, 0].flatten(), (outputs.policy - outputs.target)[:, 1].flatten()
    close(safe[:, 1], float(0.4 * winner @ winner / (winner @ loser)) * plain[:, 1])


@pytest.mark.parametrize(
    ("scope", "space", "expected"),
    [
        ("sample", "output", [0.2, 0.8]),  # 0.4·1/2 and 0.4·4/2
        ("sample", "last_layer", [0.2, 0.8]),
        ("batch", "output", [0.5, 0.5]),  # 0.4·(1 + 4)/(2 + 2)
        ("batch", "last_layer", [0.4, 0.4]),  # of the sums (1, 2) and (3, 1): 0.4·5/5
    ],
)
def test_the_scale_by_hand(scope: str, space: str, expected: list[float]) -> None:
    """Of two pairs with g_w, g_l = (1, 0), (2, 0) and (0, 2), (1, 1), of the outputs as of the last layer."""
    gaps = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]], dtype=torch.float64)
    policy = gaps.unsqueeze(2)
    outputs = Outputs(policy, torch.zeros_like(policy), torch.zeros(2), last_layer_gradient=gaps)
    close(shares(outputs, winner_safeguard, mu=0.6, scope=scope, space=space), [[1, each] for each in expected])


# Ranked lists ----------------------------------------------------------------------------------------

LISTS = [name for name, needs in OBJECTIVES.items() if needs.rows == "lists"]


def shares(outputs: Outputs, safeguard: Callable[..., Outputs] | None = None, **arguments: Any) -> Tensor:
    """λ, (B, K), by default of list_safeguard."""
    policy = outputs.policy.clone().requires_grad_()
    (safeguard or list_safeguard)(replace(outputs, policy=policy), **arguments).policy.sum().backward()
    assert policy.grad is not None
    flat = policy.grad.flatten(2)
    assert bool((flat == flat[..., :1]).all())
    return flat[..., 0]


def with_overlaps(overlaps: list[float], scores: list[float] | None = None) -> Outputs:
    """One list whose samples' errors point so far along that of the first, which has length 1."""
    axes = torch.eye(len(overlaps) + 1, dtype=torch.float64)
    gaps = torch.stack([axes[0], *(overlap * axes[0] + axes[index] for index, overlap in enumerate(overlaps[1:], 1))])
    policy = gaps.view(1, len(overlaps), 1, -1)
    told = torch.tensor([scores or list(range(len(overlaps), 0, -1))], dtype=torch.float64).unsqueeze(2)
    return Outputs(policy, torch.zeros_like(policy), torch.zeros(1), reference=policy.clone(), scores=told)


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [
        ([1, 0.4, 0.2, 0.1], [1, 1, 1, 1]),  # fall by themselves
        ([1, 4, 2, 0.1], [1, 0.1, 0.2, 1]),  # none above (1 − 0.6)·1
        ([1, 0.2, 0.4, 0.8], [1, 1, 0.5, 0.25]),  # none above the one before
        ([1, -0.2, -0.4, -0.8], [1, 1, 1, 1]),
        ([1, 0.2, -0.8, -0.4], [1, 1, 0.5, 1]),  # −0.8 would lie under −0.4
        ([1, -0.5, 0.3, 0.2], [1, 0, 0, 0]),
        ([1, 0.3, -0.5, 0.3], [1, 1, 0, 0]),
        ([1, 0, 0.3, -1], [1, 1, 0, 1]),
    ],
)
def test_overlaps_with_the_best_fall_along_a_list(overlaps: list[float], expected: list[float]) -> None:
    close(shares(with_overlaps(overlaps), mu=0.6), [expected])
    turned = permuted(with_overlaps(overlaps), [2, 0, 3, 1])
    close(shares(turned, mu=0.6), [[expected[place] for place in (2, 0, 3, 1)]])  # ranked by the score, wherever a sample stands


def test_of_overlaps_that_fall_by_themselves_the_top_alone_is_cut() -> None:
    """What is left of each is min(1 − μ, ⟨g_1, g_k⟩), also below 0, by a λ in [0, 1]."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        overlaps = torch.randn(4, generator=draw, dtype=torch.float64).sort(descending=True).values
        found = shares(with_overlaps([1.0, *overlaps.tolist()]), mu=0.6)[0]
        assert found.min() >= 0 and found.max() == 1
        close(found[1:] * overlaps, overlaps.clamp(max=0.4))


def test_a_list_of_two_is_a_pair() -> None:
    outputs = overlapping()
    scored = replace(outputs, scores=torch.tensor([[[1.0], [0.0]]]).expand(5, 2, 1))
    for mu in (0.0, 0.6, 1.0):
        assert torch.equal(list_safeguard(scored, mu=mu).policy, winner_safeguard(outputs, mu=mu).policy)
        plain = gradient(outputs, lambda each, mu=mu: winner_safeguard(each, mu=mu))
        close(gradient(scored, lambda each, mu=mu: list_safeguard(each, mu=mu)), plain)


@pytest.mark.parametrize("name", LISTS)
def test_the_safeguard_of_lists_leaves_every_value(name: str) -> None:
    outputs = random_outputs(name)
    objective = build_objective(name, **arguments(name))
    close(objective(list_safeguard(outputs)).value, objective(outputs).value)


def rises(name: str, stabiliser: Callable[[Outputs], Outputs]) -> list[float]:
    """Of fifty lists of four under one output each (J = I): how much a small step raises the best one's error."""
    found = []
    for seed in range(50):
        draw = torch.Generator().manual_seed(seed)
        shared = torch.zeros(1, 1, 3, dtype=torch.float64)
        target = torch.randn(1, 4, 3, generator=draw, dtype=torch.float64) + torch.randn(1, 1, 3, generator=draw, dtype=torch.float64)
        scores = torch.tensor([4.0, 3.0, 2.0, 1.0]).div(4).view(1, 4, 1)

        def outputs(weights: Tensor, target: Tensor = target, scores: Tensor = scores, shared: Tensor = shared) -> Outputs:
            return Outputs(
                weights.expand(1, 4, 3), target, torch.zeros(1), reference=shared.expand(1, 4, 3), scores=scores, snr=torch.ones(1)
            )

        weights = shared.clone().requires_grad_()
        build_objective(name, beta=BETA)(stabiliser(outputs(weights))).value.sum().backward()
        assert weights.grad is not None
        moved = outputs(shared - 1e-6 * weights.grad)
        found.append(float((moved.error - outputs(shared).error)[0, 0] / 1e-6))
    return found


def against_the_best_alone(outputs: Outputs) -> Outputs:
    """What one would write first: each loser's λ as in a pair with the best."""
    gaps = (outputs.policy - outputs.target).detach()
    squared, overlap = gaps[:, :1].square().sum(2), (gaps[:, :1] * gaps).sum(2)
    share = (0.9 * squared / overlap.where(overlap > 0, 1)).clamp(0, 1).where(overlap > 0, 1)
    share[:, 0] = 1
    still = outputs.policy.detach()
    return replace(outputs, policy=still + share[..., None] * (outputs.policy - still))


@pytest.mark.parametrize("name", LISTS)
def test_no_first_step_raises_the_best_one_s_error(name: str) -> None:
    """Of every objective on lists, at its reference. Without a safeguard it rises in ten lists of fifty or more; with each loser held by
    itself still in six, where an objective weighs the pairs without the best like the others."""
    safe, free, held = (rises(name, each) for each in (partial(list_safeguard, mu=0.1), lambda outputs: outputs, against_the_best_alone))
    assert max(safe) < -1e-3
    assert sum(rise > 1e-4 for rise in free) >= 10
    assert sum(rise > 1e-4 for rise in held) == (6 if name in ("capo", "sppo") else 0)


def test_a_list_may_be_held_by_the_last_layer_too() -> None:
    outputs = with_overlaps([1, 0.2, 0.4, 0.8])
    features = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64).view(1, 4, 1)
    outputs = replace(outputs, last_layer_gradient=outputs.policy.flatten(2) * features)
    close(shares(outputs, mu=0.6, space="last_layer"), [[1, 1, 0.125, 0.125]])  # overlaps 1, 0.1, 0.8, 0.8


@pytest.mark.parametrize("through_winner", [True, False])
@pytest.mark.parametrize("name", LISTS)
def test_the_correction_of_a_list_is_each_sample_s_own(name: str, through_winner: bool) -> None:
    """Δ_k − α·d_k in the place of Δ_k for each; the gradient through d stops at the best sample, where it is to."""
    outputs = random_outputs(name)
    objective = build_objective(name, **arguments(name))
    assert outputs.reference is not None
    policy = outputs.policy.clone().requires_grad_()
    objective(kl_correction(replace(outputs, policy=policy), alpha=0.5, through_winner=through_winner)).value.sum().backward()
    by_hand = outputs.policy.clone().requires_grad_()
    distance = (by_hand - outputs.reference).square()
    assert outputs.scores is not None
    rows = zip(distance, outputs.scores[..., 0].tolist())
    held = [torch.stack([d if through_winner or score < max(row) else d.detach() for d, score in zip(each, row)]) for each, row in rows]
    corrected = replace(outputs, policy=by_hand, correction=0.5 * torch.stack(held))
    objective(corrected).value.sum().backward()
    close(policy.grad, by_hand.grad)


def test_the_correction_of_a_list_knows_the_best_by_its_score() -> None:
    """Not by its place: what is scored best last is held there."""
    outputs = replace(random_outputs("rankdpo", seed=1), policy=random_outputs("rankdpo").policy.clone().requires_grad_())
    assert outputs.scores is not None
    scores = outputs.scores.clone()
    scores[..., 0] = torch.arange(scores.shape[1])
    kl_correction(replace(outputs, scores=scores)).correction.sum().backward()  # type: ignore[union-attr]
    assert outputs.policy.grad is not None
    size = outputs.policy.grad.flatten(2).norm(dim=2)
    assert (size[:, -1] == 0).all() and (size[:, :-1] > 0).all()


@pytest.mark.parametrize("name", ["rankdpo", "capo"])
def test_lists_of_several_judges_are_held_by_what_the_objective_ranks_them_by(name: str) -> None:
    """Two of three judges prefer the last sample, which the first one likes least: it is the best by the objective, and so for both."""
    outputs = random_outputs(name)
    assert outputs.scores is not None
    size = outputs.scores.shape[1]
    rising = torch.linspace(0, 1, size, dtype=outputs.scores.dtype).expand(len(outputs.scores), size)
    judged = replace(outputs, scores=torch.stack([rising.flip(1), rising, rising], 2))
    ranking = build_objective(name, **arguments(name))(judged).ranking
    assert ranking is not None and (ranking.argmax(1) == size - 1).all() and judged.ranked_by is not None
    assert (judged.ranked_by.argmax(1) == 0).all()
    policy = outputs.policy.clone().requires_grad_()
    corrected = kl_correction(replace(judged, policy=policy, ranking=ranking)).correction
    assert corrected is not None
    corrected.sum().backward()
    assert policy.grad is not None
    moved = policy.grad.flatten(2).norm(dim=2) > 0
    assert not moved[:, -1].any() and moved[:, :-1].all()
    by_last = replace(judged, scores=rising[..., None])
    close(shares(replace(judged, ranking=ranking)), shares(by_last))
    assert not torch.allclose(shares(judged), shares(by_last))


def test_of_samples_judged_singly_the_wanted_ones_are_the_winners() -> None:
    outputs = random_outputs("kto")
    labels = (torch.arange(len(outputs.policy)) % 2)[:, None]
    policy = outputs.policy[:, :1].clone().requires_grad_()
    single = replace(outputs, policy=policy, target=outputs.target[:, :1], reference=outputs.reference[:, :1], labels=labels)  # type: ignore[index]
    kl_correction(single).correction.sum().backward()  # type: ignore[union-attr]
    assert policy.grad is not None
    assert ((policy.grad.flatten(1).norm(dim=1) > 0) == (labels[:, 0] == 0)).all()


def test_tdpo_2_of_samples_judged_singly_by_hand() -> None:
    """Errors 0.25 and 0.64 against 0.36 and 0.49, the first wanted, the second not: as of the pair by hand below, β = 10 and α = ½."""
    error = torch.tensor([[0.25], [0.64]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    outputs = outputs_of_errors(error, torch.tensor([[0.36], [0.49]], dtype=torch.float64), labels=labels)
    reward = implicit_reward(kl_correction(outputs, alpha=0.5), 10.0)
    close(reward, [[-5 * (-0.11 - 0.005)], [-5 * (0.15 - 0.005)]])
    reward.sum().backward()
    close(error.grad, [[-5.0], [-5.0 * 0.9375]])


@pytest.mark.parametrize("name", ["kto", "diffusion_kto", "fsft", "densedpo"])
@pytest.mark.parametrize("through_winner", [True, False])
def test_the_correction_reaches_every_objective_with_a_reference(name: str, through_winner: bool) -> None:
    """Also those without a winner and a loser: their value is that of the corrected drift."""
    outputs = random_outputs(name)
    objective = build_objective(name, **arguments(name))
    corrected = kl_correction(outputs, through_winner=through_winner)
    assert not torch.allclose(objective(corrected).value, objective(outputs).value)


def test_tdpo_2_of_a_list_by_hand() -> None:
    """Errors 0.25, 0.64, 0.36 against 0.36, 0.49, 0.25, the second scored best: ∂r/∂e = −5·(1 − ½·∂d/∂e) at β = 10, where ∂d/∂e is
    (√e − √e_ref)/√e = −0.2 and 1/6, and none for the best."""
    error = torch.tensor([[0.25, 0.64, 0.36]], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[[0.2], [0.9], [0.5]]], dtype=torch.float64)
    outputs = outputs_of_errors(error, torch.tensor([[0.36, 0.49, 0.25]], dtype=torch.float64), scores=scores)
    implicit_reward(kl_correction(outputs, alpha=0.5), 10.0).sum().backward()
    close(error.grad, [[-5.5, -5.0, -5.0 * 11 / 12]])


def test_tdpo_1_of_a_list_is_linear_in_the_distance_to_the_reference() -> None:
    """The reward of every sample, so the margin of every pair."""
    outputs = random_outputs("rankdpo")
    assert outputs.reference is not None
    tdpo1 = build_stabiliser("kl_correction", alpha=1.0, through_winner=True)
    once = build_objective("rankdpo", beta=BETA)(tdpo1(outputs)).reward
    far = replace(outputs, policy=outputs.reference + 2 * (outputs.policy - outputs.reference))
    close(build_objective("rankdpo", beta=BETA)(tdpo1(far)).reward, 2 * once)  # type: ignore[operator]


# TDPO ------------------------------------------------------------------------------------------------


def test_a_correction_is_of_the_drift_and_no_term_of_the_error_alone() -> None:
    """RPO's fine-tuning on the winner stays e_w: less a distance it would have no least value, or one beside the target."""
    outputs = random_outputs("rpo")
    corrected = kl_correction(outputs, alpha=1.0, through_winner=True)
    margin = diffusion_dpo(corrected, beta=BETA).margin
    assert margin is not None and torch.equal(corrected.error, outputs.error)
    close(rpo(corrected, beta=BETA).value, softplus(-margin) + 0.2 * BETA * outputs.error[:, 0])
    close(corrected.drift, outputs.drift - mean_squared_error(outputs.policy, outputs.reference))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "given"), [("tgdpo", {"alpha": 0.0}), ("sparsepo", {"kl": 0.0}), ("ldpo", {}), ("dspo", {}), ("densedpo", {})]
)
def test_where_positions_count_alike_the_correction_is_diffusion_dpo_s(name: str, given: dict[str, Any]) -> None:
    """Each position less its own part: with even weights their margin is TDPO's."""
    plain = random_outputs("diffusion_dpo")
    even, one_span = torch.ones_like(plain.policy[:, :, :1]), torch.ones(len(plain.policy), 1, dtype=torch.long)
    outputs = replace(plain, mask=even, known_teacher_drift=even, segment_labels=one_span)
    for through_winner in (True, False):
        margins = []
        for objective in (build_objective(name, beta=BETA, **given), partial(diffusion_dpo, beta=BETA)):
            policy = plain.policy.clone().requires_grad_()
            loss = objective(kl_correction(replace(outputs, policy=policy), through_winner=through_winner))
            assert loss.margin is not None
            margins.append((loss.margin, *torch.autograd.grad(loss.margin.sum(), policy)))
        for of_positions, of_wholes in zip(*margins, strict=True):
            close(of_positions, of_wholes)
    assert not torch.allclose(margins[0][0], diffusion_dpo(plain, beta=BETA).margin)  # type: ignore[arg-type]


def test_without_alpha_the_correction_is_none() -> None:
    outputs = random_outputs("diffusion_dpo")
    close(diffusion_dpo(kl_correction(outputs, alpha=0.0), beta=BETA).value, diffusion_dpo(outputs, beta=BETA).value)


def test_tdpo_2_by_hand() -> None:
    """Errors 0.25 and 0.64 against references 0.36 and 0.49: d = (0.5 − 0.6)² = 0.01 and (0.8 − 0.7)² = 0.01, drifts −0.11 and 0.15;
    m = −(β/2)((−0.11 − α·0.01) − (0.15 − α·0.01)) = 1.3 at β = 10 for any α; its gradient is not."""
    error = torch.tensor([[0.25, 0.64]], dtype=torch.float64, requires_grad=True)
    outputs = outputs_of_errors(error, torch.tensor([[0.36, 0.49]], dtype=torch.float64))
    margin = diffusion_dpo(kl_correction(outputs, alpha=0.5), beta=10.0).margin
    assert margin is not None
    close(margin, [1.3])
    margin.sum().backward()
    # ∂d_l/∂e_l = (√e − √e_ref)/√e = 0.125: ∂m/∂e_l = 5·(1 − 0.5·0.125); the winner's d is a constant.
    close(error.grad, [[-5.0, 5.0 * 0.9375]])


def test_tdpo_1_is_linear_in_the_distance_to_the_reference() -> None:
    outputs = random_outputs("diffusion_dpo")
    assert outputs.reference is not None
    tdpo1 = build_stabiliser("kl_correction", alpha=1.0, through_winner=True)
    once = diffusion_dpo(tdpo1(outputs), beta=BETA).margin
    far = replace(outputs, policy=outputs.reference + 2 * (outputs.policy - outputs.reference))
    twice = diffusion_dpo(tdpo1(far), beta=BETA).margin
    assert once is not None and twice is not None
    close(twice, 2 * once)


def test_alpha_one_takes_away_the_loser_s_quadratic_pull() -> None:
    """∂m/∂δ_l ∝ (q_l − y) + (1 − α)·δ_l: at α = 1 the loser's gradient does not grow with how far the policy has gone."""
    outputs = random_outputs("diffusion_dpo")
    assert outputs.reference is not None
    slopes = []
    for scale in (1.0, 10.0):
        policy = (outputs.reference + scale * (outputs.policy - outputs.reference)).requires_grad_()
        margin = diffusion_dpo(kl_correction(replace(outputs, policy=policy), alpha=1.0), beta=BETA).margin
        assert margin is not None
        slopes.append(torch.autograd.grad(margin.sum(), policy)[0][:, 1])
    close(*slopes)


@pytest.mark.parametrize("names", [("winner_safeguard", "kl_correction"), ("kl_correction", "winner_safeguard")])
def test_with_a_correction_too_the_loser_s_gradient_is_scaled_by_lambda_exactly(names: tuple[str, str]) -> None:
    """In any order of the config: not the error's gradient alone, beside a correction that runs on at full strength."""
    outputs = overlapping()
    settings = {"winner_safeguard": {"mu": 0.6}, "kl_correction": {"alpha": 0.5, "through_winner": True}}

    def stabilised(outputs: Outputs) -> Outputs:
        for stabiliser in build_stabilisers({name: settings[name] for name in names}):
            outputs = stabiliser(outputs)
        return outputs

    corrected = gradient(outputs, lambda each: kl_correction(each, alpha=0.5, through_winner=True))
    safe = gradient(outputs, stabilised)
    close(safe[:, 0], corrected[:, 0])
    for index in range(len(safe)):
        winner, loser = (outputs.policy - outputs.target)[index].flatten(1)
        close(safe[index, 1], float(min(0.4 * winner @ winner / (winner @ loser), 1.0)) * corrected[index, 1])


def test_names_and_arguments() -> None:
    assert list(STABILISERS) == ["winner_safeguard", "list_safeguard", "kl_correction"] and list(ROWS) == list(STABILISERS)
    with pytest.raises(ValueError, match="unknown stabiliser 'safeguard'; choose one of: winner_safeguard"):
        build_stabiliser("safeguard")
    with pytest.raises(ValueError, match="stabiliser 'kl_correction' has no argument 'mu'; it takes: alpha, through_winner"):
        build_stabiliser("kl_correction", mu=0.3)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("winner_safeguard", {"mu": -3}, r"mu is -3; input should be greater than or equal to 0 \(default: 0.9\)"),
        ("winner_safeguard", {"mu": 1.1}, "mu is 1.1; input should be less than or equal to 1"),
        ("winner_safeguard", {"scope": "bath"}, "scope is 'bath'; input should be 'sample' or 'batch'"),
        ("winner_safeguard", {"space": "weights"}, "space is 'weights'; input should be 'output' or 'last_layer'"),
        ("kl_correction", {"alpha": -0.5}, "alpha is -0.5; input should be greater than or equal to 0"),
        ("kl_correction", {"through_winner": 1}, "through_winner is 1; input should be a valid boolean"),
    ],
)
def test_an_argument_of_another_value_is_named(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"stabiliser '{name}': {message}"):
        build_stabiliser(name, **given)
    with pytest.raises(ValidationError, match=rf"stabiliser '{name}': {message}"):
        Train.model_validate({"stabilisers": {name: given}})
