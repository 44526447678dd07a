"""The shortcut of features: where simple numbers of the latents tell chosen from rejected, a policy can learn those and not the preference.

The probe of "More is Less" on the samples themselves. Models leave traces, also where a set does not name them, which is all that
source_shortcut reads. A linear score of a few numbers of each latent is fitted on the pairs of some prompts and tried on those of others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from diffalign.data.records import Preference
from diffalign.data.source_shortcut import FOLDS, decided, lower_bound

MOST_PAIRS = 2_000
MOST_NUMBERS = 1 << 29  # of all latents that are read: videos make this the limit
OF_A_PROMPT = 8  # pairs
SUSPICIOUS = 0.75  # pairs of the worlds shapes and tones, whose chosen are better and no more, have AUCs of 0.55 to 0.69
# Folds share most of what they are fitted on: by chance the AUC spreads up to 1.3 times as far as over as many independent prompts.
INDEPENDENT = 0.6
STEPS = 200


@dataclass(frozen=True)
class LatentShortcut:
    """How well a linear score of `features` tells chosen from rejected.

    pairs, prompts  that were looked at: pairs with a winner (of a list: two of its samples that are not tied), a sample of a large set
    auc       of these pairs, the share whose chosen has the higher score, fitted on other prompts; each prompt counts as one. ½ is chance,
              and so is less: where neither side wins more often, a fold lacks what the others have too much of
    at_least  its lower bound, one-sided, 95 % over prompts, each counted as INDEPENDENT: Clopper & Pearson 1934,
              doi:10.1093/biomet/26.4.404
    """

    pairs: int
    prompts: int
    auc: float
    at_least: float

    @property
    def is_suspicious(self) -> bool:
        """Whether they are told apart better than better samples explain, the bound considered."""
        return self.at_least > SUSPICIOUS


def latent_shortcut(preferences: Iterable[Preference], latents_of: Callable[[str], Tensor], seed: int,
                    conditions: Mapping[str, str] = MappingProxyType({})) -> LatentShortcut | None:  # fmt: skip
    """What the latents say of the winners of pairs and lists; None where fewer than two prompts have pairs.

    latents_of  candidate_id → (C, *S)
    conditions  candidate_id → a name of what its prompt came with: a prompt beside another condition is another prompt
    seed        of the sample that is taken of a large set
    """
    by_prompt: dict[tuple[str, str], list[Preference]] = {}
    for preference in preferences:
        by_prompt.setdefault((preference.prompt, conditions.get(preference.samples[0], "")), []).append(preference)
    draw = random.Random(seed)
    prompts = sorted(by_prompt)
    draw.shuffle(prompts)
    rows: list[np.ndarray] = []  # features of the winner less those of the loser
    places: list[tuple[int, float]] = []  # of each row its prompt's number, and its share of that prompt
    read = number = 0
    for prompt in prompts:
        some = draw.sample(by_prompt[prompt], min(OF_A_PROMPT, len(by_prompt[prompt])))
        pairs = [pair for preference in some for pair in decided(preference)]
        pairs = draw.sample(pairs, min(OF_A_PROMPT, len(pairs)))
        if not pairs:
            continue
        found: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(name for pair in pairs for name in pair):
            latents = latents_of(name)
            read += latents.numel()
            found[name] = features(latents)
        rows += [found[winner] - found[loser] for winner, loser in pairs]
        places += [(number, 1 / len(pairs))] * len(pairs)
        number += 1
        if len(rows) >= MOST_PAIRS or read >= MOST_NUMBERS:
            break
    if number < 2:
        return None
    numbers, shares = map(np.array, zip(*places))
    differences = np.stack(rows)
    auc = min(1.0, sum(_held_out(differences, numbers % FOLDS == fold, shares) for fold in range(min(FOLDS, number))) / number)
    return LatentShortcut(len(rows), number, auc, lower_bound(auc, INDEPENDENT * number))


def features(latents: Tensor) -> np.ndarray:
    """Numbers of one sample's latents (C, *S): each channel's mean and log deviation, and along each axis of S the log ratio of the
    energy above a quarter of the sampling rate to that up to it, over all channels; 0 where the axis is shorter than 4."""
    tiny = 1e-12
    latents = latents.float()
    flat = latents.flatten(1)
    found = [flat.mean(1), flat.var(1, correction=0).clamp_min(tiny).log() / 2]
    for axis in range(1, latents.ndim):
        energy = torch.fft.rfft(latents, dim=axis).abs().square().movedim(axis, 0).flatten(1).sum(1)
        split = latents.shape[axis] // 4 + 1  # the first frequency above a quarter; frequency 0 is the mean
        low, high = energy[1:split].sum(), energy[split:].sum()
        found.append(((high + tiny) / (low + tiny)).log()[None] if split > 1 else high.new_zeros(1))
    return torch.cat(found).double().numpy()


def _held_out(differences: np.ndarray, is_out: np.ndarray, shares: np.ndarray) -> float:
    """Over the pairs of a fold, the sum of their shares whose winners the score of the other prompts names; ½ where it names none."""
    spread = np.sqrt((differences[~is_out] ** 2).mean(0))
    scaled = differences / np.where(spread > 0, spread, 1)
    margin = scaled[is_out] @ _fit(scaled[~is_out], shares[~is_out])
    return float(((margin > 0) + (margin == 0) / 2) @ shares[is_out])


def _fit(differences: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The weights w (D,) of least Σ share · log(1 + exp(−w·difference)) + ‖w‖²/2.

    A logistic regression without intercept: it makes a winner of either side alike. Steps by the bound of its curvature (Böhning & Lindsay
    1988, doi:10.1007/BF00049423) never overshoot, also where the pairs are separable.
    """
    bound = np.linalg.inv((differences * shares[:, None]).T @ differences / 4 + np.eye(differences.shape[1]))
    weights = np.zeros(differences.shape[1])
    for _ in range(STEPS):
        missed = shares * np.exp(-np.logaddexp(0, differences @ weights))  # σ(−margin)
        step = bound @ (differences.T @ missed - weights)
        weights = weights + step
        if abs(step).max() < 1e-6:
            break
    return weights
