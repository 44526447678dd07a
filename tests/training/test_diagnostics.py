"""Every diagnostic number by hand, and every warning: it fires where it should, and a healthy run hears none."""

from __future__ import annotations

import math
import random

import pytest
import torch

from diffalign.objectives.diffusion_dpo import diffusion_dpo
from diffalign.objectives.sft import sft
from diffalign.tensors import Outputs
from diffalign.training.diagnostics import check_start, numbers, summarise, warnings


def outputs() -> Outputs:
    """Two pairs of one-number samples. Errors: policy ((1, 4), (9, 1)), reference ((4, 1), (9, 1)); drifts ((−3, 3), (0, 0))."""

    def tensor(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).view(2, 2, 1, 1)

    return Outputs(tensor(1, 2, 3, 1), tensor(0, 0, 0, 0), torch.tensor([0, 999]), reference=tensor(2, 1, -3, 1))


def test_numbers_by_hand() -> None:
    found = numbers(outputs(), diffusion_dpo(outputs(), beta=0.5))
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


def test_numbers_without_a_reference() -> None:
    plain = Outputs(outputs().policy[:, :1], outputs().target[:, :1], torch.tensor([0, 999]))
    assert set(numbers(plain, sft(plain))) == {"loss", "timestep", "error/policy_w"}
    known = Outputs(
        outputs().policy, outputs().target, torch.tensor([0, 999]), known_reference_error=torch.tensor([[4.0, 1.0], [9.0, 1.0]])
    )
    found = numbers(known, diffusion_dpo(known, beta=0.5))
    assert found["win_adv"].tolist() == [3, 0] and "distance" not in found


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


def history(steps: int = 300, **changes: object) -> list[dict[str, float]]:
    """A healthy run of 32 pairs a step: accuracy climbs to 0.7, advantages grow from noise. `changes`: functions of the step."""
    draw = random.Random(0)
    made = []
    for step in range(steps):
        grown = min(step / 200, 1)
        metrics = {
            "step": step + 1, "lr": 1e-4, "loss": 0.69 - 0.1 * grown, "rewards/accuracies": 0.55 + 0.15 * grown + draw.uniform(-0.1, 0.1),
            "rewards/margins": 0.5 * grown, "largest_logit": 1 + 4 * grown, "gradient_factor": 0.5 - 0.2 * grown,
            "win_adv": 1e-4 * grown + draw.gauss(0, 1e-5), "lose_adv": 3e-4 * grown + draw.gauss(0, 1e-5),
            "distance": 1e-3 * grown + 1e-6 * step, "grad_norm": draw.uniform(0.5, 2), "groups/t_bucket_0": 20.0, "groups/t_bucket_3": 12.0,
        }  # fmt: skip
        made.append(metrics | {name.replace("__", "/"): function(step) for name, function in changes.items()})  # type: ignore[operator]
    return made


def test_a_healthy_run_hears_nothing() -> None:
    run = history()
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
    "too easy": ({"rewards__accuracies": lambda step: 0.99}, r"implicit accuracy 0\.99 with a growing margin: the pairs are too easy"),
    "displacement": (
        {"win_adv": lambda step: -1e-3},
        r"win_adv falls below 0 \(-0\.001 over 50 steps\) while lose_adv rises: likelihood displacement",
    ),
    "against the labels": (
        {"win_adv": lambda step: -1e-3, "lose_adv": lambda step: -2e-3},
        r"win_adv and lose_adv both fall \(-0\.001, -0\.002\).*swapped",
    ),
    "saturated": ({"gradient_factor": lambda step: 0.01}, r"gradient factor 0\.010: 99% of the pairs teach nothing now"),
    "running away": (
        {"distance": lambda step: 1.1 ** (step - 299)},
        r"distance to the reference ×\d+ in 100 steps: expect noise images soon",
    ),
    "reference moves": ({"distance": lambda step: 0.0}, r"still exactly its reference after 10 updates"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_each_warning_fires_alone(kind: str) -> None:
    import re

    changes, sentence = WRONG[kind]
    said = warnings(history(**changes))
    assert list(said) == [kind]
    assert re.search(sentence, said[kind]), said[kind]


def test_too_few_pairs_are_not_judged() -> None:
    assert warnings(history(78, rewards__accuracies=lambda step: 0.5)) == {}  # 2,496 pairs
    assert list(warnings(history(79, rewards__accuracies=lambda step: 0.5))) == ["accuracy at chance"]


def test_a_run_without_margins_is_not_judged() -> None:
    assert warnings([{"step": 1, "loss": 1.0, "lr": 1e-4, "grad_norm": 1.0}] * 300) == {}
