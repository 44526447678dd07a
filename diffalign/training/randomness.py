"""Randomness as a function of what it is for, never of rank, worker, batch size or of what was drawn before."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2⁶³) from a key such as (seed, "noise", group, draw): the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*key)`."""
    return torch.Generator().manual_seed(seed_of(*key))


@dataclass(frozen=True)
class Stage:
    """From the place `begin` of the stream on, until the next stage, the groups of `pool` (ascending) are visited."""

    begin: int
    pool: Sequence[int]


class Order:
    """The order in which groups are visited: a fresh permutation of the pool per epoch, a function of (seed, epoch) and the pool alone.

    `at(position)` is (group, draw): the group at this place of the endless stream, and the epoch. A stage begins a new epoch, and a group
    is once in each, so (group, draw) never comes twice; in a single stage the draw is how often the group came before.
    stages   in order, the first from place 0; none: one, of all groups, which is shuffling
    """

    def __init__(self, size: int, seed: int, stages: Sequence[Stage] = ()):
        if size < 1:
            raise ValueError(f"there are {size} groups to train on; at least one is needed")
        self.seed, self.stages = seed, stages or (Stage(0, range(size)),)
        self._begins = [stage.begin for stage in self.stages]
        self._first_epochs = [0]
        for stage, following in zip(self.stages, self.stages[1:]):
            self._first_epochs.append(self._first_epochs[-1] + ceil((following.begin - stage.begin) / len(stage.pool)))
        self._epoch, self._permutation = -1, torch.empty(0)

    def at(self, position: int) -> tuple[int, int]:
        number = bisect_right(self._begins, position) - 1
        pool = self.stages[number].pool
        epoch, place = divmod(position - self._begins[number], len(pool))
        epoch += self._first_epochs[number]
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, torch.randperm(len(pool), generator=generator(self.seed, "order", epoch))
        return pool[int(self._permutation[place])], epoch
