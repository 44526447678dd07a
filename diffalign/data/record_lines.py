"""The canonical record: a JSON object for one prompt with all its candidates and what was said of them; pairs, lists and labels are views.

    {"id", "prompt", "negative_prompt", "condition",
     "candidates": [{"path", "id", "model", "seed", "steps", "guidance", "scores": {reward: {dimension: value}}, "tags"}],
     "preferences": [{"type", "aspect", "order", "probability", "weight", "source", …}], "meta": {"tags"}}

`order` counts candidates of the record, best first; a list inside it, of a ranking or a pair, is a tie. Types: pair, ranking, scores (a
ranking by its `scores`), binary (with `labels`), segments (a pair with `segment_labels`). A path is relative to the file, also the
condition's, an image that came with the prompt. What is null or empty may be left out. A candidate's `scores` are for people: an import
does not read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffalign.data.records import Candidate, Kind, Preference

TYPES: dict[str, Kind] = {"pair": "pair", "segments": "pair", "ranking": "list", "scores": "list", "binary": "labelled"}  # type → kind


def record_of(
    candidates: Sequence[Candidate],
    paths: Sequence[str],
    preferences: Sequence[Preference],
    scores: Mapping[str, Mapping[str, float]],
    condition: str | None = None,
) -> dict[str, Any]:
    """The record of a group: its candidates, the files that hold their media, its preferences, and "reward.dimension" → id → value.

    condition  the file of what came with the prompt
    """
    place = {candidate.candidate_id: index for index, candidate in enumerate(candidates)}
    negatives = {candidate.negative_prompt for candidate in candidates}
    shared = set.intersection(*({*candidate.tags.items()} for candidate in candidates))
    return {
        "id": candidates[0].group_id,
        "prompt": candidates[0].prompt,
        "negative_prompt": negatives.pop() if len(negatives) == 1 else None,
        "condition": condition,
        "candidates": [_candidate(each, path, scores) for each, path in zip(candidates, paths, strict=True)],
        "preferences": [_preference(each, place) for each in preferences],
        "meta": {"tags": [f"{name}: {value}" for name, value in sorted(shared)]},
    }


def _candidate(candidate: Candidate, path: str, scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    given: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        reward, _, dimension = name.partition(".")
        if (value := values.get(candidate.candidate_id)) is not None and math.isfinite(value):  # JSON has no NaN
            given.setdefault(reward, {})[dimension] = value
    facts = {
        "path": path,
        "id": candidate.candidate_id,
        "model": candidate.model or None,
        "seed": candidate.seed,
        "steps": candidate.steps,
        "guidance": candidate.guidance,
        "negative_prompt": candidate.negative_prompt,
        "parent": candidate.parent,
        "scores": given or None,
        "tags": dict(candidate.tags) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}  # an empty negative prompt is one


def _preference(preference: Preference, place: Mapping[str, int]) -> dict[str, Any]:
    order = [place[sample] for sample in preference.samples]
    kind = "segments" if preference.segment_labels is not None else next(name for name, kind in TYPES.items() if kind == preference.kind)
    said = {
        "type": kind,
        "aspect": preference.context or "overall",
        "order": _with_ties(order, preference.scores) if kind == "ranking" else order,
        "probability": preference.win_probability,
        "weight": preference.weight,
        "source": preference.source,
        "labels": preference.labels,
        "scores": preference.scores,
        "segment_labels": preference.segment_labels,
        "context": preference.context,
        "user": preference.user,
    }
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items() if value is not None}


def _with_ties(order: Sequence[int], scores: Sequence[float] | None) -> list[int | list[int]]:
    """The order with samples of one score in a list of their own."""
    levels: list[list[int]] = []
    for place, index in enumerate(order):
        if scores is not None and place and scores[place] == scores[place - 1]:
            levels[-1].append(index)
        else:
            levels.append([index])
    return [level[0] if len(level) == 1 else level for level in levels]


def ranks_of(order: Sequence[int | Sequence[int]]) -> list[tuple[int, int]]:
    """(candidate, rank from 1) of an order with ties, best first."""
    levels = [[level] if isinstance(level, int) else list(level) for level in order]
    return [(index, rank) for rank, level in enumerate(levels, 1) for index in level]
