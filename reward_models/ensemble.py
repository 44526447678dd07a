"""Several rewards as one: what they say together of the candidates of a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from diffalign.data.modalities import Media
from diffalign.did_you_mean import did_you_mean
from reward_models import ANY, dimensions_of, load_reward
from reward_models.contract import accounts_of, check_call, unanswered_of

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]  # scores (n, K) and weights (n,) → (K,)


def standard_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the scores, less each reward's mean over the prompt, over its deviation there; 0 where all are equal."""
    deviation = scores.std(axis=1, keepdims=True)
    return mean(np.where(deviation > 0, (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1), 0), weights)


def min_max_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the scores, each reward's from 0 for the prompt's worst to 1 for its best; ½ where they are equal."""
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return mean(np.where(high > low, (scores - low) / np.where(high > low, high - low, 1), 0.5), weights)


def win_fraction(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of (reward, other candidate) that a candidate wins, rewards by weight, a tie one half: φ of Syn-Pic, Karthik et al. 2024
    (RankDPO), arXiv:2410.18013. The objective rankdpo forms it of score columns for its gains; here it ranks."""
    signs = np.sign(scores[:, :, None] - scores[:, None, :]) * np.sign(weights)[:, None, None]
    return shares(np.tensordot(np.abs(weights), (signs + 1) / 2, axes=1) / np.abs(weights).sum())


