"""How well a reward agrees with judgements: accuracy on pairs with ties, Kendall's τ-b on lists, the best of K, and calibration.

A comparison is two samples of one prompt: `wins` is the probability that the first is preferred (0.5: a tie), `gap` the reward of the first
less that of the second. Intervals are 95 % bootstrap intervals over prompts (pipelines/report.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.bootstrap import RESAMPLES, bootstrap_intervals, resamplings

BINS = 10
MOST_BLOCKS = 10_000  # of prompts that are resampled together: 80 MB of counts, however large the set


@dataclass(frozen=True)
class Comparisons:
    """N comparisons that a reward gave a gap for. prompts (N,), wins (N,) in 0 … 1, gaps (N,) finite."""

    prompts: np.ndarray
    wins: np.ndarray
    gaps: np.ndarray

    @property
    def decided(self) -> Comparisons:
        """Those that are no tie."""
        kept = self.wins != 0.5
        return Comparisons(self.prompts[kept], self.wins[kept], self.gaps[kept])


@dataclass(frozen=True)
class Measured:
    """A mean, and its interval."""

    value: float
    low: float
    high: float


def measured(values: np.ndarray, prompts: np.ndarray) -> Measured | None:
    """The mean of values (N,) with its interval over prompts (N,); None where there are none."""
    if len(values) == 0:
        return None
    low, high = bootstrap_intervals(np.asarray(values, np.float64)[:, None], blocks_of(prompts))[:, 0]
    return Measured(float(np.mean(values)), float(low), float(high))


def blocks_of(prompts: np.ndarray) -> np.ndarray:
    """(N,) whole numbers below MOST_BLOCKS, equal for equal prompts: prompts that share one are resampled as one, which leaves the variance
    of a mean what it is."""
    return np.unique(np.asarray(prompts), return_inverse=True)[1] % MOST_BLOCKS


def right_order(comparisons: Comparisons) -> np.ndarray:
    """(N,) of decided comparisons: 1 where the reward prefers the one that was preferred, 0.5 where it prefers neither, else 0."""
    agreement = np.sign(comparisons.gaps) * np.sign(comparisons.wins - 0.5)
    return (agreement + 1) / 2


def right_with_ties(comparisons: Comparisons, threshold: float) -> np.ndarray:
    """(N,) 1 where reward and judgement say the same of first better, second better, tie; gaps of at most the threshold are ties.

    Its mean is the pairwise accuracy with ties of Deutsch, Foster & Freitag 2023, arXiv:2305.14324.
    """
    said = np.where(np.abs(comparisons.gaps) <= threshold, 0.0, np.sign(comparisons.gaps))
    return (said == np.sign(comparisons.wins - 0.5)).astype(np.float64)


def tie_threshold(comparisons: Comparisons) -> float:
    """Of 0 and every |gap| the threshold with which `right_with_ties` has the greatest mean, the least of equals: tie calibration, ibid."""
    if len(comparisons.gaps) == 0:
        return 0.0
    order = np.argsort(np.abs(comparisons.gaps), kind="stable")
    sizes = np.abs(comparisons.gaps)[order]
    label = np.sign(comparisons.wins - 0.5)[order]
    right = (np.sign(comparisons.gaps[order]) == label) & (label != 0) & (sizes > 0)
    # With the threshold at the place-th size: ties up to it, and the right order beyond it.
    correct = np.cumsum(label == 0) + right.sum() - np.cumsum(right)
    last_of_equals = np.append(sizes[1:] > sizes[:-1], True)
    at_zero = np.count_nonzero((label == 0) & (sizes == 0)) + right.sum()
    best = int(np.argmax(np.where(last_of_equals, correct, -1)))
    return float(sizes[best]) if correct[best] > at_zero else 0.0


def kendall(truth: Sequence[float], scores: Sequence[float]) -> float:
    """Kendall's τ-b of a list, −1 to 1, ties in both counted: Kendall 1945. NaN where either is all one value."""
    from scipy.stats import kendalltau

    if len(set(truth)) < 2 or len(set(scores)) < 2:
        return math.nan
    found: Any = kendalltau(truth, scores, variant="b")
    return float(found.statistic)


