"""What every importer yields and counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffalign.data.records import Candidate, Preference

REASONS_KEPT = 5


@dataclass(frozen=True)
class ImportedGroup:
    """One prompt with its candidates and what was said about them. Media are checked: they decode to their end."""

    group_id: str
    prompt: str
    candidates: tuple[Candidate, ...]
    preferences: tuple[Preference, ...]


@dataclass
class ImportReport:
    """Counted while an import is read: read = kept + skipped + broken; tied is a part of kept. `reasons`: of the first few broken."""

    max_broken: int = 100
    read: int = 0
    kept: int = 0
    tied: int = 0
    skipped: int = 0
    broken: int = 0
    reasons: list[str] = field(default_factory=list)

    def count_broken(self, where: str, reason: object) -> None:
        """Count a row that cannot be used; ValueError above max_broken."""
        self.broken += 1
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append(f"{where}: {reason}")
        if self.broken > self.max_broken:
            raise ValueError(
                f"{self.broken} of {self.read} rows are broken, more than max_broken={self.max_broken}; "
                f"fetch the data again or raise max_broken. The first: {'; '.join(self.reasons)}"
            )

    def count_kept(self, group: ImportedGroup) -> ImportedGroup:
        """Count a group that is yielded, and give it back."""
        self.kept += 1
        self.tied += any(preference.win_probability == 0.5 for preference in group.preferences)
        return group
