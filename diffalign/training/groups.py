"""Preference rows over the latent cache, as the batches that training takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffalign.data.latents import LatentCache
from diffalign.data.records import Preference
from diffalign.tensors import Rows

KINDS: dict[Rows, tuple[str, ...]] = {
    "pairs": ("pair",), "lists": ("list",), "labelled": ("labelled",), "segments": ("pair",), "positives": ("pair", "list", "labelled")
}  # fmt: skip


@dataclass(frozen=True)
class GroupBatch:
    """B groups: latents (B, K, C, *S), embeds (B, …) one row per group, weight (B,), scores (B, K, 1) or None, labels (B, K) or None."""

    latents: Tensor
    embeds: dict[str, Tensor]
    weight: Tensor
    scores: Tensor | None
    labels: Tensor | None


class CachedGroups:
    """The rows of a preference set that an objective can use, read from the latent cache.

    rows   what the objective's table line asks for; "positives" takes the first sample of pairs and lists, and every sample labelled 1
    models_ties   whether the objective reads win_probability
    Raises ValueError where the set has no such rows, holds ties that would be counted as wins, lists of different lengths, or latents of
    different shapes.
    """

    def __init__(self, cache: LatentCache, preferences: Sequence[Preference], rows: Rows, *, models_ties: bool = False):
        self.cache = cache
        self.preferences = [row for each in preferences for row in _positives(each)] if rows == "positives" else list(preferences)
        have = Counter(preference.kind for preference in preferences)
        wanted = KINDS[rows]
        if not self.preferences or set(have) - set(wanted):
            raise ValueError(
                f"this objective trains on {rows} ({' or '.join(wanted)} rows), the preference set has {dict(have) or 'no rows'}; "
                f"choose a pairing rule that makes them (pair.rule), or another objective"
            )
        if rows == "segments" and any(preference.segment_labels is None for preference in self.preferences):
            raise ValueError(
                "this objective trains on segments, and some pairs have no segment_labels; label spans of time, or choose diffusion_dpo"
            )
        ties = sum(preference.kind == "pair" and preference.win_probability == 0.5 for preference in self.preferences)
        if ties and not models_ties:
            raise ValueError(
                f"{ties} of {len(self.preferences)} pairs are ties (win_probability 0.5), and this objective would count each as a win of "
                f"its first sample; drop them with pair.ties: drop, or choose an objective that reads the probability: smpo"
            )
        lengths = Counter(len(preference.samples) for preference in self.preferences)
        if len(lengths) > 1:
            raise ValueError(f"groups of different sizes in one set: {dict(lengths)} (samples: groups); keep one size")
        shapes = {cache.shape(sample) for preference in self.preferences for sample in preference.samples}
        if len(shapes) > 1:
            raise ValueError(f"latents of different shapes in one set: {sorted(shapes)}; encode with one `size`")
        self.dropout_embeds = cache.dropout_embeds()

    def __len__(self) -> int:
        return len(self.preferences)

    def describe(self, group: int) -> str:
        preference = self.preferences[group]
        return f"{preference.group_id} ({preference.prompt!r})"

    def fetch(self, groups: Sequence[int], *, dropped: Sequence[bool], flipped: Sequence[bool]) -> GroupBatch:
        """The groups by index; `dropped` replaces a group's prompt by the empty one, `flipped` mirrors all its samples alike."""
        rows = [self.preferences[group] for group in groups]
        ids = [sample for row in rows for sample in row.samples]
        flips = [flip for row, flip in zip(rows, flipped) for _ in row.samples]
        latents = self.cache.latents(ids, flips)
        embeds = self.cache.embeds([row.prompt for row in rows])
        if any(dropped):
            mask = torch.tensor(list(dropped))
            embeds = {
                name: torch.where(mask.view(-1, *[1] * (value.ndim - 1)), self.dropout_embeds[name], value)
                for name, value in embeds.items()
            }
        return GroupBatch(
            latents=latents.view(len(rows), -1, *latents.shape[1:]),
            embeds=embeds,
            weight=torch.tensor([row.weight for row in rows], dtype=torch.float32),
            scores=torch.tensor([row.scores for row in rows], dtype=torch.float32).unsqueeze(-1)
            if all(row.scores is not None for row in rows)
            else None,
            labels=torch.tensor([row.labels for row in rows]) if rows[0].labels is not None else None,
        )


def _positives(preference: Preference) -> list[Preference]:
    """The preferred sample of a pair or list, or each wanted one of a labelled row, as a row of its own."""
    labels = preference.labels
    best = preference.samples[:1] if labels is None else [sample for sample, label in zip(preference.samples, labels) if label == 1]
    return [replace(preference, samples=(sample,), kind="labelled", labels=(1,), scores=None, segment_labels=None) for sample in best]
