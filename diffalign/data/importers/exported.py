"""The tables that `diffalign export` wrote, read back: the rows of a group are one group again, its samples under their own ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from diffalign.data.conditions import CONDITION
from diffalign.data.exported import LAYOUTS, MEDIA_COLUMNS, OF_SAMPLES, PARENTS, SAID, facts_of, said_of
from diffalign.data.importers.judged import Place, Side
from diffalign.data.importers.media import condition_of
from diffalign.data.importers.report import ImportedGroup, ImportReport, import_each
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.records import Candidate, Kind, Preference


def exported_groups(
    source: str, report: ImportReport, split: str, revision: str | None, max_samples: int | None
) -> Iterator[ImportedGroup]:
    """One group for each run of rows of one group_id, which an export writes together.

    Where rows of a group are apart, as in a shuffled set, each run of them is a group, and the later have "+2", "+3" behind their ids.
    """
    media = tuple(name for names in MEDIA_COLUMNS.values() for name in names)
    required = ("prompt", media, *SAID, "group_id", *OF_SAMPLES.names)
    optional = ("label", CONDITION, PARENTS)
    rows = stream_rows(source, required=required, optional=optional, split=split, revision=revision, advice="Or leave `exported` out.")
    together = (list(members) for _, members in groupby(rows, key=lambda row: row.values["group_id"]))
    runs: Counter[str] = Counter()

    def build(members: Sequence[SourceRow], _: str) -> ImportedGroup | None:
        group_id = str(members[0].values["group_id"])
        runs[group_id] += 1
        return _group(members, group_id, "" if runs[group_id] == 1 else f"+{runs[group_id]}")

    yield from import_each("table", ((members[0].where, members) for members in together), build, report, max_samples)


def _group(members: Sequence[SourceRow], group_id: str, suffix: str) -> ImportedGroup | None:
    """The group of its rows; None where the prompt is no text or blank. ValueError where they disagree about it or a sample."""
    prompt = members[0].values["prompt"]
    if not isinstance(prompt, str) or not prompt.strip():
        return None
    candidates: dict[str, Candidate] = {}
    media: dict[str, Any] = {}
    preferences = []
    for row in members:
        if row.values["prompt"] != prompt:
            raise ValueError(f"group {group_id!r} has two prompts, {prompt!r} and {row.values['prompt']!r}; give each its group_id")
        kind: Kind = next(kind for kind in LAYOUTS if MEDIA_COLUMNS[kind][0] in row.values)
        own = row.values["samples"] if kind == "list" else [row.values[name] for name in MEDIA_COLUMNS[kind]]
        ids = [f"{name}{suffix}" for name in row.values["candidate_ids"]]
        for place, (name, medium) in enumerate(zip(ids, own, strict=True)):
            if media.setdefault(name, medium) != medium:
                raise ValueError(f"candidate id {name!r} is of two media; give each sample its own")
            if name not in candidates:
                at = Place("table", group_id + suffix, row.where, row.folder)
                candidates[name] = replace(at.candidate(prompt, _side(row, place, medium)), candidate_id=name)
        labels = (row.values["label"],) if kind == "labelled" else None
        preferences.append(Preference(group_id + suffix, prompt, tuple(ids), kind, labels, **said_of(row.values)))
    condition = members[0].values.get(CONDITION)
    if condition is not None:
        image = condition_of(condition, f"{members[0].where} {CONDITION}", members[0].folder)
        candidates = {name: replace(candidate, condition=image) for name, candidate in candidates.items()}
    return ImportedGroup(group_id + suffix, prompt, tuple(candidates.values()), tuple(preferences))


def _side(row: SourceRow, place: int, medium: Any) -> Side:
    facts: Mapping[str, Any] = facts_of(row.values, place)
    own = {name: value for name, value in facts.items() if name not in ("model", "tags")}
    return Side(medium, str(place), facts["model"], facts["tags"], facts=own)
