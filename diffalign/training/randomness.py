"""Randomness as a function of what it is for, never of rank, worker, batch size or of what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*key: int | str) -> int:
    """A seed in [0, 2⁶³) from a key such as (seed, "noise", group, draw): the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*key)`."""
    return torch.Generator().manual_seed(seed_of(*key))


class Order:
    """The order in which groups are visited: a fresh permutation per epoch, a function of (seed, epoch) alone.

    `at(position)` is (group, draw): the group at this place of the endless stream, and how often it came before.
    """

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise ValueError(f"there are {size} groups to train on; at least one is needed")
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, torch.empty(0)

    def at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
        return int(self._permutation[place]), epoch
