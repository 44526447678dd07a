"""Preference rows over the latent cache, as the batches that training takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from diffalign.data.latents import LatentCache
from diffalign.data.records import Preference
from diffalign.tensors import Rows, even_edges, span_shares

KINDS: dict[Rows, tuple[str, ...]] = {
    "pairs": ("pair",),
    "lists": ("list", "pair"),  # a pair is a list of two
    "labelled": ("labelled",),
    "segments": ("pair",),
    "positives": ("pair", "list", "labelled"),
}


@dataclass(frozen=True)
class GroupBatch:
    """B groups: latents (B, K, C, *S), embeds (B, …) one row per group, weight (B,), and what the rows say, or None.

    lengths (B, K) of samples, padded with zeros, and longest (B,) of the whole set, where they differ in it; scores (B, K, R),
    labels (B, K), win_probability (B,); segment_labels (B, F) and segment_shares (B, F, N), zeros where another group of the set has more
    spans; mismatched, as embeds, of another group's prompt
    """

    latents: Tensor
    embeds: dict[str, Tensor]
    weight: Tensor
    scores: Tensor | None = None
    labels: Tensor | None = None
    win_probability: Tensor | None = None
    segment_labels: Tensor | None = None
    segment_shares: Tensor | None = None
    lengths: Tensor | None = None
    longest: Tensor | None = None
    mismatched: dict[str, Tensor] | None = None

    def to(self, device: torch.device) -> GroupBatch:
        """On a device; embeds in float32 also where the cache is in half precision: autocast takes them from there."""
        return GroupBatch(**{each.name: _to(getattr(self, each.name), device) for each in fields(self)})


def _to(value: Any, device: torch.device) -> Any:
    """A tensor, the tensors of a mapping, or None, on a device."""
    if isinstance(value, dict):
        moved = {name: each.to(device, non_blocking=True) for name, each in value.items()}
        return {name: each.float() if each.is_floating_point() else each for name, each in moved.items()}
    return None if value is None else value.to(device, non_blocking=True)


class CachedGroups:
    """The rows of a preference set that an objective can use, read from the latent cache.

    rows   what the objective's table line asks for; "positives" takes the first sample of pairs and lists, and every sample labelled 1
    triples       whether the objective takes lists of three too: a gold sample, then winner and loser
    reads         what the objective reads of the rows, as its table line says: "scores", or "scores or win_probability", which models ties
    scores        candidate → its scores, in the place of what the rows were ranked by
    lengths       whether the objective takes samples of unequal length, along the first axis after the channels
    mismatched    whether the objective reads predictions under another prompt
    time_edges    of a backbone: where each latent position in time begins, as shares of the medium, whose segment labels are of equal spans
    Groups may differ in shape; those of one batch may not, unless they are padded: see `shape`.
    Raises ValueError where the set has no such rows, lacks in one what the objective reads, holds ties that would be counted as wins, lists
    of different or of unfit lengths, a group whose latents differ in shape, or segment labels of samples that were cut at different shares.
    """

    def __init__(self, cache: LatentCache, preferences: Sequence[Preference], rows: Rows, *, triples: bool = False,
                 reads: Sequence[str] = (), mismatched: bool = False, lengths: bool = False,
                 scores: Mapping[str, Sequence[float]] | None = None,
                 time_edges: Callable[[int], Sequence[float]] = even_edges):  # fmt: skip
        self.cache, self.mismatched = cache, mismatched
        self.preferences = [row for each in preferences for row in _positives(each)] if rows == "positives" else list(preferences)
        have = Counter(preference.kind for preference in preferences)
        wanted = KINDS[rows] + ("list",) * triples
        if not self.preferences or set(have) - set(wanted):
            raise ValueError(
                f"this objective trains on {rows} ({' or '.join(wanted)} rows), the preference set has {dict(have) or 'no rows'}; "
                f"choose a pairing rule that makes them (pair.rule), or another objective"
            )
        if rows == "segments" and any(not preference.segment_labels for preference in self.preferences):
            raise ValueError(
                "this objective trains on segments, and some pairs have no segment_labels; give pair.spans, or choose diffusion_dpo"
            )
        if rows == "segments":
            _check_cuts(self.preferences, cache)
        if triples and have["list"]:
            _check_triples(self.preferences)
        self.spans = max(len(row.segment_labels or ()) for row in self.preferences) if rows == "segments" else 0
        ties = sum(preference.kind == "pair" and preference.win_probability == 0.5 for preference in self.preferences)
        if ties and not any("win_probability" in each for each in reads):
            raise ValueError(
                f"{ties} of {len(self.preferences)} pairs are ties (win_probability 0.5), and this objective would count each as a win of "
                f"its first sample; drop them with pair.ties: drop, or choose an objective that reads the probability: smpo"
            )
        sizes = Counter(len(preference.samples) for preference in self.preferences)
        if len(sizes) > 1:
            raise ValueError(f"groups of different sizes in one set: {dict(sizes)} (samples: groups); set pair.length to one size")
        shapes = [{cache.shape(sample) for sample in preference.samples} for preference in self.preferences]
        every, mixed = set().union(*shapes), [place for place, each in enumerate(shapes) if len(each) > 1]
        if mixed and not (lengths and len({shape[:1] + shape[2:] for shape in every}) == 1):
            raise ValueError(
                f"latents of different shapes in {len(mixed)} of {len(shapes)} groups, the first: {self.describe(mixed[0])} with "
                f"{sorted(shapes[mixed[0]])}; pair samples of one size (pair.same_size: true), or encode with one size: set encode.size"
                + (", or let all differ in their first axis after the channels alone" if lengths else "")
            )
        own = {shape[1] for shape in every}
        self.longest = max(own) if lengths and len(own) > 1 else None
        if mismatched and len({preference.prompt for preference in self.preferences}) < 2:
            raise ValueError("this objective compares prompts with each other's samples, and the set has one prompt; give more")
        if mismatched and cache.reads_together:
            raise ValueError(
                "this objective compares prompts with each other's samples, and the model reads each prompt together with its own "
                "condition; choose another objective, such as diffusion_dpo"
            )
        self.dropout_embeds = cache.dropout_embeds()
        self.scores = scores
        self.time_edges = time_edges
        self._check_scores(reads)

    def __len__(self) -> int:
        return len(self.preferences)

    @property
    def size(self) -> int:
        """K, samples per group."""
        return len(self.preferences[0].samples)

    @property
    def difficulty(self) -> list[float] | None:
        """Minus the gap between the first and the last score of each row: larger is harder. None where a row has no two scores."""
        scores = [row.scores for row in self.preferences]
        return None if any(each is None or len(each) < 2 for each in scores) else [each[-1] - each[0] for each in scores if each]

    def shape(self, group: int) -> tuple[int, ...]:
        """(C, *S) of a group's latents as `fetch` gives them: of its longest sample."""
        return max((self.cache.shape(sample) for sample in self.preferences[group].samples), key=lambda shape: shape[1])

    def describe(self, group: int) -> str:
        preference = self.preferences[group]
        return f"{preference.group_id} ({preference.prompt!r})"

    def fetch(self, groups: Sequence[int], *, dropped: Sequence[bool], flipped: Sequence[bool],
              unconditioned: Sequence[bool] | None = None) -> GroupBatch:  # fmt: skip
        """The groups by index, all of one shape; `dropped` replaces a group's prompt by the empty one, `flipped` mirrors all its samples
        alike.

        unconditioned  drops what came with the group's prompt, where the family does so in training
        """
        rows = [self.preferences[group] for group in groups]
        ids = [sample for row in rows for sample in row.samples]
        flips = [flip for row, flip in zip(rows, flipped) for _ in row.samples]
        shape, lengths = self.shape(groups[0]), [[self.cache.shape(sample)[1] for sample in row.samples] for row in rows]
        is_padded = any(length < shape[1] for each in lengths for length in each)
        latents = self._padded(ids, flips, shape) if is_padded else self.cache.latents(ids, flips)
        embeds = self.cache.embeds([row.prompt for row in rows])
        if any(dropped):
            mask = torch.tensor(list(dropped))
            embeds = {
                name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), self.dropout_embeds[name], value)
                for name, value in embeds.items()
            }
        firsts = [row.samples[0] for row in rows]
        conditions = self.cache.conditions(firsts, flipped, unconditioned or [False] * len(rows), dropped)
        segment_labels, segment_shares = self._segments(rows) if self.spans else (None, None)
        others = self.cache.embeds([self._other_prompt(group) for group in groups]) if self.mismatched else None
        return GroupBatch(
            latents=latents.view(len(rows), -1, *latents.shape[1:]),
            embeds=embeds | conditions,
            weight=torch.tensor([row.weight for row in rows], dtype=torch.float32),
            scores=self._scores(rows),
            labels=self._column(rows, "labels"),
            win_probability=self._column(rows, "win_probability"),
            lengths=torch.tensor(lengths) if self.longest else None,
            longest=torch.full((len(rows),), self.longest) if self.longest else None,
            segment_labels=segment_labels,
            segment_shares=segment_shares,
            mismatched=None if others is None else others | conditions,
        )

    def _padded(self, ids: Sequence[str], flips: Sequence[bool], shape: tuple[int, ...]) -> Tensor:
        """(n, C, *S) of the shape of a group's longest, so that a group is the same in every batch; zeros after what is shorter."""
        padded = torch.zeros(len(ids), *shape, dtype=self.cache.dtype)
        for place, (sample, flip) in enumerate(zip(ids, flips, strict=True)):
            [own] = self.cache.latents([sample], [flip])
            padded[place, :, : own.shape[1]] = own
        return padded

    def _segments(self, rows: Sequence[Preference]) -> tuple[Tensor, Tensor]:
        """Labels (B, F) of spans, and how much of each latent position in time lies in each, (B, F, N): of as many spans as any row has.

        A span of which nothing was encoded is a tie.
        """
        edges = self.time_edges(self.cache.shape(rows[0].samples[0])[1])
        labels, shares = torch.zeros(len(rows), self.spans, dtype=torch.long), torch.zeros(len(rows), self.spans, len(edges) - 1)
        for place, row in enumerate(rows):
            own = torch.tensor(row.segment_labels)
            try:
                shares[place, : len(own)] = span_shares([edge * self.cache.covered(row.samples[0]) for edge in edges], len(own))
            except ValueError as error:
                raise ValueError(f"group {row.group_id!r}: {error}") from None
            labels[place, : len(own)] = own * (shares[place, : len(own)].sum(1) > 0)
        return labels, shares

    def _other_prompt(self, group: int) -> str:
        """The prompt of the nearest group after this one that has another: the same in every batch that the group comes in."""
        own, count = self.preferences[group].prompt, len(self.preferences)
        return next(prompt for step in range(1, count) if (prompt := self.preferences[(group + step) % count].prompt) != own)

    def _check_scores(self, reads: Sequence[str]) -> None:
        """ValueError where the objective reads scores and a row has none."""
        lacking = 0 if self.scores is not None else sum(row.scores is None for row in self.preferences)
        if lacking and ("scores" in reads or ("scores or win_probability" in reads and "win_probability" not in self._said)):
            raise ValueError(
                f"this objective reads a score of each sample, and {lacking} of {len(self.preferences)} rows have none; name scores of the "
                f"run in train.scores, or rank by one: pair.by"
            )

    def every_score(self) -> Tensor:
        """(N, K, R) of all rows, as `fetch` gives them. ValueError where a row has none."""
        self._check_scores(["scores"])
        return cast(Tensor, self._scores(self.preferences))

    def _scores(self, rows: Sequence[Preference]) -> Tensor | None:
        """(B, K, R); None in every batch where any row of the set has none."""
        if self.scores is not None:
            return torch.tensor([[self.scores[sample] for sample in row.samples] for row in rows], dtype=torch.float32)
        return torch.tensor([row.scores for row in rows], dtype=torch.float32).unsqueeze(-1) if "scores" in self._said else None

    @cached_property
    def _said(self) -> set[str]:
        """What every row of the set says, so that a group is read alike in every batch."""
        columns = ("scores", "labels", "win_probability")
        return {name for name in columns if all(getattr(row, name) is not None for row in self.preferences)}

    def _column(self, rows: Sequence[Preference], name: str) -> Tensor | None:
        return torch.tensor([getattr(row, name) for row in rows]) if name in self._said else None


