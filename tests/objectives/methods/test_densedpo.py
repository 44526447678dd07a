"""DenseDPO: −log σ(mean_{l≠0} l_f·m[f]), m[f] the margin of index 0 over index 1 in time span f, l_f its label."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_error, naive_groups, outputs_of_errors, random_outputs, swapped

from diffalign.objectives.densedpo import densedpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.tensors import span_shares

AGGREGATES = ("inside", "sum", "outside")
VARIANTS = ({"aggregate": "sum"}, {"aggregate": "outside"})
EXEMPT = {
    "signs": "a span's label says which of the two is better there, and the labels of these groups cancel",
    "margin": "as for the signs",
    "swap": "labels travel with the samples: exchanging both leaves the loss",
    "any shape": "the first axis is time, and is what the spans cut",
}


def naive(group: Group, *, beta: float, aggregate: str) -> float:
    spans, steps = len(group.segment_labels), group.policy.shape[2]
    terms = []
    for f, label in enumerate(group.segment_labels):
        if label == 0:
            continue
        drift, inside = [0.0, 0.0], 0.0
        for step in range(steps):  # in units of 1 / (steps · spans) of the whole
            share = max(0, min((step + 1) * spans, (f + 1) * steps) - max(step * spans, f * steps)) / spans
            if group.segment_shares is not None:
                share = group.segment_shares[f, step]
            policy, reference, target = (each[:, :, step] for each in (group.policy, group.reference, group.target))
            for k in (0, 1):
                drift[k] += share * (naive_error(policy[k], target[k]) - naive_error(reference[k], target[k]))
            inside += share
        terms.append(label * -(beta / 2) * (drift[0] - drift[1]) / inside)
    if not terms:
        return 0.0
    if aggregate == "outside":
        return sum(math.log1p(math.exp(-term)) for term in terms) / len(terms)
    return math.log1p(math.exp(-sum(terms) / (len(terms) if aggregate == "inside" else 1)))


# The second of three steps lies across both spans, and a third span is another group's.
ACROSS = {"segment_labels": [1, 1, 0], "segment_shares": [[1.0, 0.25, 0.0], [0.0, 0.75, 1.0], [0.0, 0.0, 0.0]]}
# m[f] = 1.5 in each span. Labels +, +, −: mean ½, sum 1.5, and ⅓(2·sp(−1.5) + sp(1.5)) = sp(−1.5) + ½; +, tie: 1.5; −: −1.5; only
# ties: 0; two spans of shares, both +: mean 1.5, sum 3.
HAND = (
    Hand((0.3, 0.6), 0.474076984180106681, (0.5, 0.5), {"beta": 10.0}, {"segment_labels": [1, 1, -1]}),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0, "aggregate": "sum"}, {"segment_labels": [1, 1, -1]}),
    Hand((0.3, 0.6), 0.701413277982752409, (0.5, 0.5), {"beta": 10.0, "aggregate": "outside"}, {"segment_labels": [1, 1, -1]}),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0}, {"segment_labels": [1, 0]}),
    Hand((0.3, 0.6), 1.701413277982752409, (0.5, 0.5), {"beta": 10.0}, {"segment_labels": [-1]}),
    Hand((0.4995, 0.5005), 0.474076984180106681, (0.5, 0.5), more={"segment_labels": [0, 1, 0]}),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0}, ACROSS),
    Hand((0.3, 0.6), 0.0485873515737420588, (0.5, 0.5), {"beta": 10.0, "aggregate": "sum"}, ACROSS),
    Hand((0.3, 0.6), 0.201413277982752409, (0.5, 0.5), {"beta": 10.0, "aggregate": "outside"}, ACROSS),
    *(Hand((0.3, 0.6), 0.0, (0.5, 0.5), {"aggregate": each}, {"segment_labels": [0, 0, 0]}) for each in AGGREGATES),
)


def labelled(labels: list[int], *, groups: int = 5) -> torch.Tensor:
    return torch.tensor([labels] * groups)


@pytest.mark.parametrize("shape", [(4, 7, 2, 3), (2, 16)], ids=["7 frames", "16 samples"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_each_aggregate_is_its_loop(aggregate, shape) -> None:
    """Where frames lie across two spans too: 7 frames in 3 spans, even or as shares say."""
    outputs = random_outputs("densedpo", shape)
    shares = torch.rand(5, 3, shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for each in (outputs, replace(outputs, segment_shares=shares)):
        expected = [naive(group, beta=BETA, aggregate=aggregate) for group in naive_groups(each)]
        close(densedpo(each, beta=BETA, aggregate=aggregate).value, expected)


def test_spans_of_one_label_are_dpo() -> None:
    """Equal spans, all won by index 0: the mean of the spans' margins is the margin; in one span all aggregates are DPO."""
    outputs = random_outputs("densedpo", (4, 6, 5))
    expected = diffusion_dpo(outputs, beta=BETA).value
    close(densedpo(replace(outputs, segment_labels=labelled([1, 1, 1])), beta=BETA).value, expected)
    for aggregate in AGGREGATES:
        close(densedpo(replace(outputs, segment_labels=labelled([1])), beta=BETA, aggregate=aggregate).value, expected)
    close(
        densedpo(replace(outputs, segment_labels=labelled([-1, -1])), beta=BETA).value,
        diffusion_dpo(swapped(outputs), beta=BETA).value,
    )