def agreement(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of the other candidates that a candidate beats: by no reward worse, by one better; one half where the rewards disagree."""
    signs = np.sign(scores[:, :, None] - scores[:, None, :]) * np.sign(weights)[:, None, None]
    better = (signs.min(axis=0) >= 0) & (signs.max(axis=0) > 0)
    return shares((1.0 + better - better.T) / 2)


def lexicographic(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of the other candidates that a candidate beats by the first reward that tells the two apart, a tie one half."""
    signs = np.sign(scores[:, :, None] - scores[:, None, :]) * np.sign(weights)[:, None, None]
    first = np.take_along_axis(signs, (signs != 0).argmax(axis=0)[None], axis=0)[0]
    return shares((first + 1) / 2)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / np.abs(weights).sum()


def shares(points: np.ndarray) -> np.ndarray:
    """Of points (K, K) of each candidate against each, one half against itself: the mean over the others; ½ for one alone."""
    count = len(points)
    return (points.sum(axis=1) - 0.5) / (count - 1) if count > 1 else np.full(count, 0.5)


RULES: dict[str, Rule] = {
    "standard": standard_mean,
    "min_max": min_max_mean,
    "win_fraction": win_fraction,
    "agreement": agreement,
    "lexicographic": lexicographic,
}


class Ensemble:
    """`score` by a rule over the candidates of a prompt, and beside it what each reward said, as NAME_DIMENSION.

    A weighted sum of raw scores needs no ensemble: `pair.by` takes one; nor does a filter by rewards that must agree: `pair.agreement`.
    Every reward is computed once, here: it need not stand among the others of the section score too. `score` compares candidates that are
    scored together: of two models that evaluate scores apart it says nothing, and what stands beside it does.

    of       rewards by name, each with its settings: {pick_score: {}, clip_b: {reward: clip_score, checkpoint: …}}, or names alone
    rule     a name of RULES: standard or min_max (means after a normalisation within the prompt), win_fraction, agreement, lexicographic
             (for rewards of few values, such as ratings: others never tie)
    weights  "name.dimension" → weight, in the order of lexicographic; negative where less is better; 1 for each reward's `score`, or its
             one dimension, where nothing is said. agreement and lexicographic read the signs alone
    """

    name = "ensemble"
    modalities = ANY
    groupwise = True

    def __init__(
        self, of: Mapping[str, Mapping[str, Any] | None] | Sequence[str], *, rule: str = "standard",
        weights: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        if rule not in RULES:
            raise ValueError(f"ensemble got rule = {rule!r}{did_you_mean(rule, RULES)}; choose one of: {', '.join(RULES)}")
        self.rewards = {name: load_reward(reward, **settings) for name, (reward, settings) in parts(of).items()}
        self.columns = [(name, dimension) for name, reward in self.rewards.items() for dimension in reward.dimensions]
        wrong = {name: weight for name, weight in (weights or {}).items() if not is_weight(weight)}
        if wrong:
            raise ValueError(f"ensemble got weights = {wrong!r}; give finite numbers other than 0, or leave the line out")
        self.weights = {self._column(name): weight for name, weight in (weights or self._ones()).items()}
        self.rule = RULES[rule]
        self.accounts = tuple(account for reward in self.rewards.values() for account in accounts_of(reward))
        self.dimensions = named(self.columns)
        words = ", ".join(f"{name}.{dimension}: {weight:g}" for (name, dimension), weight in self.weights.items())
        revisions = sha256("\n".join(f"{name}/{reward.revision}" for name, reward in self.rewards.items()).encode()).hexdigest()[:12]
        self.revision = f"{rule}/{words}/{revisions}"

    @property
    def unanswered(self) -> list[str]:
        """Of each of its rewards."""
        return [reason for reward in self.rewards.values() for reason in unanswered_of(reward)]

    @staticmethod
    def dimensions_of(of: Mapping[str, Mapping[str, Any] | None] | Sequence[str], **_: Any) -> tuple[str, ...] | None:
        """`score`, and those of each reward under its name; None where one of them does not say its own."""
        own = {name: dimensions_of(reward, settings) for name, (reward, settings) in parts(of).items()}
        return None if None in own.values() else named([(name, each) for name, found in own.items() for each in found or ()])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension; candidates are compared where their prompts are equal."""
        check_call(self, prompts, media)
        found = {name: reward(prompts, media) for name, reward in self.rewards.items()}
        matrix = np.array([found[name][dimension] for name, dimension in self.weights], np.float64).reshape(len(self.weights), len(media))
        weights, score = np.array(list(self.weights.values()), np.float64), np.full(len(media), np.nan)
        lacks = set(np.flatnonzero(np.isnan(matrix).any(axis=0)).tolist())  # one without a score by a reward is compared with none
        for prompt in dict.fromkeys(prompts):
            places = [place for place, other in enumerate(prompts) if other == prompt and place not in lacks]
            if places:
                score[places] = self.rule(matrix[:, places], weights)
        own = {f"{name}_{dimension}": [float(value) for value in found[name][dimension]] for name, dimension in self.columns}
        return {"score": score.tolist(), **own}

    def _column(self, name: str) -> tuple[str, str]:
        reward, _, dimension = name.partition(".")
        if (reward, dimension) not in self.columns:
            known = [f"{each}.{one}" for each, one in self.columns]
            raise ValueError(f"ensemble got a weight for {name!r}{did_you_mean(name, known)}; its rewards have: {', '.join(known)}")
        return reward, dimension

    def _ones(self) -> dict[str, float]:
        chosen = {}
        for name, reward in self.rewards.items():
            dimension = "score" if "score" in reward.dimensions else reward.dimensions[0]
            if dimension != "score" and len(reward.dimensions) > 1:
                raise ValueError(
                    f"ensemble got {name!r}, which has no dimension 'score' but {', '.join(reward.dimensions)}; say with weights which "
                    "count"
                )
            chosen[f"{name}.{dimension}"] = 1.0
        return chosen


def parts(of: Mapping[str, Mapping[str, Any] | None] | Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → the reward that it is, NAME or what its setting `reward` names, and its settings. ValueError for a name that cannot be a
    column's."""
    if isinstance(of, str) or not of:
        raise ValueError(f"ensemble got of = {of!r}; give rewards: a list of names, or name: settings")
    given: Mapping[str, Mapping[str, Any] | None] = of if isinstance(of, Mapping) else dict.fromkeys(of)
    for name in given:
        if not name.isidentifier() or name == Ensemble.name:
            raise ValueError(
                f"ensemble got a reward named {name!r}; its scores are columns: use letters, digits and underscores, not 'ensemble'"
            )
    return {
        name: ((settings or {}).get("reward", name), {key: value for key, value in (settings or {}).items() if key != "reward"})
        for name, settings in given.items()
    }


def named(columns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """`score`, and what stands beside it."""
    return ("score", *(f"{name}_{dimension}" for name, dimension in columns))


def is_weight(weight: Any) -> bool:
    """Whether it is a finite number other than 0."""
    return isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight) and weight != 0