def _positives(preference: Preference) -> list[Preference]:
    """The preferred sample of a pair or list, or each wanted one of a labelled row, as a row of its own."""
    labels = preference.labels
    best = preference.samples[:1] if labels is None else [sample for sample, label in zip(preference.samples, labels) if label == 1]
    return [replace(preference, samples=(sample,), kind="labelled", labels=(1,), scores=None, segment_labels=None) for sample in best]


def _check_cuts(preferences: Sequence[Preference], cache: LatentCache) -> None:
    """ValueError where the latents of a row's samples are of different shares of their time."""
    cut = [row for row in preferences if len({cache.covered(sample) for sample in row.samples}) > 1]
    if cut:
        shares = ", ".join(f"{cache.covered(sample):.3g}" for sample in cut[0].samples)
        raise ValueError(
            f"segment labels are of shares of time, and the samples of {len(cut)} of {len(preferences)} pairs were cut at different ones "
            f"when they were encoded, the first: group {cut[0].group_id!r} at {shares}; pair samples of one length (pair.same_size: true), "
            f"or cut them to one before their spans are labelled"
        )


def _check_triples(preferences: Sequence[Preference]) -> None:
    """ValueError for lists of another length than three, and for a loser whose score is its winner's."""
    lengths = sorted({len(preference.samples) for preference in preferences})
    if lengths != [3]:
        raise ValueError(f"this objective trains on pairs, or on lists of 3 (gold, winner, loser), not of {lengths}; set pair.length: 3")
    ties = sum(preference.scores is not None and preference.scores[1] == preference.scores[2] for preference in preferences)
    if ties:
        raise ValueError(
            f"{ties} of {len(preferences)} triples have one score for winner and loser, and this objective would count each as a win of "
            f"the first; drop them with pair.ties: drop"
        )
