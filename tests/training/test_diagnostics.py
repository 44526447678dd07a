"""Every diagnostic number by hand, and every warning: it fires where it should, and a healthy run hears none."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.objectives import build_objective
from diffalign.objectives.aot import aot
from diffalign.objectives.capo import capo
from diffalign.objectives.cpo import cpo
from diffalign.objectives.densedpo import densedpo
from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.diffusion_kto import diffusion_kto
from diffalign.objectives.modpo import modpo
from diffalign.objectives.rankdpo import rankdpo
from diffalign.objectives.rlength import rlength
from diffalign.objectives.sft import sft
from diffalign.objectives.simpo import simpo
from diffalign.stabilisers.kl_correction import kl_correction
from diffalign.tensors import Loss, Outputs
from diffalign.training.diagnostics import check_start, numbers, summarise, warnings


def outputs() -> Outputs:
    """Two pairs of one-number samples. Errors: policy ((1, 4), (9, 1)), reference ((4, 1), (9, 1)); drifts ((−3, 3), (0, 0))."""

    def tensor(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).view(2, 2, 1, 1)

    return Outputs(tensor(1, 2, 3, 1), tensor(0, 0, 0, 0), torch.tensor([0, 999]), reference=tensor(2, 1, -3, 1))


def with_gradient(plain: Outputs) -> Outputs:
    return replace(plain, policy=plain.policy.clone().requires_grad_())


def test_numbers_by_hand() -> None:
    found = numbers(policy := with_gradient(outputs()), diffusion_dpo(policy, beta=0.5))
    margin = 0.25 * 6  # ½β(win_adv + lose_adv)
    expected = {
        "error/policy_w": [1, 9], "error/policy_l": [4, 1], "error/reference_w": [4, 9], "error/reference_l": [1, 1],
        "win_adv": [3, 0], "lose_adv": [3, 0], "rewards/margins": [margin, 0], "rewards/accuracies": [1, 0.5], "negative_margins": [0, 0],
        "gradient_factor": [1 / (1 + math.exp(margin)), 0.5], "largest_logit": [margin, 0], "distance": [(1 + 1) / 2, (36 + 0) / 2],
        "loss": [math.log(1 + math.exp(-margin)), math.log(2)], "timestep": [0, 999],
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values, rel=1e-6), name
        assert not found[name].requires_grad


SLOPES = {  # |∂value/∂margin| of the first pair, whose margin is `margin`
    "ipo": (5.0, 9.0), "cdpo": (5.0, 0.1 - 1 / (1 + math.exp(5))), "hinge": (1.5, 0.0), "hinge at work": (0.5, 1.0),
    "rdpo": (5.0, 1 / (1 + math.exp(5)) + 0.125), "dspo": (1.0, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOPES)
def test_the_gradient_factor_is_the_slope_of_the_methods_own_loss(name: str) -> None:
    margin, expected = SLOPES[name]
    arguments = {"beta": margin / 3} | ({"flip_rate": 0.1} if name in ("cdpo", "rdpo") else {})  # m = ½β·6
    found = numbers(policy := with_gradient(outputs()), build_objective(name.partition(" ")[0], **arguments)(policy))
    assert found["rewards/margins"][0].item() == pytest.approx(margin)
    if name == "dspo":  # it pushes a target: no link whose slope says what a pair teaches
        assert "gradient_factor" not in found
        return
    assert found["gradient_factor"][0].item() == pytest.approx(expected, rel=1e-6)


def test_numbers_without_a_reference() -> None:
    plain = Outputs(outputs().policy[:, :1], outputs().target[:, :1], torch.tensor([0, 999]))
    assert set(numbers(plain, sft(plain))) == {"loss", "timestep", "error/policy_w"}
    known = Outputs(
        outputs().policy, outputs().target, torch.tensor([0, 999]), known_reference_error=torch.tensor([[4.0, 1.0], [9.0, 1.0]])
    )
    found = numbers(known, diffusion_dpo(known, beta=0.5))
    assert found["win_adv"].tolist() == [3, 0] and "distance" not in found


def of_errors(policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]] | None = None, **more: Any) -> Outputs:
    """Groups of one-number samples with these errors."""

    def spread(errors: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(errors, dtype=torch.float64).sqrt()[..., None, None]

    prediction = spread(policy)
    frozen = None if reference is None else spread(reference)
    return Outputs(prediction, torch.zeros_like(prediction), torch.zeros(len(policy)), reference=frozen, **more)


def test_a_correction_is_no_improvement() -> None:
    """A stabiliser takes a part of the distance off the error; what is shown is the error."""
    plain = numbers(outputs(), diffusion_dpo(outputs()))
    corrected = kl_correction(outputs())
    assert corrected.correction is not None and bool((corrected.correction != 0).any())
    for name, values in numbers(corrected, diffusion_dpo(corrected)).items():
        if name.startswith("error") or name.endswith("adv"):
            assert values.tolist() == pytest.approx(plain[name].tolist()), name


def test_lists_show_concordance_the_first_and_the_last() -> None:
    """Drifts ((0, 1, 2, −1), (0, 0, 0, 0)), so at β = 2 rewards ((0, −1, −2, 1), 0…): of the first's six pairs three are right."""
    found = of_errors([[1, 2, 3, 1], [1, 1, 1, 1]], [[1, 1, 1, 2], [1, 1, 1, 1]], scores=torch.tensor([[[4.0], [3], [2], [1]]] * 2))
    measured = numbers(found, rankdpo(found, beta=2.0))
    assert measured["rewards/accuracies"].tolist() == pytest.approx([3 / 6, 1 / 2]) and measured["judged"].tolist() == [6, 6]
    assert measured["win_adv"].tolist() == pytest.approx([0, 0]) and measured["lose_adv"].tolist() == pytest.approx([-1, 0])
    assert measured["error/policy_w"].tolist() == pytest.approx([1, 1]) and measured["error/reference_l"].tolist() == pytest.approx([2, 1])
    assert measured["largest_logit"].tolist() == pytest.approx([3, 0])
    assert not {"rewards/margins", "gradient_factor", "negative_margins"} & set(measured)


