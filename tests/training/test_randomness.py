"""Draws are a function of their key alone; the order is a permutation per epoch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diffalign.training.randomness import Order, generator, seed_of


def test_a_seed_is_a_function_of_its_key() -> None:
    assert seed_of(0, "group", 3, 1) == seed_of(0, "group", 3, 1)
    keys = [(seed, "group", group, draw) for seed in range(3) for group in range(12) for draw in range(12)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert seed_of(1, 23) != seed_of(12, 3) != seed_of("1", "2", "3")  # parts do not run together
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)


def test_a_seed_is_the_same_on_every_machine_and_process() -> None:
    """The first value is written down: a change of it would break the resume of every run that exists."""
    assert seed_of(0, "group", 3, 1) == KNOWN
    code = "from diffalign.training.randomness import seed_of; print(seed_of(0, 'group', 3, 1))"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == KNOWN


KNOWN = 6977760311371659461


def test_draws_depend_on_nothing_drawn_before() -> None:
    first = torch.randn(5, generator=generator(7, "group", 1, 0))
    torch.randn(100)
    generator(7, "group", 2, 0)
    assert torch.equal(first, torch.randn(5, generator=generator(7, "group", 1, 0)))
    assert not torch.equal(first, torch.randn(5, generator=generator(7, "group", 1, 1)))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_epoch_is_a_permutation(size: int) -> None:
    order = Order(size, seed=3)
    for epoch in range(3):
        visits = [order.at(epoch * size + place) for place in range(size)]
        assert sorted(group for group, _ in visits) == list(range(size))
        assert {draw for _, draw in visits} == {epoch}
    if size == 100:
        epochs = [[Order(size, 3).at(epoch * size + place)[0] for place in range(size)] for epoch in range(2)]
        assert epochs[0] != epochs[1] and epochs[0] != list(range(size))


def test_the_order_is_a_function_of_the_position() -> None:
    straight = [Order(7, 3).at(position) for position in range(30)]
    order = Order(7, 3)
    assert [order.at(position) for position in reversed(range(30))] == straight[::-1]
    assert straight != [Order(7, 4).at(position) for position in range(30)]


def test_no_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 groups to train on; at least one"):
        Order(0, 0)
