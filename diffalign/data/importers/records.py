"""The canonical record, as `diffalign export --format jsonl` writes it or a person does: JSONL of prompts with media beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffalign.data.importers.fields import is_number, shown
from diffalign.data.importers.judged import Place, Side, win_shares
from diffalign.data.importers.media import condition_of
from diffalign.data.importers.report import ImportedGroup, ImportReport, import_each
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.modalities import Media
from diffalign.data.record_lines import TYPES, ranks_of
from diffalign.data.records import Candidate, Preference

FACTS = ("seed", "steps", "guidance", "negative_prompt", "parent")


def records(
    source: str,
    *,
    report: ImportReport,
    aspect: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per record: its candidates and preferences, with their own ids where they have some.

    source     .jsonl or .json (diffalign/data/record_lines.py says what a record holds); paths are relative to it
    aspect     only preferences of this aspect; None: all. It is their context, but for "overall"
    max_samples  stop after so many records kept
    Of type "scores", the preference's scores (one for each candidate, or for those in `order`) give the order. A ranking without scores
    gets win shares. A pair whose probability is below ½ is turned round. A record without a preference (of the aspect) is skipped.
    """

    def build(row: SourceRow, number: str) -> ImportedGroup | None:
        prompt, given = row.values["prompt"], _objects(row.values, "candidates")
        said = [each for each in _objects(row.values, "preferences") if aspect is None or each.get("aspect", "overall") == aspect]
        if not said or not isinstance(prompt, str) or not prompt.strip():
            return None
        at = Place("records", str(row.values.get("id") or number), row.where, row.folder)
        own = row.values.get("condition")
        condition = None if own in (None, "") else condition_of(own, f"{row.where} condition", row.folder)
        candidates = tuple(_candidate(each, index, at, row.values, condition) for index, each in enumerate(given))
        return ImportedGroup(at.group_id, prompt, candidates, tuple(_preference(each, candidates, at) for each in said))

    rows = stream_rows(source, required=("prompt", "candidates", "preferences"), optional=None)
    yield from import_each("records", ((row.where, row) for row in rows), build, report, max_samples)


def _objects(values: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    found = values[column]
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"{column} is {found!r}; it is a list of objects")
    return found


def _candidate(given: Mapping[str, Any], index: int, at: Place, values: Mapping[str, Any], condition: Media | None) -> Candidate:
    facts: dict[str, Any] = {name: given[name] for name in FACTS if given.get(name) is not None}
    facts.setdefault("negative_prompt", values.get("negative_prompt"))
    if given.get("id"):
        facts["candidate_id"] = str(given["id"])
    side = Side(given.get("path"), str(index), given.get("model") or "", given.get("tags") or {}, f"candidate {index}", facts, condition)
    return at.candidate(values["prompt"], side)


def _preference(given: Mapping[str, Any], candidates: Sequence[Candidate], at: Place) -> Preference:
    kind = given.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"unknown type {shown(kind)} of a preference; choose one of: {', '.join(TYPES)}")
    ranked = _ranked(given.get("order") or (list(range(len(candidates))) if kind == "scores" else []), len(candidates))
    order, scores = [place for place, _ in ranked], given.get("scores")
    if kind == "scores":
        order, scores = _by_score(order, scores)
    elif kind == "ranking" and scores is None:
        scores = win_shares([rank for _, rank in ranked])
    is_tie = TYPES[kind] == "pair" and [rank for _, rank in ranked] == [1, 1]
    probability = 0.5 if is_tie and given.get("probability") is None else given.get("probability")
    if probability is not None and not is_number(probability):
        raise ValueError(f"probability is {shown(probability)}; it is a number in 0 … 1, that the first of the order is preferred")
    if is_tie and probability != 0.5:
        raise ValueError(f"order is {given['order']!r}, a tie, and probability {probability}, which is none; mend one of them")
    aspect = given.get("aspect", "overall")
    said = {
        "samples": tuple(candidates[place].candidate_id for place in order),
        "kind": TYPES[kind],
        "labels": given.get("labels"),
        "scores": scores,
        "win_probability": probability,
        "segment_labels": given.get("segment_labels"),
        "weight": given.get("weight"),
        "source": given.get("source"),
        "context": given.get("context", None if aspect == "overall" else aspect),
        "user": given.get("user"),
    }
    return at.preference(candidates[0].prompt, said)


def _ranked(order: Any, count: int) -> list[tuple[int, int]]:
    """The places of an order, of `count` candidates, with their ranks."""
    levels = order if isinstance(order, list) else []
    places = [place for level in levels for place in (level if isinstance(level, list) else [level])]
    if not places or not all(isinstance(place, int) and 0 <= place < count for place in places):
        raise ValueError(f"order is {order!r}; it counts the record's {count} candidates from 0, best first")
    return ranks_of(levels)


def _by_score(order: Sequence[int], scores: Any) -> tuple[list[int], list[float]]:
    """Both, best first; of equal ones the first."""
    if not isinstance(scores, list) or len(scores) != len(order) or not all(map(is_number, scores)):
        raise ValueError(f"scores are {scores!r} for {len(order)} samples; give a number for each")
    best = sorted(range(len(order)), key=lambda place: -scores[place])
    return [order[place] for place in best], [scores[place] for place in best]