def test_a_triple_is_judged_by_its_pair() -> None:
    """Errors (gold, winner, loser): margin ½·4·(e_l − e_w), right where it is above 0, whatever the gold's error is."""
    found = of_errors([[9, 1, 2], [1, 5, 4]], scores=torch.tensor([[[3.0], [2], [1]]] * 2))
    measured = numbers(found, cpo(found, beta=4.0))
    assert measured["rewards/margins"].tolist() == pytest.approx([2, -2]) and measured["rewards/accuracies"].tolist() == [1, 0]
    for side, errors in (("g", [9, 1]), ("w", [1, 5]), ("l", [2, 4])):
        assert measured[f"error/policy_{side}"].tolist() == pytest.approx(errors), side
    assert not {"win_adv", "gold_adv", "lose_adv", "judged"} & set(measured)


@pytest.mark.parametrize("objective", [rankdpo, capo])
def test_a_list_is_judged_by_the_ranking_of_the_method(objective: Callable[..., Loss]) -> None:
    """Three judges, of whom the last two agree on the reverse of the first: index 2 is best, and the policy has drifts (2, 1, −3).

    The rewards are in the order that the two judges want. The second row's samples are level: its first is the best, its last the worst.
    """
    scores = torch.tensor([[[3.0, 1, 1], [2, 2, 2], [1, 3, 3]], [[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]], dtype=torch.float64)
    errors = torch.tensor([[4.0, 3, 2], [1, 1, 1]], dtype=torch.float64)
    reference = torch.tensor([[2.0, 2, 5], [2, 2, 3]], dtype=torch.float64)
    as_outputs = {"policy": errors.sqrt()[..., None, None], "reference": reference.sqrt()[..., None, None]}
    found = Outputs(target=torch.zeros_like(as_outputs["policy"]), timestep=torch.tensor([0, 0]), scores=scores, **as_outputs)
    measured = numbers(found, objective(found))
    assert measured["rewards/accuracies"][0] == 1 and measured["judged"].tolist() == [3, 0] and measured["rewards/accuracies"][1].isnan()
    assert measured["win_adv"].tolist() == pytest.approx([3, 1]) and measured["lose_adv"].tolist() == pytest.approx([2, -2])


def test_pairs_of_a_list_with_equal_scores_are_not_judged() -> None:
    """Rewards (0, −1, −2); scores (2, 2, 1) judge two pairs, (1, 2, 2) two of which none is right, and (1, 1, 1) none."""
    scores = torch.tensor([[2.0, 2, 1], [1, 2, 2], [1, 1, 1]])[..., None]
    found = of_errors([[1, 2, 3]] * 3, [[1, 1, 1]] * 3, scores=scores)
    measured = numbers(found, rankdpo(found, beta=2.0))
    assert measured["rewards/accuracies"].tolist() == pytest.approx([1, 0, math.nan], nan_ok=True)
    assert measured["judged"].tolist() == [2, 2, 0]
    assert summarise(measured, 1000)["rewards/accuracies"] == 0.5
    none = {name: values[2:] for name, values in measured.items()}
    assert "rewards/accuracies" not in summarise(none, 1000) and summarise(none, 1000)["judged"] == 0
    rows = replace(found, scores=None)  # without scores or a ranking the rows are best first
    assert numbers(rows, replace(rankdpo(found, beta=2.0), ranking=None))["rewards/accuracies"].tolist() == pytest.approx([1, 1, 1])


def labelled() -> Outputs:
    """Rewards at β = 2: (1, −1), (0, 3), (0, −2), (1, 1), by label 1: 1, 3, 0, 1, 1 and by label 0: −1, 0, −2."""
    return of_errors(
        [[1, 3], [2, 0], [2, 4], [1, 1]], [[2, 2], [2, 3], [2, 2], [2, 2]], labels=torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1]])
    )  # fmt: skip


