"""CPO and Triple-PO: −log σ((β/2)(e_l − e_w)) + sft·(β/2)·e_gold, without reference; a pair's winner is its gold."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import BETA, Group, Hand, close, naive_groups, outputs_of_errors, permuted, random_outputs

from diffalign.objectives.cpo import cpo
from diffalign.objectives.sft import sft

VARIANTS = ({"sft": 0.7, "relative": False},)


def naive(group: Group, *, beta: float, sft: float, relative: bool = True) -> float:
    gold, winner, loser = (group.error(len(group.policy) + place) for place in (-len(group.policy), -2, -1))
    return math.log1p(math.exp(-beta / 2 * (loser - winner))) + (sft * beta / 2 if relative else sft) * gold


# m = 1.5 and ½·5·0.3; gold 0.2 before the same pair: ½·5·0.2; gold 0.2, m = −1.5 and 0.1·5·0.2; m = ½ and ½·250·0.5 at the defaults;
# m = 1.5 and 1·0.3.
HAND = (
    Hand((0.3, 0.6), 0.951413277982752409, arguments={"beta": 10.0}),
    Hand((0.2, 0.3, 0.6), 0.701413277982752409, arguments={"beta": 10.0}),
    Hand((0.2, 0.6, 0.3), 1.80141327798275241, arguments={"beta": 10.0, "sft": 0.1}),
    Hand((0.5, 0.502), 62.974076984180106681),
    Hand((0.3, 0.6), 0.501413277982752409, arguments={"beta": 10.0, "sft": 1.0, "relative": False}),
)


def test_triples_equal_the_loop() -> None:
    outputs = random_outputs("cpo", samples=3)
    close(cpo(outputs, beta=BETA, sft=0.4).value, [naive(group, beta=BETA, sft=0.4) for group in naive_groups(outputs)])


def test_a_winner_that_is_the_gold_makes_a_pair_of_the_triple() -> None:
    outputs = random_outputs("cpo")
    close(cpo(permuted(outputs, [0, 0, 1]), beta=BETA).value, cpo(outputs, beta=BETA).value)


@pytest.mark.parametrize("samples", [2, 3])
def test_ends_at_sft_on_the_gold(samples) -> None:
    """β → 0 at a weight that does not follow it: ln 2 + 0.7·e_gold."""
    outputs = random_outputs("cpo", samples=samples)
    close(cpo(outputs, beta=1e-12, sft=0.7, relative=False).value, math.log(2) + 0.7 * sft(outputs).value)


def test_each_place_of_a_triple_has_its_pull() -> None:
    """∂L/∂e = (β/2)·(sft, σ(−m), −σ(−m)) for gold, winner, loser; m = 0 here."""
    error = torch.full((1, 3), 0.5, dtype=torch.float64, requires_grad=True)
    cpo(outputs_of_errors(error), beta=10.0, sft=0.3).value.sum().backward()
    close(error.grad, [[1.5, 2.5, -2.5]])


def test_pulls_the_winner_down_at_any_margin() -> None:
    """∂L/∂e_w = (β/2)(σ(−m) + sft): at m = 8,000 the pair has been let go, the winner has not."""
    error = torch.tensor([[100.0, 1700.0]], dtype=torch.float64, requires_grad=True)
    cpo(outputs_of_errors(error), beta=10.0, sft=0.3).value.sum().backward()
    close(error.grad, [[1.5, 0.0]])


@pytest.mark.parametrize("samples", [1, 4])
def test_takes_pairs_and_triples_only(samples) -> None:
    with pytest.raises(ValueError, match=f"K = {samples}"):
        cpo(random_outputs("cpo", samples=samples))
