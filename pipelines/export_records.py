"""A preference set as JSONL: records.jsonl, a record per prompt (diffalign/data/record_lines.py), and its media as files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.data.modalities.signature import suffix_of_file

if TYPE_CHECKING:
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.records import Preference


def write_records(
    folder: Path,
    preferences: Sequence[Preference],
    candidates: CandidateFiles,
    scores: Mapping[str, Mapping[str, float]],
    advance: Callable[[int], None],
) -> None:
    """A record for every group that has a preference, with all its candidates, in the order of the preferences."""
    from diffalign.data.record_lines import record_of

    by_group: dict[str, list[Preference]] = {}
    for preference in preferences:
        by_group.setdefault(preference.group_id, []).append(preference)
    (folder / "media").mkdir(parents=True)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for index, (group_id, said) in enumerate(by_group.items()):
            members = [candidates[candidate_id] for candidate_id in candidates.groups.get(group_id, ())]
            paths = []
            for place, member in enumerate(members):
                data = member.media.encoded()
                paths.append(f"media/{index:06d}_{place}{suffix_of_file(data, member.candidate_id)}")
                (folder / paths[-1]).write_bytes(data)
            condition = None
            if members and members[0].condition is not None:
                data = members[0].condition.encoded()
                condition = f"media/{index:06d}_condition{suffix_of_file(data, group_id)}"
                (folder / condition).write_bytes(data)
            file.write(json.dumps(record_of(members, paths, said, scores, condition), ensure_ascii=False) + "\n")
            advance(len(said))
