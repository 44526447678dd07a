"""Supervised fine-tuning: e_w."""

from __future__ import annotations

from objective_checks import Group, Hand, close, random_outputs

from diffalign.objectives.sft import sft


def naive(group: Group) -> float:
    return group.error(0)


HAND = (Hand((0.3, 0.6), 0.3), Hand((0.6, 0.3), 0.6))


def test_ignores_reference_and_loser() -> None:
    outputs = random_outputs("sft")
    loss = sft(outputs)
    close(loss.value, outputs.error[:, 0])
    assert loss.margin is None
