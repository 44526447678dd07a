"""A group: what pairing knows of the candidates of one prompt. Light, so that a whole set fits in memory while its media stay on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from diffalign.data.modalities import Media
from diffalign.data.modalities.audio import Audio
from diffalign.data.records import STRATEGY, Candidate, Preference


@dataclass(frozen=True)
class Group:
    """The candidates of one prompt, column by column; every column has one entry per id.

    scores       "reward.dimension" → value of each candidate; NaN where there is none
    sources      what the same-source rule compares (the model)
    identities   sha256 of each medium, "" where not computed (then nothing counts as identical)
    sizes        what the same-size rule compares: a medium's columns, (width, height) for images; of a sound how long it lasts, for rate
                 and channels are the model's in training
    preferences  judgements that came with the data, for rule "imported"
    strategies   what was wrong with the prompt that was sampled, "" for the group's own; () where all are
    """

    group_id: str
    prompt: str
    ids: Sequence[str]
    scores: Mapping[str, Sequence[float]]
    sources: Sequence[str]
    identities: Sequence[str]
    sizes: Sequence[tuple[Any, ...]]
    preferences: Sequence[Preference] = ()
    strategies: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategies", self.strategies or [""] * len(self.ids))
        columns = {
            "sources": self.sources,
            "identities": self.identities,
            "sizes": self.sizes,
            "strategies": self.strategies,
            **self.scores,
        }
        for name, column in columns.items():
            if len(column) != len(self.ids):
                raise ValueError(
                    f"group {self.group_id!r}: {name} has {len(column)} entries for {len(self.ids)} candidates; give one for each"
                )
        if len(set(self.ids)) != len(self.ids):
            twice = next(name for name in self.ids if list(self.ids).count(name) > 1)
            raise ValueError(f"group {self.group_id!r}: candidate {twice!r} occurs twice; candidate ids are unique")


def group_candidates(
    candidates: Iterable[Candidate],
    scores: Mapping[str, Mapping[str, float]],
    preferences: Iterable[Preference] = (),
    *,
    identities: bool = True,
) -> list[Group]:
    """Groups by group_id, sorted, of streamed candidates in any order.

    scores       as `read_scores` gives them; a candidate without a score gets NaN
    identities   compute them (decodes every medium once); False where identical media need not be found
    """
    members: dict[str, list[tuple[str, str, str, tuple[Any, ...], str]]] = {}
    prompts: dict[str, str] = {}
    for candidate in candidates:
        known = prompts.setdefault(candidate.group_id, candidate.prompt)
        if known != candidate.prompt:
            raise ValueError(
                f"group {candidate.group_id!r} has two prompts, {known!r} and {candidate.prompt!r}; a group answers one prompt"
            )
        identity = candidate.media.identity() if identities else ""
        size, strategy = _size_of(candidate.media), candidate.tags.get(STRATEGY, "")
        members.setdefault(candidate.group_id, []).append((candidate.candidate_id, candidate.source, identity, size, strategy))
    judged: dict[str, list[Preference]] = {}
    for preference in preferences:
        judged.setdefault(preference.group_id, []).append(preference)
    groups = []
    for group_id in sorted(members):
        rows = sorted(members[group_id])
        ids = [row[0] for row in rows]
        groups.append(
            Group(
                group_id=group_id,
                prompt=prompts[group_id],
                ids=ids,
                scores={name: [values.get(member, float("nan")) for member in ids] for name, values in scores.items()},
                sources=[row[1] for row in rows],
                identities=[row[2] for row in rows],
                sizes=[row[3] for row in rows],
                strategies=[row[4] for row in rows],
                preferences=judged.get(group_id, ()),
            )
        )
    return groups


def _size_of(medium: Media) -> tuple[Any, ...]:
    columns = medium.columns
    return (Fraction(columns["samples"], columns["sample_rate_hz"]),) if isinstance(medium, Audio) else tuple(columns.values())
