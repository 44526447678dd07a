"""A curriculum: groups from easy to hard in stages, each with a pool that the order draws from."""

from __future__ import annotations

from collections.abc import Sequence

from diffalign.training.randomness import Stage
from diffalign.training.settings import Curriculum, Settings


def curriculum_stages(curriculum: Curriculum, settings: Settings, difficulty: Sequence[float] | None) -> list[Stage]:
    """The stages of a run: groups sorted by difficulty and cut into parts of equal size, the pool growing part by part.

    Curriculum-DPO, Croitoru et al. 2024, arXiv:2405.13637 (the pool grows); Curry-DPO, Pattnaik et al. 2024, arXiv:2403.07230 (it moves
    on, and after the last part stays there).
    difficulty   of each group, larger is harder; of equal ones the first group comes first
    Raises ValueError where there is none, and for more stages than groups.
    """
    if difficulty is None:
        raise ValueError(
            "order 'curriculum' sorts by the gap between a row's first and last score, and these rows have none (single samples, or "
            "judgements without scores); make pairs or lists that a reward ranks (pair.by), or set order to shuffle"
        )
    count, size = curriculum.stages, len(difficulty)
    if count > size:
        raise ValueError(f"{count} stages for {size} groups: some would be empty; set order.stages to {size} or less")
    sign = 1 if curriculum.easy_first else -1
    ranked = sorted(range(size), key=lambda group: (sign * difficulty[group], group))
    return [
        Stage(
            begin=settings.batch_size * curriculum.first_step(stage, settings.steps),
            pool=tuple(sorted(ranked[0 if curriculum.cumulative else size * stage // count : size * (stage + 1) // count])),
        )
        for stage in range(count)
    ]
