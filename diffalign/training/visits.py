"""Which groups each step of a run visits, and which of them one process takes in each of its forwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diffalign.training.curriculum import curriculum_stages
from diffalign.training.randomness import Order
from diffalign.training.settings import Curriculum, Settings


@dataclass(frozen=True)
class Visit:
    """One group in a batch, and a number that no other visit of this group has: with the run's seed, the key of its randomness.

    repeat  from 0, where a task draws for one visit more than once
    place   among the visits of the run, from 0
    """

    group: int
    draw: int
    repeat: int = 0
    place: int = 0


class Visits:
    """The visits of a run: a function of its settings, of how many groups there are and of how hard each is; not of the processes.

    micro, accumulation  groups per forward, and forwards per step, of one process
    ValueError where the batch does not divide, or where a curriculum has nothing to sort by.
    """

    def __init__(self, settings: Settings, group_count: int, difficulty: Sequence[float] | None, processes: int):
        self.micro, self.accumulation = split(settings, processes)
        stages = curriculum_stages(settings.order, settings, difficulty) if isinstance(settings.order, Curriculum) else ()
        self.order, self.batch_size, self.processes = Order(group_count, settings.seed, stages), settings.batch_size, processes

    def at(self, step: int) -> list[Visit]:
        """Those of a step, over all processes and accumulation together."""
        first = step * self.batch_size
        return [Visit(*self.order.at(place), place=place) for place in range(first, first + self.batch_size)]

    def first(self, part: int, process: int) -> int:
        """Where, among those of a step, the `micro` visits begin that a process takes in one of its forwards."""
        return (part * self.processes + process) * self.micro


def every_draw(visits: Sequence[Visit], draws: int) -> list[Visit]:
    """So many draws of each visit, one after another."""
    return [replace(visit, repeat=visit.repeat + more) for visit in visits for more in range(draws)]


def by_shape(visits: Sequence[Visit], shape: Callable[[int], tuple[int, ...]]) -> list[list[int]]:
    """Places in the sequence, those together whose groups have one shape."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, visit in enumerate(visits):
        places.setdefault(shape(visit.group), []).append(place)
    return list(places.values())


def split(settings: Settings, processes: int) -> tuple[int, int]:
    """(groups per forward, forwards per step) of one process; ValueError where the batch does not divide."""
    micro = settings.micro_batch_size or max(1, settings.batch_size // processes)
    if settings.batch_size % (micro * processes):
        raise ValueError(
            f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {micro} × {processes} processes; "
            f"set batch_size to a multiple of {micro * processes}, or another micro_batch_size"
        )
    return micro, settings.batch_size // (micro * processes)
