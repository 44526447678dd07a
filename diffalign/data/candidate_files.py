"""The candidates of a folder by their id, read when asked for: a set's media are larger than memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from diffalign.data.conditions import CONDITION
from diffalign.data.records import Candidate, candidate_columns, modality_of_candidates
from diffalign.data.shards import open_parquet, shard_paths

KEPT_BYTES = 2**30  # of row groups, and one at least: samples of a preference stand together, or in as many places as there are models


class _Place(NamedTuple):
    path: Path
    row_group: int
    row: int


class CandidateFiles:
    """Candidates of a folder of shards, by id and by group; the order of both is that of the files.

    modality   of all of them
    conditioned  whether their prompts came with conditions
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.modality = modality_of_candidates(folder)
        self._columns = candidate_columns(folder)
        self.conditioned = CONDITION in self._columns
        self.groups: dict[str, list[str]] = {}
        self._places: dict[str, _Place] = {}
        self._kept: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        for path in shard_paths(folder):
            with open_parquet(path) as file:
                for number in range(file.num_row_groups):
                    for row, found in enumerate(file.read_row_group(number, ["candidate_id", "group_id"]).to_pylist()):
                        self._places[found["candidate_id"]] = _Place(path, number, row)
                        self.groups.setdefault(found["group_id"], []).append(found["candidate_id"])

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, candidate_id: str) -> Candidate:
        """The candidate, its media still encoded. ValueError where there is none of this id."""
        if candidate_id not in self._places:
            raise ValueError(
                f"candidate {candidate_id!r} is not in {self.folder}; make the preferences again: diffalign pair CONFIG --redo"
            )
        place = self._places[candidate_id]
        [row] = self._rows(place.path, place.row_group).slice(place.row, 1).to_pylist()
        return Candidate.from_row(row)

    def _rows(self, path: Path, number: int) -> pa.Table:
        key = (path, number)
        if key not in self._kept:
            with open_parquet(path) as file:
                self._kept[key] = file.read_row_group(number, self._columns)
            while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