def best_of(truth: np.ndarray, scores: np.ndarray, count: int) -> float:
    """The expected truth (n,) of the sample that scores (n,) choose among `count` ≤ n of them, drawn without replacement.

    Exact, over all subsets; of equal scores each is chosen as often.
    """
    total = math.comb(len(scores), count)
    expected = 0.0
    for score in np.unique(scores):
        below, upto = int(np.count_nonzero(scores < score)), int(np.count_nonzero(scores <= score))
        chance = (math.comb(upto, count) - math.comb(below, count)) / total
        expected += chance * float(truth[scores == score].mean())
    return expected


@dataclass(frozen=True)
class Bin:
    """Comparisons about which the reward is similarly sure: how sure, and how often it is right."""

    low: float
    high: float
    comparisons: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """σ(gap / temperature) as the probability of winning.

    temperature  of the least cross-entropy; None where the gaps say nothing, or the opposite
    entropy      that cross-entropy in nats; ln 2 = 0.693 is a coin's
    error        the expected calibration error: mean over comparisons of |accuracy − confidence| of their bin
    """

    temperature: float | None
    entropy: float
    error: Measured
    bins: list[Bin]


def calibration(comparisons: Comparisons) -> Calibration | None:
    """Of N comparisons; None where there are none. Confidence is σ(|gap| / T), 0.5 to 1, in BINS equal bins (Guo et al. 2017,
    arXiv:1706.04599)."""
    if len(comparisons.gaps) == 0:
        return None
    temperature = fitted_temperature(comparisons)
    slope = 0.0 if temperature is None else 1 / temperature
    logit = comparisons.gaps * slope
    entropy = float(np.mean(np.logaddexp(0, -logit) * comparisons.wins + np.logaddexp(0, logit) * (1 - comparisons.wins)))
    confidence = 1 / (1 + np.exp(-np.abs(logit)))
    agreed = np.where(logit > 0, comparisons.wins, np.where(logit < 0, 1 - comparisons.wins, 0.5))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    edges = np.linspace(0.5, 1, BINS + 1)
    bins = [
        Bin(float(edges[index]), float(edges[index + 1]), int(own.sum()), float(confidence[own].mean()), float(agreed[own].mean()))
        for index in range(BINS)
        if (own := place == index).any()
    ]
    return Calibration(temperature, entropy, calibration_error(agreed - confidence, place, comparisons.prompts), bins)


def calibration_error(excess: np.ndarray, place: np.ndarray, prompts: np.ndarray) -> Measured:
    """Σ_bins |Σ excess| / N of excess = accuracy − confidence (N,), bin by bin, with its interval: prompts resampled, temperature kept.

    Resampling only adds to an error near 0, so the low end is at most the error itself.
    """
    row = blocks_of(prompts)
    sums, sizes = np.zeros((row.max() + 1, BINS)), np.bincount(row).astype(np.float64)
    np.add.at(sums, (row, place), excess)
    counts = resamplings(len(sizes), RESAMPLES, 0)
    resampled = np.abs(counts @ sums).sum(axis=1) / (counts @ sizes)
    low, high = np.quantile(resampled, [0.025, 0.975])
    error = float(np.abs(sums.sum(axis=0)).sum() / len(excess))
    return Measured(error, min(float(low), error), float(high))


def fitted_temperature(comparisons: Comparisons) -> float | None:
    """T of the least cross-entropy of σ(gap / T) and wins, within e⁷ of the mean |gap|; None where no T beats a coin."""
    from scipy.optimize import minimize_scalar

    scale = float(np.abs(comparisons.gaps).mean())
    # The slope of the cross-entropy at 1/T = 0, where it is ln 2: it is convex in 1/T, so without a descent there nothing is below.
    if scale == 0 or float(((comparisons.wins - 0.5) * comparisons.gaps).mean()) <= 0:
        return None

    def entropy(log: float) -> float:
        logit = comparisons.gaps / (scale * math.exp(log))
        return float(np.mean(np.logaddexp(0, -logit) * comparisons.wins + np.logaddexp(0, logit) * (1 - comparisons.wins)))

    found = minimize_scalar(entropy, bounds=(-7.0, 7.0), method="bounded", options={"xatol": 1e-6})
    return scale * math.exp(float(found.x))