def test_single_samples_show_the_area_under_the_curve() -> None:
    """Of 5 × 3 pairs of wanted and unwanted 14 are right and one, 0 against 0, is a tie."""
    measured = numbers(labelled(), diffusion_kto(labelled(), beta=2.0))
    assert "rewards/accuracies" not in measured and "rewards/margins" not in measured
    assert measured["win_adv"].tolist() == pytest.approx([1, 3, 0, 1])
    assert measured["lose_adv"].tolist() == pytest.approx([1, 0, 2, math.nan], nan_ok=True)
    metrics = summarise(measured, 1000)
    assert metrics["rewards/accuracies"] == pytest.approx(14.5 / 15)
    assert metrics["rewards/wanted"] == pytest.approx(6 / 5) and metrics["rewards/unwanted"] == pytest.approx(-1)
    assert metrics["win_adv"] == pytest.approx(5 / 4) and metrics["lose_adv"] == metrics["lose_adv/t_bucket_0"] == pytest.approx(1)
    assert metrics["error/policy_l"] == pytest.approx(3) and metrics["largest_logit"] == pytest.approx(3)
    assert not [name for name in metrics if name.startswith("single")]


def test_a_class_that_is_absent_leaves_no_area() -> None:
    measured = numbers(labelled(), diffusion_kto(labelled(), beta=2.0))
    alone = summarise({name: values[3:] for name, values in measured.items()}, 1000)
    assert alone["rewards/wanted"] == pytest.approx(1) and not {"rewards/unwanted", "rewards/accuracies", "lose_adv"} & set(alone)
    assert all(math.isfinite(value) for value in alone.values())


@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[0, 2], [1, 3]], [[3, 1, 2], [0]]])
def test_the_area_is_of_the_whole_batch_however_it_was_cut(parts: list[list[int]]) -> None:
    """As processes and accumulation cut it: each part is measured alone, and the numbers are put in a row."""
    whole, cut = labelled(), []
    for part in parts:
        assert whole.reference is not None and whole.labels is not None
        one = Outputs(
            whole.policy[part], whole.target[part], whole.timestep[part], reference=whole.reference[part], labels=whole.labels[part]
        )
        cut.append(numbers(one, diffusion_kto(one, beta=2.0)))
    assert all(list(each) == list(cut[0]) for each in cut)
    gathered = {name: torch.cat([each[name] for each in cut]) for name in cut[0]}
    expected = summarise(numbers(whole, diffusion_kto(whole, beta=2.0)), 1000)
    assert summarise(gathered, 1000) == pytest.approx(expected)
    assert summarise(gathered, 1000)["rewards/accuracies"] == expected["rewards/accuracies"]


