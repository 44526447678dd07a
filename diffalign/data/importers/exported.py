"""The tables that `diffalign export` wrote, read back: the rows of a group are one group again, its samples under their own ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from diffalign.data.conditions import CONDITION
from diffalign.data.exported import LAYOUTS, MEDIA_COLUMNS, OF_SAMPLES, PARENTS, SAID, facts_of, said_of
from diffalign.data.importers.fields import shown
from diffalign.data.importers.judged import Place, Side
from diffalign.data.importers.media import condition_of
from diffalign.data.importers.report import ImportedGroup, ImportReport, import_each
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.records import Candidate, Kind


def exported_groups(
    source: str, report: ImportReport, split: str | None, revision: str | None, max_samples: int | None
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
    given = members[0].values.get(CONDITION)
    condition = None if given is None else condition_of(given, f"{members[0].where} {CONDITION}", members[0].folder)
    candidates: dict[str, Candidate] = {}
    media: dict[str, Any] = {}
    preferences = []
    for row in members:
        if row.values["prompt"] != prompt:
            raise ValueError(f"group {group_id!r} has two prompts, {prompt!r} and {row.values['prompt']!r}; give each its group_id")
        at = Place("table", group_id + suffix, row.where, row.folder)
        kind, own = _samples(row.values)
        ids = [f"{name}{suffix}" for name in row.values["candidate_ids"]]
        for place, (name, medium) in enumerate(zip(ids, own, strict=True)):
            if media.setdefault(name, medium) != medium:
                raise ValueError(f"candidate id {name!r} is of two media; give each sample its own")
            if name not in candidates:
                facts: dict[str, Any] = facts_of(row.values, place) | {"candidate_id": name}
                side = Side(medium, str(place), facts.pop("model"), facts.pop("tags"), facts=facts, condition=condition)
                candidates[name] = at.candidate(prompt, side)
        labels = {"labels": (_label(row.values),)} if kind == "labelled" else {}
        preferences.append(at.preference(prompt, {"samples": tuple(ids), "kind": kind, **labels, **said_of(row.values)}))
    return ImportedGroup(group_id + suffix, prompt, tuple(candidates.values()), tuple(preferences))


def _samples(values: Mapping[str, Any]) -> tuple[Kind, list[Any]]:
    """The kind of a row by its columns, and its media; ValueError where a column has not a value for each."""
    kind: Kind | None = next((kind for kind in LAYOUTS if all(name in values for name in MEDIA_COLUMNS[kind])), None)
    if kind is None:
        raise ValueError(f"it has no media; give the columns {' or '.join(' and '.join(names) for names in MEDIA_COLUMNS.values())}")
    media = values["samples"] if kind == "list" else [values[name] for name in MEDIA_COLUMNS[kind]]
    parents = [] if values.get(PARENTS) is None else [(PARENTS, values[PARENTS])]
    for name, given in (("samples", media), *((name, values[name]) for name in OF_SAMPLES.names), *parents):
        if not isinstance(given, list) or len(given) != len(media):
            raise ValueError(f"{name} is {shown(given)}; it is a list with a value for each sample")
    return kind, media


def _label(values: Mapping[str, Any]) -> int:
    if values.get("label") not in (0, 1):
        raise ValueError(f"label is {shown(values.get('label'))}; it is 1 (wanted) or 0 (unwanted)")
    return values["label"]
