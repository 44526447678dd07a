"""Optimisers and schedules: values by hand."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from diffalign.training.optimizer import build_optimizer, learning_rate_factor
from diffalign.training.settings import Settings


def factors(**settings: object) -> list[float]:
    made = Settings(steps=6, **settings)  # type: ignore[arg-type]
    return [learning_rate_factor(step, made) for step in range(made.steps)]


def test_schedules_by_hand() -> None:
    assert factors() == [1.0] * 6
    assert factors(warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors(schedule="linear", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    half = math.sqrt(0.5)
    assert factors(schedule="cosine", warmup_steps=2) == pytest.approx([0.5, 1.0, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert factors(schedule="linear", warmup_steps=2, schedule_steps=10) == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625])
    assert factors(warmup_steps=60) == pytest.approx([(step + 1) / 60 for step in range(6)])


def test_a_schedule_shorter_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule_steps 5 is less than steps 6: .* give at least 6, or leave it out"):
        Settings(steps=6, schedule="cosine", schedule_steps=5)


def test_one_step_of_adamw_by_hand() -> None:
    """First step: m̂ = g, v̂ = g², so w ← w·(1 − lr·decay) − lr·g/(|g| + ε)."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = build_optimizer([weight], Settings(learning_rate=0.1, weight_decay=0.5, adam_epsilon=1e-3))
    weight.grad = torch.tensor([0.3, -4.0], dtype=torch.float64)
    optimizer.step()
    expected = [1.0 * 0.95 - 0.1 * 0.3 / 0.301, -2.0 * 0.95 + 0.1 * 4 / 4.001]
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


def test_settings_reach_the_optimizer() -> None:
    settings = Settings(learning_rate=3e-4, adam_betas=(0.8, 0.95), adam_epsilon=1e-6, weight_decay=0.2)
    [group] = build_optimizer([nn.Parameter(torch.ones(1))], settings).param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-4, (0.8, 0.95), 1e-6, 0.2)
    [group] = build_optimizer([nn.Parameter(torch.ones(1))], settings.model_copy(update={"optimizer": "adafactor"})).param_groups
    assert (group["lr"], group["scale_parameter"], group["relative_step"]) == (3e-4, False, False)


BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}


@pytest.mark.parametrize("name", BITSANDBYTES)
def test_without_its_library_an_optimizer_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=rf"{name} needs bitsandbytes; install it with: pip install 'diffalign\[bitsandbytes\]'"):
        build_optimizer([nn.Parameter(torch.ones(1))], Settings.model_validate({"optimizer": name}))


@pytest.mark.parametrize(("name", "kind"), BITSANDBYTES.items())
def test_each_name_is_its_class_of_the_library(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the library's classes, which takes no argument that theirs do not."""

    class Adam:
        def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
            self.taken = (params, lr, betas, eps, weight_decay)

    library, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    classes = {each: type(each, (Adam,), {}) for each in BITSANDBYTES.values()}
    for each, own in classes.items():
        setattr(optim, each, own)
    library.optim = optim  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    values = {"learning_rate": 3e-4, "adam_betas": (0.8, 0.95), "adam_epsilon": 1e-6, "weight_decay": 0.2}
    settings, weight = Settings.model_validate({"optimizer": name, **values}), nn.Parameter(torch.ones(1, device="meta"))
    made: Any = build_optimizer([weight], settings)
    assert type(made) is classes[kind] and made.taken == ([weight], 3e-4, (0.8, 0.95), 1e-6, 0.2)
    if name.startswith("paged"):
        with pytest.raises(
            ValueError, match=f"{name} moves between a GPU and the machine's memory, and the model is on 'cpu'; choose adamw"
        ):
            build_optimizer([nn.Parameter(torch.ones(1))], settings)