def test_clips_show_the_share_of_judged_spans() -> None:
    """Two spans of one number. Margins by span at β = 2: (3, −1), labels (1, 1), (1, 0), (−1, 1), (0, 0)."""
    policy = torch.tensor([[[1.0, 1], [2, 1]]]).sqrt().view(1, 2, 1, 2, 1).repeat(4, 1, 1, 1, 1).double()
    reference = torch.tensor([[[2.0, 1], [0, 2]]]).sqrt().view(1, 2, 1, 2, 1).repeat(4, 1, 1, 1, 1).double()
    labels = torch.tensor([[1, 1], [1, 0], [-1, 1], [0, 0]])
    found = Outputs(policy, torch.zeros_like(policy), torch.zeros(4), reference=reference, segment_labels=labels)
    measured = numbers(found, densedpo(found, beta=2.0))
    assert measured["rewards/accuracies"].tolist() == pytest.approx([1 / 2, 1, 0, math.nan], nan_ok=True)
    assert measured["judged"].tolist() == [2, 1, 2, 0]
    assert measured["error/policy"].tolist() == pytest.approx([5 / 4] * 4) and measured["error/reference"].tolist() == pytest.approx(
        [5 / 4] * 4
    )
    assert not {"win_adv", "lose_adv", "error/policy_w"} & set(measured)  # index 0 is not preferred in a clip
    assert measured["rewards/margins"].tolist() == pytest.approx([1, 3, -2, 0])  # what the link saw


def test_without_a_reference_nothing_is_said_to_improve() -> None:
    """A winner of the smaller error is right also where γ has put the margin below 0; equal errors count ½."""
    found = of_errors([[1, 1.1], [1, 1], [2, 1]])
    measured = numbers(found, simpo(found, beta=2.0, gamma=0.5))
    assert measured["rewards/margins"].tolist() == pytest.approx([-0.4, -0.5, -1.5])
    assert measured["rewards/accuracies"].tolist() == [1, 0.5, 0]
    assert not [name for name in measured if name.endswith("adv") or "reference" in name or name == "distance"]


@pytest.mark.parametrize("objective", [modpo, rlength], ids=["modpo", "rlength"])
@pytest.mark.parametrize("gap", [-9.0, 9.0])
def test_an_offset_of_the_margin_is_not_what_the_policy_prefers(objective: Any, gap: float) -> None:
    found = of_errors([[1, 2], [1, 1], [2, 1]], [[1, 1]] * 3, scores=torch.tensor([[[0, gap], [0, 0]]] * 3))
    loss = objective(found, beta=2.0)
    assert loss.margin is not None and len(set(loss.margin.sign().tolist())) < 3
    assert numbers(found, loss)["rewards/accuracies"].tolist() == pytest.approx([1, 0.5, 0])


def test_pairs_are_judged_as_pairs_where_the_link_sorts_the_batch() -> None:
    """Rewards (−1, −2) and (−3, −1): sorted, the winners −3, −1 against the losers −2, −1 are never ahead; one of the two pairs is."""
    found = of_errors([[2, 3], [4, 2]], [[1, 1]] * 2)
    loss = aot(found, beta=2.0)
    assert loss.margin is not None and loss.margin.tolist() == pytest.approx([-1, 0])
    assert numbers(found, loss)["rewards/accuracies"].tolist() == [1, 0]


@pytest.mark.parametrize("count", [1000, 500])
def test_buckets_are_of_the_scheduler_s_own_range(count: int) -> None:
    timestep = torch.tensor([0.0, 0.249, 0.25, 0.5, 0.75, 0.999]) * count
    metrics = summarise(
        {"timestep": timestep.floor(), "win_adv": torch.arange(6.0), "largest_logit": torch.tensor([0.0, 7, 1, 0, 0, 0])}, count
    )
    assert [metrics[f"win_adv/t_bucket_{index}"] for index in range(4)] == [0.5, 2, 3, 4.5]
    assert [metrics[f"groups/t_bucket_{index}"] for index in range(4)] == [2, 1, 1, 2]
    assert metrics["win_adv"] == 2.5 and metrics["largest_logit"] == 7 and "timestep" not in metrics


