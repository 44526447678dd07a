"""From a row of a table to a group: two samples with a winner, a ranked list, or one sample with a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from diffalign.data.importers.fields import checked_fields, checked_tags, is_number
from diffalign.data.importers.media import inside, media_of
from diffalign.data.importers.report import ImportedGroup, ImportReport, import_each
from diffalign.data.importers.sources import SourceRow
from diffalign.data.modalities import Media, modality_of
from diffalign.data.records import PREFERENCES, Candidate, Preference, candidates_schema


@dataclass(frozen=True)
class Side:
    """A sample that a row names.

    media   bytes, {"bytes", "path"}, or a path relative to the row's folder
    end     of its candidate id, after the group's
    column  what messages call it; "": as its end
    facts   other fields of the Candidate: seed, steps, …; candidate_id in place of the one above
    condition  the image that the prompt came with
    """

    media: Any
    end: str
    model: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    column: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    condition: Media | None = None


@dataclass(frozen=True)
class Pair:
    """A row that compares two samples.

    probability   P(first preferred): 1, 0, 0.5 a tie; another is kept as win_probability (votes), of the better one
    votes         whether 1 and 0 are shares of votes as well, and kept as win_probability 1
    said          other fields of the Preference: context, user, …; they stand over the above
    """

    prompt: Any
    first: Side
    second: Side
    probability: float = 1.0
    votes: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """A row that ranks two samples or more.

    ranks   one for each side, lower is better; equal ones are tied
    pairs   every two samples as a pair, instead of one list
    said    other fields of the Preference; `scores` of them stand over the win shares
    """

    prompt: Any
    sides: Sequence[Side]
    ranks: Sequence[float]
    pairs: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled:
    """A row that judges one sample: label 1 wanted, 0 unwanted, and the score that it rests on, where there is one."""

    prompt: Any
    side: Side
    label: int
    score: float | None = None
    said: Mapping[str, Any] = field(default_factory=dict)


Judged = Pair | Ranking | Labelled


def import_rows(
    name: str,
    rows: Iterable[SourceRow],
    judge: Callable[[SourceRow], Judged | None],
    report: ImportReport,
    max_samples: int | None,
    folder: str | None = None,
) -> Iterator[ImportedGroup]:
    """The groups of a table's rows, as `judge` understands a row; None, and a prompt that is no text or blank: the row is skipped.

    folder   subfolder beside the table that the rows' paths are relative to; None: the table's own
    """

    def build(row: SourceRow, group_id: str) -> ImportedGroup | None:
        judged = judge(row)
        if judged is None or not isinstance(judged.prompt, str) or not judged.prompt.strip():
            return None
        at = Place(name, group_id, row.where, row.folder if folder is None or row.folder is None else inside(row.folder, folder, "folder"))
        if isinstance(judged, Pair):
            return pair_group(judged, at)
        return ranked_group(judged, at) if isinstance(judged, Ranking) else labelled_group(judged, at)

    return import_each(name, ((row.where, row) for row in rows), build, report, max_samples)


@dataclass(frozen=True)
class Place:
    """Of which importer, group and row a judgement is, and the folder that its paths are relative to."""

    source: str
    group_id: str
    where: str
    folder: Path | None

    def candidate(self, prompt: str, side: Side) -> Candidate:
        """The side as a candidate, its medium and all that is said of it checked."""
        media = media_of(side.media, f"{self.where} {side.column or side.end}".strip(), self.folder)
        said = {
            "candidate_id": f"{self.group_id}-{side.end}",
            "group_id": self.group_id,
            "prompt": prompt,
            "model": side.model,
            **side.facts,
        }
        fields = checked_fields(said, candidates_schema(modality_of(media)))
        return Candidate(**fields, media=media, tags=checked_tags(side.tags), condition=side.condition)

    def preference(self, prompt: str, said: Mapping[str, Any]) -> Preference:
        """A judgement of the group, of other fields of a Preference: what is said.

        A pair whose win_probability is below ½ is turned round, with its scores and segment_labels: the first of a pair is the better one.
        """
        fields = checked_fields({"group_id": self.group_id, "prompt": prompt, **said}, PREFERENCES)
        fields.setdefault("source", self.source)
        probability = fields.get("win_probability")
        if fields.get("kind", "pair") == "pair" and probability is not None and 0 <= probability < 0.5:
            fields |= {"samples": fields["samples"][::-1], "win_probability": 1 - probability}
            if "scores" in fields:
                fields["scores"] = fields["scores"][::-1]
            if "segment_labels" in fields:
                fields["segment_labels"] = tuple(-label for label in fields["segment_labels"])
        return Preference(**fields)


def pair_group(pair: Pair, at: Place) -> ImportedGroup:
    """Two candidates and their pair, the better one first."""
    probability = pair.probability
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability that the first is preferred is {probability}; it lies in 0 … 1 (0.5 a tie)")
    candidates = tuple(at.candidate(pair.prompt, side) for side in (pair.first, pair.second))
    first, second = candidates if probability >= 0.5 else candidates[::-1]
    said = {
        "samples": (first.candidate_id, second.candidate_id),
        "win_probability": None if probability in (0, 1) and not pair.votes else max(probability, 1 - probability),
    }
    return ImportedGroup(at.group_id, pair.prompt, candidates, (at.preference(pair.prompt, {**said, **pair.said}),))


def ranked_group(ranking: Ranking, at: Place) -> ImportedGroup:
    """Its candidates and one list, best first, with each sample's `win_shares` as scores; or a pair of every two."""
    count = len(ranking.sides)
    if count < 2 or not _are_numbers(ranking.ranks, count):
        raise ValueError(f"ranks {ranking.ranks!r} for {count} samples; give a number for each of 2 or more")
    order = sorted(range(count), key=lambda place: (ranking.ranks[place], place))
    candidates = tuple(at.candidate(ranking.prompt, side) for side in ranking.sides)

    def said(places: Sequence[int], **values: Any) -> Preference:
        samples = tuple(candidates[place].candidate_id for place in places)
        return at.preference(ranking.prompt, {"samples": samples, **values, **ranking.said})

    if ranking.pairs:
        tied = {two: ranking.ranks[two[0]] == ranking.ranks[two[1]] for two in combinations(order, 2)}
        preferences = tuple(said(two, win_probability=0.5 if is_tie else None) for two, is_tie in tied.items())
    else:
        shares = win_shares(ranking.ranks)
        preferences = (said(order, kind="list", scores=tuple(shares[place] for place in order)),)
    return ImportedGroup(at.group_id, ranking.prompt, candidates, preferences)