def test_what_is_compared_is_the_margin_of_each_judged_span() -> None:
    """m[f] = 5·(0.2 + 0.1) = 1.5 for index 0, which is with the first span's label, against the third's; a tie is no judgement."""
    error, reference = torch.tensor([[0.3, 0.6]], dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64)
    outputs = outputs_of_errors(error, reference, segment_labels=torch.tensor([[1, 0, -1]]))
    close(densedpo(outputs, beta=10.0).compared, [[1.5, math.nan, -1.5]])


def test_labels_travel_with_the_samples() -> None:
    outputs = random_outputs("densedpo")
    close(densedpo(swapped(outputs), beta=BETA).value, densedpo(outputs, beta=BETA).value)


def test_outside_is_never_below_inside() -> None:
    """Jensen: the mean of a convex link is above the link of the mean, strictly where spans differ."""
    outputs = random_outputs("densedpo")
    outside, inside = (densedpo(outputs, beta=BETA, aggregate=aggregate).value for aggregate in ("outside", "inside"))
    assert bool((outside > inside + 1e-6).all())


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_ties_have_no_gradient(aggregate) -> None:
    """In a span that is tied, and in a group of nothing but ties, where a mean over no span would be 0/0."""
    outputs = random_outputs("densedpo", (4, 6, 5), groups=2)
    policy = outputs.policy.clone().requires_grad_()
    labels = torch.tensor([[1, 0, -1], [0, 0, 0]])
    densedpo(replace(outputs, policy=policy, segment_labels=labels), beta=BETA, aggregate=aggregate).value.sum().backward()
    assert policy.grad is not None
    moves = policy.grad != 0
    assert bool(moves[0, :, :, :2].all()) and bool(moves[0, :, :, 4:].all())
    assert not bool(moves[0, :, :, 2:4].any()) and not bool(moves[1].any())


def test_a_span_won_by_index_1_pushes_the_other_way() -> None:
    """A step down brings index 0 nearer its target in its spans and away from it in those of index 1."""
    outputs = random_outputs("densedpo", (4, 6, 5))
    policy = outputs.policy.clone().requires_grad_()
    densedpo(replace(outputs, policy=policy, segment_labels=labelled([1, -1])), beta=BETA).value.sum().backward()
    assert policy.grad is not None
    towards = (policy.grad * (outputs.policy - outputs.target)).sum((2, 4))
    assert bool((towards[:, 0, :3] > 0).all()) and bool((towards[:, 0, 3:] < 0).all())
    assert bool((towards[:, 1, :3] < 0).all()) and bool((towards[:, 1, 3:] > 0).all())


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_more_steps_to_a_span_leave_the_value(aggregate) -> None:
    """β is of spans: each step twice is the same clip, cut finer."""
    outputs = replace(random_outputs("densedpo", (4, 5, 5)), segment_labels=labelled([1, -1, 1]))
    shares = span_shares([0, 1 / 17, 5 / 17, 9 / 17, 13 / 17, 1], 3)
    fine = {key: getattr(outputs, key).repeat_interleave(2, 3) for key in ("policy", "reference", "target")}
    expected = densedpo(replace(outputs, segment_shares=shares), beta=BETA, aggregate=aggregate).value
    twice = replace(outputs, **fine, segment_shares=shares.repeat_interleave(2, 1))
    close(densedpo(twice, beta=BETA, aggregate=aggregate).value, expected)


def test_a_step_counts_in_its_spans_by_its_shares() -> None:
    """Of the second step a quarter lies in the first span, won by index 0, and three quarters in a tie: of the first span's 1¼ steps it is
    a fifth."""
    outputs = random_outputs("densedpo", (4, 3, 5), groups=1)
    policy = torch.ones_like(outputs.policy).requires_grad_()
    shares = torch.tensor([[[1.0, 0.25, 0.0], [0.0, 0.75, 1.0]]])
    moved = replace(
        outputs, policy=policy, target=torch.zeros_like(policy), segment_labels=labelled([1, 0], groups=1), segment_shares=shares
    )
    densedpo(moved, beta=BETA).value.sum().backward()
    assert policy.grad is not None
    share = policy.grad[0, 0, 0, :, 0] / policy.grad[0, 0, 0, 0, 0]
    close(share, [1.0, 0.25, 0.0])


def test_refuses_more_spans_than_time_steps() -> None:
    """As many are as fine as it gets."""
    outputs = random_outputs("densedpo", (4, 2, 9))
    assert densedpo(replace(outputs, segment_labels=labelled([1, 1])), beta=BETA).value.shape == (5,)
    with pytest.raises(ValueError, match="3"):
        densedpo(replace(outputs, segment_labels=labelled([1, 1, 1])), beta=BETA)


def test_missing_labels_are_an_error() -> None:
    with pytest.raises(ValueError, match="segment_labels"):
        densedpo(replace(random_outputs("densedpo"), segment_labels=None), beta=BETA)