def test_a_bucket_without_groups_has_no_line() -> None:
    metrics = summarise({"timestep": torch.tensor([10.0]), "win_adv": torch.tensor([1.0])}, 1000)
    assert [name for name in metrics if "bucket" in name] == ["win_adv/t_bucket_0", "groups/t_bucket_0"]


def test_the_first_batch_is_checked() -> None:
    check_start(math.log(2), 0.0, math.log(2), 0.0)
    check_start(500.69, 0.001, 500.69, 0.0)
    check_start(0.3, None, 0.3, None)
    with pytest.raises(
        ValueError, match=r"step 0: loss is 0\.7, expected 0\.693147 at the reference: the reference is not the starting policy"
    ):
        check_start(0.7, 0.0, math.log(2), 0.0)
    with pytest.raises(ValueError, match=r"step 0: margin is 0\.2, expected 0 at the reference"):
        check_start(500.6, 0.2, 500.69, 0.0)  # the loss alone would hide it
    check_start(0.5, None, 0.5, None, 0.2, 0.0)  # rounding
    with pytest.raises(ValueError, match=r"step 0: largest \|logit\| is 170, expected 0 at the reference"):
        check_start(0.5, None, 0.5, None, 170.0, 0.0)  # half of the utilities at 0, half at 1


KINDS = {
    "pairs": ("rewards/margins", "gradient_factor", "largest_logit", "win_adv", "lose_adv", "error/reference_w", "distance"),
    "pairs without a reference": ("rewards/margins", "gradient_factor", "largest_logit"),
    "lists": ("judged", "largest_logit", "win_adv", "lose_adv", "error/reference_w", "distance"),
    "single samples": ("rewards/wanted", "rewards/unwanted", "largest_logit", "win_adv", "lose_adv", "error/reference_w", "distance"),
    "clips": ("rewards/margins", "gradient_factor", "largest_logit", "judged", "error/reference", "distance"),
}  # beside what all of them have


def history(steps: int = 300, rows: str = "pairs", **changes: object) -> list[dict[str, float]]:
    """A healthy run of 32 groups a step: accuracy climbs to 0.7, advantages grow from noise. `changes`: functions of the step."""
    draw = random.Random(0)
    made = []
    for step in range(steps):
        grown = min(step / 200, 1)
        general = {
            "step": step + 1, "lr": 1e-4, "loss": 0.69 - 0.1 * grown, "rewards/accuracies": 0.55 + 0.15 * grown + draw.uniform(-0.1, 0.1),
            "grad_norm": draw.uniform(0.5, 2), "groups/t_bucket_0": 20.0, "groups/t_bucket_3": 12.0,
        }  # fmt: skip
        special = {
            "rewards/margins": 0.5 * grown, "largest_logit": 1 + 4 * grown, "gradient_factor": 0.5 - 0.2 * grown,
            "win_adv": 1e-4 * grown + draw.gauss(0, 1e-5), "lose_adv": 3e-4 * grown + draw.gauss(0, 1e-5),
            "distance": 1e-3 * grown + 1e-6 * step, "error/reference_w": 0.1, "error/reference": 0.1, "judged": 4.0,
            "rewards/wanted": 0.2 * grown, "rewards/unwanted": -0.2 * grown,
        }  # fmt: skip
        metrics = general | {name: special[name] for name in KINDS[rows]}
        made.append(metrics | {name.replace("__", "/"): function(step) for name, function in changes.items()})  # type: ignore[operator]
    return made


@pytest.mark.parametrize("rows", KINDS)
def test_a_healthy_run_hears_nothing(rows: str) -> None:
    run = history(rows=rows)
    for end in range(len(run) + 1):
        assert warnings(run[:end]) == {}, end


