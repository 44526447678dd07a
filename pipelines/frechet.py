"""Fidelity of whole sets: the Fréchet distance between what a model makes and what is real, on a world's features.

Heusel et al. 2017 (FID), arXiv:1706.08500, eq. 6; for sound Kilgour et al. 2019 (FAD), arXiv:1812.08466. Smaller is nearer.

Of n samples it is too large, by an amount that falls as 1/n once n is well above the number of features, and differs between models: what
is reported is extrapolated to infinitely many, as Chong and Forsyth 2020, arXiv:1911.07023, do. It may come out a little below 0. With few
samples a part of the excess stays: compare with the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HALVES = 100  # of the prompts, for the interval of a difference
PARTS, DRAWS = (1 / 2, 2 / 3), 4  # shares of the prompts that the line is fitted through, beside all of them; subsets of each
ENOUGH = 10  # samples for each feature: with fewer a reader is warned


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """|μ₁ − μ₂|² + tr(C₁ + C₂ − 2·(C₁C₂)^½) of two sets of vectors (n, D). ValueError with fewer than two of either."""
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"a Fréchet distance of {len(one)} and {len(other)} samples; each set needs 2 or more, and many more than features"
        )
    means = one.mean(0) - other.mean(0)
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # C₁C₂ has the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric: no complex square root of a product.
    crossed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * crossed)


def extrapolated(distance: Callable[[np.ndarray], float], members: Sequence[np.ndarray], draw: np.random.Generator) -> float:
    """The distance of infinitely many samples: where the line of distances over 1/n, of subsets without replacement, meets 1/n = 0.

    distance  of the samples of some rows
    members   rows by cluster of prompts; a subset has clusters whole
    """
    every = np.concatenate(members)
    places, values = [1 / len(every)], [distance(every)]
    for part in PARTS:
        for _ in range(DRAWS):
            rows = np.concatenate([members[each] for each in draw.permutation(len(members))[: max(2, round(part * len(members)))]])
            places.append(1 / len(rows))
            values.append(distance(rows))
    weights = np.array([DRAWS, *[1] * DRAWS * len(PARTS)])  # all samples at once are one point, and as good as those of a part
    return float(np.polyfit(places, values, 1, w=np.sqrt(weights))[1])


def check_fidelity(world: str, clusters: Sequence[str], sizes: Sequence[tuple[int, ...]]) -> None:
    """ValueError with prompts that say fewer than 8 different things, and for a size that the world has no renders of."""
    from reward_models.worlds import load_world

    count = len(set(clusters))
    if count < 8:
        raise ValueError(f"a Fréchet distance of {count} different prompts says nothing; evaluate 8 or more, and rather hundreds")
    package = load_world(world)
    for size in sizes:
        try:
            package.render(package.prompts("heldout", 1, 0)[0].text, 0, size[0])
        except ValueError as error:
            raise ValueError(
                f"evaluate.fidelity is of renders of the samples' lengths, and evaluate.size has {list(size)}: {error}"
            ) from error


def fidelity(
    evaluation: Path, world: str, models: Sequence[str], captions: Sequence[str], clusters: Sequence[str], seed: int
) -> dict[str, Any]:
    """The distance of each model's samples, and of the base's (the first of `models`), from renders of the same captions; extrapolated.

    Samples of several lengths, of each as many, are compared together with renders of each caption in each of these lengths.
    "floor" is that of other renders of the same captions: what a perfect model would have. "at_samples" is what each is without the
    extrapolation. The interval of a change is over halves of the clusters of prompts, without replacement and the same for both: a half
    scatters around all of them as they do around the truth. A resampling with replacement would repeat rows, and so inflate distances.
    Media of another rate than the world's are resampled.
    """
    from diffalign.data.records import read_candidates
    from reward_models.worlds import load_world

    package = load_world(world)
    members = [np.flatnonzero(np.array(clusters) == cluster) for cluster in dict.fromkeys(clusters)]

    def heard(media: Any) -> tuple[int, np.ndarray]:
        (length,) = media.shape_of(media.columns, package.SAMPLE_RATE_HZ)
        return length, package.features(media.tensor((length,), package.SAMPLE_RATE_HZ, 1)[0])

    def rendered(salt: int) -> np.ndarray:
        """Of each caption each length."""
        places = [(caption, place + salt + 2 * 10**6 * turn, length) for place, caption in enumerate(captions) for turn, length in lengths]
        return np.stack([package.features(package.render(*each)) for each in places])

    listened = {name: [heard(candidate.media) for candidate in read_candidates(evaluation / name)] for name in models}
    lengths = list(enumerate(dict.fromkeys(length for length, _ in listened[models[0]])))
    made = {name: np.stack([features for _, features in each]) for name, each in listened.items()}
    real, other = rendered(0), rendered(10**6)

    def rows_of(some: np.ndarray, samples: np.ndarray) -> np.ndarray:
        each = len(samples) // len(captions)
        return samples[(some[:, None] * each + np.arange(each)).ravel()]

    def between(samples: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda some: frechet_distance(rows_of(some, samples), rows_of(some, real))

    distances = {name: between(samples) for name, samples in made.items()}

    def of(name: str, some: Sequence[np.ndarray], *key: int) -> float:
        return extrapolated(distances[name], some, np.random.default_rng([seed, *key]))  # the same subsets for all

    base, *others = models
    whole, rows = {name: of(name, members, 0) for name in models}, np.arange(len(captions))
    changes: dict[str, list[float]] = {name: [] for name in others}
    for number in range(HALVES):
        chosen = np.random.default_rng([seed, 1, number]).permutation(len(members))[: len(members) // 2]
        half = [members[each] for each in chosen]
        before = of(base, half, 2, number)
        for name in others:
            changes[name].append(of(name, half, 2, number) - before)
    found: dict[str, Any] = {
        "world": world,
        "samples": len(captions),
        "features": real.shape[1],
        "floor": extrapolated(between(other), members, np.random.default_rng([seed, 0])),
        "base": whole[base],
        "models": {},
        "at_samples": {"floor": frechet_distance(other, real)} | {name: each(rows) for name, each in distances.items()},
    }
    for name in others:
        low, high = np.percentile(np.array(changes[name]) - np.mean(changes[name]), [2.5, 97.5])
        change = whole[name] - whole[base]
        found["models"][name] = {"aligned": whole[name], "change": change, "low": change + float(low), "high": change + float(high)}
    return found


def warning_of(found: Mapping[str, Any]) -> str | None:
    """What a reader must know before the numbers; None where there are samples enough."""
    wanted = ENOUGH * found["features"]
    if found["samples"] >= wanted:
        return None
    return (
        f"Fréchet distance of {found['samples']} samples with {found['features']} features: too few to trust small differences, even "
        f"extrapolated; evaluate {wanted} prompts or more."
    )


def told(found: Mapping[str, Any], name: str) -> str:
    """What a reader is told of one model."""
    of = found["models"][name]
    return (
        f"Fréchet distance from the {found['world']} world's renders (smaller is nearer, other renders {found['floor']:.3g}): "
        f"{found['base']:.3g} → {of['aligned']:.3g}, change {of['change']:+.3g} [{of['low']:+.3g}, {of['high']:+.3g}]"
    )
