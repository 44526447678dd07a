"""Intervals and p-values of means over prompts, and over trainings with seeds of their own where there are several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

RESAMPLES = 2000


def bootstrap_intervals(
    values: np.ndarray, clusters: np.ndarray | None = None, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> np.ndarray:
    """Percentile bootstrap of the mean of each column: values (P, V), one row per prompt; returns low and high, (2, V).

    clusters names, row by row, which prompts mean the same (default: none do). Clusters are resampled whole, not prompts or samples:
    those of one cluster are not independent (Davison & Hinkley 1997, section 3.8).
    values (P, G, V) are of G trainings, which are resampled too, apart from the clusters: the pigeonhole bootstrap, Owen 2007,
    doi:10.1214/07-AOAS122. NaN where a training has none of a prompt. No interval reaches beyond the lowest and the highest training: where
    they differ more than prompts do, G of them hold the truth with probability 1 − 2^(1−G) at most, 3 of them 75 %.
    """
    if len(values) == 0:
        raise ValueError("a bootstrap interval over no prompts; evaluate at least one prompt")
    return np.nanquantile(_means(values, clusters, seed, resamples), [(1 - level) / 2, (1 + level) / 2], axis=0)


def standard_error(values: np.ndarray, clusters: np.ndarray | None = None, *, seed: int = 0) -> float:
    """Of the mean of values (P,), by the bootstrap of clusters alone."""
    return float(_means(np.asarray(values, np.float64)[:, None], clusters, seed, RESAMPLES).std())


def p_value(mean: float, variances: Sequence[tuple[float, float]]) -> float:
    """Two-sided, of a mean being 0, whose variance is the sum of some, each with its degrees of freedom.

    Student's t with the degrees of freedom after Satterthwaite 1946, Biometrics Bulletin 2.
    """
    from scipy.special import stdtr

    variance = sum(part for part, _ in variances)
    if mean == 0 or variance == 0:
        return float(mean == 0)
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in variances if part)
    return float(2 * stdtr(freedom, -abs(mean) / math.sqrt(variance)))


def holm(values: Iterable[float], level: float = 0.05) -> float:
    """The largest of several p-values that is significant at a level of all together, Holm 1979; −1 where none is."""
    ordered, bound = sorted(values), -1.0
    for place, value in enumerate(ordered):
        if value > level / (len(ordered) - place):
            break
        bound = value
    return bound


def _means(values: np.ndarray, clusters: np.ndarray | None, seed: int, resamples: int) -> np.ndarray:
    """Means of each column over resampled clusters, and over resampled trainings: (resamples, V); NaN where nothing was drawn."""
    values = np.asarray(values, np.float64)
    table = values[:, None] if values.ndim == 2 else values
    _, trainings, columns = table.shape
    places = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    there = np.isfinite(table)
    drawn = resamplings(int(places.max()) + 1, resamples, seed)
    # A stream of its own: as many trainings as clusters would be drawn alike otherwise.
    weights = resamplings(trainings, resamples, (seed, 1)) if trainings > 1 else np.ones((resamples, 1))

    def resampled(cells: np.ndarray) -> np.ndarray:
        totals = np.stack([np.bincount(places, column) for column in cells.reshape(len(cells), -1).T], axis=1)
        return np.einsum("rgv,rg->rv", (drawn @ totals).reshape(resamples, trainings, columns), weights)

    with np.errstate(invalid="ignore"):
        return resampled(np.where(there, table, 0.0)) / resampled(there.astype(np.float64))


@lru_cache(maxsize=8)  # at 10,000 clusters 80 MB each
def resamplings(count: int, resamples: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """How often each resample draws each of `count`, (resamples, count): the same for every score of every model, so it is drawn once."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, count), np.float32)  # small whole numbers
    for resample in counts:
        resample[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return counts
