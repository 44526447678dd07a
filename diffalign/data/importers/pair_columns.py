"""Sets of pairs that differ in the names of their columns alone: each is a row of a table, and no file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffalign.data.importers.judged import Pair, Side, import_rows, tags_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.importers.sources import SourceRow, stream_rows
from diffalign.data.records import STRATEGY  # Audio-Alpaca's column has this name


@dataclass(frozen=True)
class PairColumns:
    """The columns of a set of pairs.

    summary        a line for people
    prompt, first, second   their names; the ids of the samples end in those of the latter two
    verdict        where the first is not always preferred: the column that says which is, or several of which a row fills one
    preferred      what it says → P(first preferred); whole numbers as text
    tags           columns that become tags of both samples, `of_second` of the second alone
    context        the column that becomes the preference's context
    """

    summary: str
    prompt: str
    first: str
    second: str
    verdict: tuple[str, ...] = ()
    preferred: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    of_second: tuple[str, ...] = ()
    context: str | None = None

    def pair(self, values: Mapping[str, Any]) -> Pair:
        """A row's pair. ValueError for a verdict that is none."""
        both, second = tags_of(values, self.tags), tags_of(values, self.of_second)
        return Pair(
            values[self.prompt],
            Side(values[self.first], self.first, tags=both),
            Side(values[self.second], self.second, tags=both | second),
            self.probability(values),
            said={"context": None if self.context is None else tags_of(values, (self.context,)).get(self.context)},
        )

    def probability(self, values: Mapping[str, Any]) -> float:
        """P(first preferred)."""
        if not self.verdict:
            return 1.0
        given = [name for name in self.verdict if name in values]
        name = next((name for name in given if values[name] not in (None, "")), given[0])
        said = values[name]
        word = str(int(said)) if isinstance(said, float) and said.is_integer() else str(said)
        if word not in self.preferred:
            raise ValueError(f"{name} is {said!r}; it is one of: {', '.join(self.preferred)}")
        return self.preferred[word]


PAIR_SETS: dict[str, PairColumns] = {
    "align_anything": PairColumns(
        "align-anything (Ji et al. 2024, arXiv:2412.15838), text to image, audio or video: response_1 or response_2 preferred",
        "prompt", "response_1", "response_2",
        verdict=("overall_image", "overall_audio", "overall_video"), preferred={"1": 1.0, "2": 0.0},
    ),
    "videodpo": PairColumns(  # what its score means the set leaves open
        "VideoDPO (Liu et al. 2024, arXiv:2412.14167): video1 preferred to video2", "frame_caption", "video1", "video2", tags=("score",),
    ),
    "audio_alpaca": PairColumns(
        "Audio-Alpaca (Majumder et al. 2024, Tango 2, arXiv:2404.09956): chosen and rejected sounds, strategy kept",
        "prompt", "chosen", "rejected", of_second=(STRATEGY,), context=STRATEGY,
    ),
    "crpo": PairColumns(  # duration in seconds
        "CRPO of TangoFlux (Hung et al. 2024, arXiv:2412.21037): captions, chosen and reject sounds",
        "captions", "chosen", "reject", tags=("duration",),
    ),
    "binarized": PairColumns("open-image-preferences-v1-binarized: chosen and rejected images of a prompt", "prompt", "chosen", "rejected"),
}  # fmt: skip


def pair_importer(name: str) -> Callable[..., Iterator[ImportedGroup]]:
    """The importer of a set of PAIR_SETS."""
    columns = PAIR_SETS[name]
    required = (columns.prompt, columns.first, columns.second, *([columns.verdict] if columns.verdict else []))
    optional = (*columns.tags, *columns.of_second)  # the context is one of them

    def judge(row: SourceRow) -> Pair:
        return columns.pair(row.values)

    def pairs(
        source: str,
        *,
        report: ImportReport,
        folder: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        max_samples: int | None = None,
    ) -> Iterator[ImportedGroup]:
        """One group per row: two samples and their pair.

        source     Parquet (file, folder or glob), another table of these columns, or a hub id (`split`, `revision`: see sources.py), as
                   owner/name:subset where it has several, such as align-anything's text-to-image
        folder     subfolder beside the file that the paths are relative to, where the samples are files
        max_samples  stop after so many rows kept
        """
        rows = stream_rows(source, required=required, optional=optional, split=split, revision=revision)
        return import_rows(name, rows, judge, report, max_samples, folder)

    return pairs
