"""Fidelity of whole sets: the Fréchet distance between what a model makes and what is real, on a world's features.

Heusel et al. 2017 (FID), arXiv:1706.08500, eq. 6; for sound Kilgour et al. 2019 (FAD), arXiv:1812.08466. Smaller is nearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 200  # of the prompts, for the interval of a difference


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


def fidelity(
    evaluation: Path, world: str, models: Sequence[str], captions: Sequence[str], clusters: Sequence[str], seed: int
) -> dict[str, Any]:
    """The distance of each model's samples, and of the base's (the first of `models`), from renders of the same captions.

    "floor" is that of other renders of the same captions: what a perfect model would have. The interval of a change is over resampled
    clusters of prompts, the same for both.
    """
    from diffalign.data.records import read_candidates
    from reward_models.worlds import load_world

    package = load_world(world)
    drawn = [
        np.stack([package.features(package.render(caption, place + salt)) for place, caption in enumerate(captions)]) for salt in (0, 10**6)
    ]
    made = {
        name: np.stack([package.features(candidate.media.waveform().mean(0)) for candidate in read_candidates(evaluation / name)])  # type: ignore[attr-defined]
        for name in models
    }
    real, (base, *others) = drawn[0], models
    members = [np.flatnonzero(np.array(clusters) == cluster) for cluster in dict.fromkeys(clusters)]
    generator = np.random.default_rng(seed)
    resamples = [np.concatenate([members[each] for each in generator.integers(len(members), size=len(members))]) for _ in range(RESAMPLES)]
    found: dict[str, Any] = {
        "world": world,
        "samples": len(real),
        "floor": frechet_distance(drawn[1], real),
        "base": frechet_distance(made[base], real),
        "models": {},
    }
    per = len(made[base]) // len(real)
    for name in others:
        changes = []
        for rows in resamples:
            own = (rows[:, None] * per + np.arange(per)).ravel()
            changes.append(frechet_distance(made[name][own], real[rows]) - frechet_distance(made[base][own], real[rows]))
        low, high = np.percentile(changes, [2.5, 97.5])
        aligned = frechet_distance(made[name], real)
        found["models"][name] = {"aligned": aligned, "change": aligned - found["base"], "low": float(low), "high": float(high)}
    return found


def told(found: Mapping[str, Any], name: str) -> str:
    """What a reader is told of one model."""
    of = found["models"][name]
    return (
        f"Fréchet distance from the {found['world']} world's renders (smaller is nearer, other renders {found['floor']:.3g}): "
        f"{found['base']:.3g} → {of['aligned']:.3g}, change {of['change']:+.3g} [{of['low']:+.3g}, {of['high']:+.3g}]"
    )