def _are_numbers(values: Any, count: int) -> bool:
    is_list = isinstance(values, list | tuple | range) and len(values) == count
    return is_list and all(map(is_number, values))


def win_shares(ranks: Sequence[float]) -> list[float]:
    """Of each sample, the share of the others that it beats, a tie counting half: 1 beats all, 0 none (Borda's count over K − 1).

    Ranks alone have no unit; these are in that of a win-rate, which the objectives that read scores expect.
    """
    others = len(ranks) - 1
    return [(sum(other > own for other in ranks) + (sum(other == own for other in ranks) - 1) / 2) / others for own in ranks]


def labelled_group(labelled: Labelled, at: Place) -> ImportedGroup:
    """One candidate and its label."""
    candidate = at.candidate(labelled.prompt, labelled.side)
    said = {
        "samples": (candidate.candidate_id,),
        "kind": "labelled",
        "labels": (labelled.label,),
        "scores": None if labelled.score is None else (labelled.score,),
    }
    return ImportedGroup(at.group_id, labelled.prompt, (candidate,), (at.preference(labelled.prompt, {**said, **labelled.said}),))


def sides_of(values: Mapping[str, Any], columns: tuple[str, str], models: tuple[str, str] | None = None) -> tuple[Side, Side]:
    """The two media of a row by the names of their columns, and of those of their models where there are such."""
    names = models or ("", "")
    first, second = (
        Side(values[column], end, str(values.get(model) or ""), column=column)
        for column, end, model in zip(columns, ("1", "2"), names, strict=True)
    )
    return first, second


def number_of(values: Mapping[str, Any], column: str, meaning: str = "a number") -> float:
    """A finite number; ValueError that names the column, and what its values mean, for anything else."""
    value = values.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} is {value!r}; it is {meaning}")
    return number


def tags_of(values: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The columns that say something, as tags of a candidate."""
    return {name: str(values[name]) for name in columns if values.get(name) not in (None, "")}