def test_noise_around_zero_is_no_alarm() -> None:
    """Before anything is learned both advantages are noise, and a quarter of such windows has both means below 0."""
    draw = random.Random(1)

    def noise(step: int) -> float:
        return draw.gauss(0, 1e-5)

    alarms = sum(bool(warnings(history(50, win_adv=noise, lose_adv=noise, rewards__accuracies=lambda step: 0.55))) for _ in range(200))
    assert alarms <= 10


def test_winners_that_give_way_a_little_while_losers_give_way_a_lot_are_no_alarm() -> None:
    run = history(win_adv=lambda step: -1.5e-3, lose_adv=lambda step: 1e-2)
    assert "displacement" not in warnings(run)
    assert "displacement" in warnings(history(win_adv=lambda step: -3e-3, lose_adv=lambda step: 1e-2))


def test_winners_that_fall_by_design_are_no_displacement() -> None:
    falling = history(win_adv=lambda step: -3e-3, lose_adv=lambda step: 1e-2)
    assert list(warnings(falling)) == ["displacement"] and warnings(falling, winners_fall=True) == {}
    swapped = history(win_adv=lambda step: -3e-3, lose_adv=lambda step: -1e-2)
    assert list(warnings(swapped, winners_fall=True)) == ["against the labels"]


WRONG = {
    "large logits": (
        {"largest_logit": lambda step: 25.0},
        r"largest \|logit\| is 25\.0 \(above 20\): lower learning_rate \(now 0\.0001\), or lower beta",
    ),
    "gradient spike": ({"grad_norm": lambda step: 50.0 if step == 299 else 1.0}, r"gradient norm 50 is over 10 × its median 1 of 50 steps"),
    "accuracy at chance": (
        {"rewards__accuracies": lambda step: 0.5 + 0.1 * (-1) ** step},
        r"implicit accuracy 0\.50 ± 0\.02 after 2528 pairs: check the labels",
    ),
    "too easy": ({"rewards__accuracies": lambda step: 0.99}, r"implicit accuracy 0\.99: the pairs are too easy"),
    "displacement": (
        {"win_adv": lambda step: -1e-3},
        r"win_adv falls below 0 \(-0\.001 over 50 steps\) while lose_adv rises: likelihood displacement",
    ),
    "against the labels": (
        {"win_adv": lambda step: -1e-3, "lose_adv": lambda step: -2e-3},
        r"win_adv and lose_adv both fall \(-0\.001, -0\.002\).*swapped",
    ),
    "saturated": (
        {"gradient_factor": lambda step: 0.01 if step else 0.5},
        r"gradient factor 0\.01, 0\.5 at the start: most pairs teach nothing now",
    ),
    "running away": (
        {"distance": lambda step: 1.1 ** (step - 299)},
        r"distance to the reference ×\d+ in 100 steps: expect samples of noise soon",
    ),
    "reference moves": ({"distance": lambda step: 0.0}, r"still exactly its reference after 10 updates"),
}  # fmt: skip


