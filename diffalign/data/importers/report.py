"""What every importer yields and counts, and the loop they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from diffalign.data.modalities import modality_of
from diffalign.data.records import Candidate, Preference

REASONS_KEPT = 5
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
    """Counted while an import is read: read = kept + skipped + broken; tied is a part of kept.

    reasons      of the first few broken
    modality     of all media kept, "" before the first
    broken_rows  all of them, at most max_broken and one more
    """

    max_broken: int = 100
    read: int = 0
    kept: int = 0
    tied: int = 0
    skipped: int = 0
    broken: int = 0
    reasons: list[str] = field(default_factory=list)
    modality: str = ""
    broken_rows: list[BrokenRow] = field(default_factory=list)

    def count_broken(self, where: str, reason: object) -> None:
        """Count a row that cannot be used; ValueError above max_broken."""
        self.broken += 1
        self.broken_rows.append(BrokenRow(where, str(reason)))
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append(f"{where}: {reason}")
        if self.broken > self.max_broken:
            raise ValueError(
                f"{self.broken} of {self.read} rows are broken, more than max_broken={self.max_broken}; "
                f"fetch the data again or raise max_broken. The first: {'; '.join(self.reasons)}"
            )

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
        self.tied += any(preference.win_probability == 0.5 for preference in group.preferences)
        return group


def import_each(
    name: str,
    rows: Iterable[tuple[str, Row]],
    build: Callable[[Row, str], ImportedGroup | None],
    report: ImportReport,
    max_samples: int | None,
) -> Iterator[ImportedGroup]:
    """The groups that `build(row, group_id)` makes of rows (where it stands, row), counted; None: the row is skipped.

    A row for which `build` raises ValueError or FileNotFoundError is broken, and counted so. Other errors stop the import: PermissionError
    of a path that leads outside, ImportError of a decoder that is not installed.
    max_samples   stop after so many groups kept; None: all. ValueError below 1, before any row is read
    """
    check_count(max_samples)
    for index, (where, row) in enumerate(rows):
        report.read += 1
        try:
            group = build(row, f"{name}-{index:07d}")
        except (ValueError, FileNotFoundError) as error:
            report.count_broken(where, error)
            continue
        if group is None:
            report.skipped += 1
            continue
        yield report.count_kept(group, where)
        if report.kept == max_samples:
            return


def check_count(max_samples: int | None) -> None:
    """ValueError for a `max_samples` that would keep nothing."""
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; give 1 or more, or null for all")
