"""What every importer yields and counts, and the loop they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from diffalign.data.modalities import modality_of
from diffalign.data.modalities.audio import Audio
from diffalign.data.records import Candidate, Preference

REASONS_KEPT = 5
SILENT = 1e-3  # a sound whose samples all lie below, −60 dBFS, says nothing of its prompt
MOST_CHANNELS = 2  # that a model takes
CLIPPED = 0.01  # of a sound's samples, the share at full scale above which it is heavily clipped; of a sine that just fits, 0.0025 are
Faulty = Literal["keep", "broken"]
FAULTY = get_args(Faulty)
Row = TypeVar("Row")


@dataclass(frozen=True)
class ImportedGroup:
    """One prompt with its candidates and what was said about them. Media are checked: they decode to their end."""

    group_id: str
    prompt: str
    candidates: tuple[Candidate, ...]
    preferences: tuple[Preference, ...]


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used: where it stands (the file, and the row in it), and why."""

    where: str
    reason: str


@dataclass
class ImportReport:
    """Counted while an import is read: read = kept + skipped + broken; tied, the rows with a tie, is a part of kept.

    reasons      of the first few broken
    modality     of all media kept, "" before the first
    broken_rows  all of them, at most max_broken and one more
    silent, clipped            what becomes of a row with a silent, or a heavily clipped, sound: it is kept and counted, or broken
    silent_kept, clipped_kept  sounds that are so, in rows kept
    """

    max_broken: int = 100
    silent: Faulty = "broken"
    clipped: Faulty = "keep"
    read: int = 0
    kept: int = 0
    tied: int = 0
    skipped: int = 0
    broken: int = 0
    reasons: list[str] = field(default_factory=list)
    modality: str = ""
    broken_rows: list[BrokenRow] = field(default_factory=list)
    silent_kept: int = 0
    clipped_kept: int = 0

    def count_broken(self, where: str, reason: object) -> None:
        """Count a row that cannot be used; ValueError above max_broken. Of a name that is no text the bytes are told."""
        where, reason = (str(told).encode(errors="backslashreplace").decode() for told in (where, reason))
        self.broken += 1
        self.broken_rows.append(BrokenRow(where, reason))
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append(f"{where}: {reason}")
        if self.broken > self.max_broken:
            raise ValueError(
                f"{self.broken} of {self.read} rows are broken, more than max_broken={self.max_broken}; "
                f"fetch the data again or raise max_broken. The first: {'; '.join(self.reasons)}"
            )

    def check_sounds(self, group: ImportedGroup) -> None:
        """Counts silent and heavily clipped sounds of a group. ValueError where such are broken, and for more than two channels."""
        sounds = [(candidate, candidate.media.level()) for candidate in group.candidates if isinstance(candidate.media, Audio)]
        for candidate, _ in sounds:
            channels = candidate.media.columns["channels"]
            if channels > MOST_CHANNELS:
                known = f"the sound {candidate.candidate_id!r} has {channels} channels"
                raise ValueError(f"{known}, and models take mono or stereo; mix it down, or drop the row")
        silent = [(candidate, level) for candidate, level in sounds if level.peak < SILENT]
        clipped = [(candidate, level) for candidate, level in sounds if level.clipped > CLIPPED]
        if silent and self.silent == "broken":
            candidate, level = silent[0]
            raise ValueError(
                f"the sound {candidate.candidate_id!r} is silent (no sample above {level.peak:.2g} of full scale); drop the row, or keep "
                f"such with silent: keep"
            )
        if clipped and self.clipped == "broken":
            candidate, level = clipped[0]
            raise ValueError(
                f"the sound {candidate.candidate_id!r} is clipped ({level.clipped:.0%} of its samples at full scale); drop the row, or "
                f"keep such with clipped: keep"
            )
        self.silent_kept += len(silent)
        self.clipped_kept += len(clipped)

    def count_kept(self, group: ImportedGroup, where: str) -> ImportedGroup:
        """Count a group that is yielded, and give it back. ValueError, which stops the import, where its media are of another modality."""
        for candidate in group.candidates:
            modality = modality_of(candidate.media)
            self.modality = self.modality or modality
            if modality != self.modality:
                raise ValueError(
                    f"{where}: {candidate.candidate_id!r} is {modality}, and the media before it are {self.modality}; a set has one "
                    f"modality: import {self.modality} and {modality} as two sets"
                )
        self.kept += 1
        self.tied += any(preference.has_tie for preference in group.preferences)
        return group


def import_each(
    name: str,
    rows: Iterable[tuple[str, Row]],
    build: Callable[[Row, str], ImportedGroup | None],
    report: ImportReport,
    max_samples: int | None,
) -> Iterator[ImportedGroup]:
    """The groups that `build(row, group_id)` makes of rows (where it stands, row), counted; None: the row is skipped.

    A row for which `build` raises ValueError, FileNotFoundError or RecursionError (lists in lists in …) is broken, and counted so. Other
    errors stop the import: PermissionError of a path that leads outside, ImportError of a decoder that is not installed, ValueError where
    an id of a group or a candidate repeats.
    max_samples   stop after so many groups kept; None: all. ValueError below 1, before any row is read
    """
    check_count(max_samples)
    groups: dict[str, str] = {}  # id → where it stands
    candidates: dict[str, str] = {}
    for index, (where, row) in enumerate(rows):
        report.read += 1
        try:
            group = build(row, f"{name}-{index:07d}")
            if group is not None:
                report.check_sounds(group)
        except (ValueError, FileNotFoundError, RecursionError) as error:
            report.count_broken(where, error)
            continue
        if group is None:
            report.skipped += 1
            continue
        _check_new("group", [group.group_id], where, groups)
        _check_new("candidate", [candidate.candidate_id for candidate in group.candidates], where, candidates)
        yield report.count_kept(group, where)
        if report.kept == max_samples:
            return


def _check_new(kind: str, ids: Sequence[str], where: str, places: dict[str, str]) -> None:
    """Remembers where ids stand. ValueError for one that is there already: what reads the set by it would take one for the other."""
    for name in ids:
        if name in places:
            raise ValueError(
                f"{kind} id {name!r} of {where} is that of another {kind}, of {places[name]}; give each an id of its own in the whole set"
            )
        places[name] = where


def check_count(max_samples: int | None) -> None:
    """ValueError for a `max_samples` that would keep nothing."""
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; give 1 or more, or null for all")