IN_ITS_WORDS = {  # rows → kind → what it says; a kind that is not there must stay silent
    "pairs": {
        "accuracy at chance": "implicit accuracy 0.50 ± 0.02 after 2528 pairs: check the labels (`chosen` first?)",
        "displacement": "the chosen are forgotten too. Lower lr, raise beta, or hold on to them: objective rpo, more sft",
        "against the labels": "Are chosen and rejected swapped?",
        "too easy": "the pairs are too easy",
        "saturated": "most pairs teach nothing now. Stop here, or bring harder pairs",
        "large logits": "lower learning_rate (now 0.0001), or lower beta",
        "gradient spike": "keep clip_norm",
        "running away": "expect samples of noise soon",
        "reference moves": "still exactly its reference",
    },
    "pairs without a reference": {
        "too easy": "0.99 without a reference: the chosen may be easy to denoise whatever the policy does",
        "saturated": "most pairs teach nothing now. Their errors are far apart as they are: lower beta",
        "large logits": "without a reference it is of the errors as they are: lower beta (mapo: steps)",
        "gradient spike": "keep clip_norm",
    },
    "lists": {
        "accuracy at chance": "pair concordance 0.50 ± 0.02 after 2528 lists: check the labels (best first, and high scores good?)",
        "displacement": "the best are forgotten too. Lower lr, raise beta",
        "against the labels": "Are the lists in reverse order?",
        "too easy": "pair concordance 0.99: the lists are too easy",
        "large logits": "lower learning_rate",
        "gradient spike": "keep clip_norm",
        "running away": "expect samples of noise soon",
        "reference moves": "still exactly its reference",
    },
    "single samples": {
        "accuracy at chance": "AUC 0.50 ± 0.02 after 2528 samples: check the labels (1 for wanted?)",
        "displacement": "the wanted are forgotten too. Lower lr, raise beta, or weigh them more: desirable",
        "against the labels": "Are the labels 0 and 1 swapped?",
        "too easy": "AUC 0.99: the samples are too easy",
        "large logits": "lower learning_rate",
        "gradient spike": "keep clip_norm",
        "running away": "expect samples of noise soon",
        "reference moves": "still exactly its reference",
    },
    "clips": {
        "accuracy at chance": "accuracy of spans 0.50 ± 0.02 after 2528 pairs: check the labels (1 where index 0 is the better one?)",
        "too easy": "accuracy of spans 0.99: the pairs are too easy",
        "saturated": "most pairs teach nothing now. Stop here, or bring harder pairs",
        "large logits": "lower learning_rate",
        "gradient spike": "keep clip_norm",
        "running away": "expect samples of noise soon",
        "reference moves": "still exactly its reference",
    },
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("rows", KINDS)
def test_each_warning_fires_alone_and_only_where_it_has_a_meaning(rows: str, kind: str) -> None:
    changes, sentence = WRONG[kind]
    measured = {"rewards/accuracies", "grad_norm", *KINDS[rows]}
    said = warnings(history(rows=rows, **{name: change for name, change in changes.items() if name.replace("__", "/") in measured}))
    expected = IN_ITS_WORDS[rows].get(kind)
    assert list(said) == ([] if expected is None else [kind])
    if expected is not None:
        assert expected in said[kind], said[kind]
    if rows == "pairs":
        assert re.search(sentence, said[kind]), said[kind]
    if rows in ("lists", "single samples"):
        assert not re.search("chosen|rejected|pairs", " ".join(said.values()))


def test_too_few_pairs_are_not_judged() -> None:
    assert warnings(history(78, rewards__accuracies=lambda step: 0.5)) == {}  # 2,496 pairs
    assert list(warnings(history(79, rewards__accuracies=lambda step: 0.5))) == ["accuracy at chance"]


def test_draws_of_one_group_are_no_groups() -> None:
    """32 rows a step are 8 groups of 4 draws: 2,500 of them are there after 313 steps."""
    assert warnings(history(312, rewards__accuracies=lambda step: 0.5), draws=4) == {}
    [said] = warnings(history(313, rewards__accuracies=lambda step: 0.5), draws=4).values()
    assert "after 2504 pairs" in said


def test_steps_whose_labels_are_all_alike_are_passed_over() -> None:
    """Every third step has wanted samples alone, the last one too: the rest of them is judged."""
    run = history(150, rows="single samples", rewards__accuracies=lambda step: 0.5)
    for metrics in run[2::3]:
        for name in ("rewards/accuracies", "rewards/unwanted", "lose_adv"):
            del metrics[name]
    assert warnings(run[:100]) == {}
    assert "AUC 0.50" in warnings(run)["accuracy at chance"]


@pytest.mark.parametrize("more", [{}, {"win_adv": 1e-4, "error/reference_w": 0.1, "distance": 0.01}], ids=["sft", "fsft"])
def test_a_run_on_demonstrations_alone_is_not_judged(more: dict[str, float]) -> None:
    assert warnings([{"step": 1, "loss": 1.0, "lr": 1e-4, "grad_norm": 1.0, **more}] * 300) == {}


def test_a_run_on_demonstrations_hears_what_is_of_any_run() -> None:
    steps = [{"step": step + 1, "loss": 1.0, "lr": 1e-4, "grad_norm": 50.0 if step == 99 else 1.0, "distance": 0.0} for step in range(100)]
    assert set(warnings(steps)) == {"gradient spike", "reference moves"}
