"""How the scenes of a world are split, and how prompts are drawn from them; the same for every world."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

SceneT = TypeVar("SceneT")

SPLITS = ("train", "validation", "heldout")
SPLIT_SHARES = {"validation": 0.08, "heldout": 0.16}  # of the scenes of each task; the rest is for training


def split_by_hash(
    scenes: Iterable[SceneT],
    task_of: Callable[[SceneT], str],
    key_of: Callable[[SceneT], str],
    shares: Mapping[str, float] = SPLIT_SHARES,
) -> dict[str, tuple[SceneT, ...]]:
    """Split -> its scenes, task by task in the order in which the tasks first come; "train" gets what `shares` leave.

    Which scene goes where depends on a sha256 of its key and on the other scenes of its task, on nothing else. Scenes of one task and one
    key stay together, so a split can have a few more than its share.
    """
    # Ranking by a hash, rather than thresholding it, keeps the shares exact and every split of every task non-empty.
    by_task: dict[str, list[SceneT]] = {}
    for scene in scenes:
        by_task.setdefault(task_of(scene), []).append(scene)
    splits: dict[str, list[SceneT]] = {split: [] for split in ("train", *shares)}
    for of_task in by_task.values():
        ranked = sorted(of_task, key=lambda scene: hashlib.sha256(key_of(scene).encode()).digest())
        start = 0
        for split, share in shares.items():
            stop = start + max(1, round(share * len(ranked)))
            while stop < len(ranked) and key_of(ranked[stop]) == key_of(ranked[stop - 1]):
                stop += 1
            splits[split] += ranked[start:stop]
            start = stop
        splits["train"] += ranked[start:]
    return {split: tuple(found) for split, found in splits.items()}


def quotas(shares: Mapping[str, float], count: int, tasks: Sequence[str]) -> dict[str, int]:
    """`count` prompts divided over tasks in the proportions of `shares`, by largest remainders; in the order of `tasks`.

    ValueError for a task that is not among `tasks`, shares without a positive sum, or a negative count.
    """
    unknown = sorted(set(shares) - set(tasks))
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r} in shares; choose among: {', '.join(tasks)}")
    if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise ValueError(f"shares {dict(shares)!r} give no proportions; give weights >= 0 with a positive sum")
    if count < 0:
        raise ValueError(f"count {count!r} is negative; ask for 0 prompts or more")
    total = sum(shares.values())
    exact = {task: shares[task] / total * count for task in tasks if task in shares}
    found = {task: int(value) for task, value in exact.items()}
    by_remainder = sorted(exact, key=lambda task: found[task] - exact[task])
    for task in by_remainder[: count - sum(found.values())]:
        found[task] += 1
    return found


def draw(pool: Sequence[SceneT], wordings: Callable[[SceneT], Sequence[str]], count: int, rng: np.random.Generator) -> list[str]:
    """`count` captions of the scenes in `pool`, in rounds of one per scene, without repeats until none is left."""
    texts: list[str] = []
    unused: list[list[str]] = []
    while len(texts) < count:
        unused = [left for left in unused if left] or [_shuffled(wordings(scene), rng) for scene in pool]
        for index in rng.permutation(len(unused))[: count - len(texts)]:
            texts.append(unused[index].pop())
    return texts


def _shuffled(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [str(texts[int(index)]) for index in rng.permutation(len(texts))]
