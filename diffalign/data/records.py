"""The two records every stage exchanges, a candidate and a preference, with their Parquet schemas and readers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

import pyarrow as pa

from diffalign.data.conditions import CONDITION, MODALITY, condition_of_row, has_conditions
from diffalign.data.modalities import Media, media_class, modality_of, modality_of_columns
from diffalign.data.modalities.stored import arrow_type
from diffalign.data.shards import open_parquet, read_rows, shard_paths, write_shard

Kind = Literal["pair", "list", "labelled"]
KINDS = ("pair", "list", "labelled")
STRATEGY, ASKED = "strategy", "asked"  # tags of a candidate sampled from a slightly wrong prompt: what is wrong, and that prompt
STRENGTH = "strength"  # tag of one denoised from a real medium: the share of the timesteps that this was noised to


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


COLUMN_TYPES = {
    "width": pa.int32(),
    "height": pa.int32(),
    "frames": pa.int32(),
    "fps": pa.float64(),
    "samples": pa.int64(),
    "sample_rate_hz": pa.int32(),
    "channels": pa.int8(),
}


def candidates_schema(modality: str, *, conditioned: bool = False) -> pa.Schema:
    """The columns of a table of candidates of a modality, whose own COLUMNS (width, height, …) stand in the middle.

    conditioned  whether its prompts carry a condition, which is a column then
    """
    measures = [_required(name, COLUMN_TYPES[name]) for name in media_class(modality).COLUMNS]
    return pa.schema(
        [
            _required("candidate_id", pa.string()),
            _required("group_id", pa.string()),
            _required("prompt", pa.string()),
            pa.field("media", arrow_type()),  # nullable, or `datasets` would not recognise its feature
            *([pa.field(CONDITION, arrow_type())] if conditioned else []),
            _required("model", pa.string()),
            pa.field("seed", pa.int64()),
            pa.field("steps", pa.int32()),
            pa.field("guidance", pa.float32()),
            pa.field("negative_prompt", pa.string()),
            *measures,
            pa.field("parent", pa.string()),
            _required("tags", pa.string()),  # JSON object of strings: `datasets` knows no map type
        ]
    )


PREFERENCES = pa.schema(
    [
        _required("group_id", pa.string()),
        _required("prompt", pa.string()),
        _required("samples", pa.list_(pa.string())),
        _required("kind", pa.string()),
        pa.field("labels", pa.list_(pa.int8())),
        pa.field("scores", pa.list_(pa.float64())),
        pa.field("win_probability", pa.float64()),
        pa.field("segment_labels", pa.list_(pa.int8())),
        _required("weight", pa.float64()),
        _required("source", pa.string()),
        pa.field("context", pa.string()),
        pa.field("user", pa.string()),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """One sample of a group: all candidates of a group answer the same prompt, and the same condition where there is one.

    model    what made it ("" unknown); pairs of one model are stabler than pairs of several
    seed, steps, guidance, negative_prompt   how it was sampled; None where an imported set does not say
    parent   candidate_id it was derived from, or None
    tags     free strings: task, split, origin
    condition  the image that the prompt came with
    """

    candidate_id: str
    group_id: str
    prompt: str
    media: Media
    model: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    condition: Media | None = None

    @property
    def source(self) -> str:
        """What the same-source rule compares: the model that made it."""
        return self.model

    def to_row(self) -> dict[str, Any]:
        """A row of `candidates_schema` of its modality, conditioned where it has a condition."""
        return {
            "candidate_id": self.candidate_id,
            "group_id": self.group_id,
            "prompt": self.prompt,
            "media": self.media.to_row(),
            **({} if self.condition is None else {CONDITION: self.condition.to_row()}),
            "model": self.model,
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "negative_prompt": self.negative_prompt,
            **self.media.columns,
            "parent": self.parent,
            "tags": json.dumps(dict(self.tags), ensure_ascii=False, sort_keys=True),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Candidate:
        """Of a row of any `candidates_schema`; the media stay undecoded."""
        media = media_class(modality_of_columns(row))
        return cls(
            candidate_id=row["candidate_id"],
            group_id=row["group_id"],
            prompt=row["prompt"],
            media=media.from_row(row["media"], f"candidate {row['candidate_id']}"),
            model=row["model"],
            seed=row["seed"],
            steps=row["steps"],
            guidance=row["guidance"],
            negative_prompt=row["negative_prompt"],
            parent=row["parent"],
            tags=json.loads(row["tags"]),
            condition=condition_of_row(row.get(CONDITION), f"candidate {row['candidate_id']}"),
        )


@dataclass(frozen=True)
class Preference:
    """One judgement about samples of one group.

    samples   candidate ids, best first
    kind      "pair": two samples; "list": two or more, ranked; "labelled": each with a label of its own (1 wanted, 0 unwanted)
    labels    (K,) in {0, 1} for "labelled", else None
    scores    (K,) what the ranking rests on (of lists that people ranked: the share of the others that each sample beats), or None
    win_probability   P(first preferred over second) where votes or an importer give one; 0.5 is a tie; None unknown
    segment_labels    per time span of a pair: 1 the first is better, −1 the second, 0 neither; or None
    weight    of the row in the loss, finite and ≥ 0
    source    reward or data set that judged; context, user: who asked and whom, where known. Of wrong prompts context says what is wrong
    """

    group_id: str
    prompt: str
    samples: tuple[str, ...]
    kind: Kind = "pair"
    labels: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    win_probability: float | None = None
    segment_labels: tuple[int, ...] | None = None
    weight: float = 1.0
    source: str = ""
    context: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        where = f"preference of group {self.group_id!r}"
        if self.kind not in KINDS:
            raise ValueError(f"{where}: unknown kind {self.kind!r}; choose one of: {', '.join(KINDS)}")
        count = len(self.samples)
        if (self.kind == "pair" and count != 2) or (self.kind == "list" and count < 2) or count < 1:
            raise ValueError(f"{where}: kind {self.kind!r} with {count} samples; a pair has 2, a list 2 or more, labelled 1 or more")
        if len(set(self.samples)) != count:
            raise ValueError(f"{where}: a sample occurs twice in {list(self.samples)}; nothing is preferred over itself")
        if (self.labels is not None) != (self.kind == "labelled"):
            raise ValueError(f"{where}: kind {self.kind!r} with labels {self.labels}; labels belong to kind 'labelled' and only there")
        if self.labels is not None and (len(self.labels) != count or not set(self.labels) <= {0, 1}):
            raise ValueError(f"{where}: labels {list(self.labels)} for {count} samples; give 0 or 1 for each")
        if self.scores is not None and (len(self.scores) != count or not all(map(math.isfinite, self.scores))):
            raise ValueError(f"{where}: scores {list(self.scores)} for {count} samples; give one finite number for each")
        if self.win_probability is not None and not 0 <= self.win_probability <= 1:
            raise ValueError(f"{where}: win_probability {self.win_probability}; it lies in 0 … 1")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"{where}: weight {self.weight}; it is finite and ≥ 0")
        if self.segment_labels is not None and not set(self.segment_labels) <= {-1, 0, 1}:
            raise ValueError(f"{where}: segment_labels {list(self.segment_labels)}; each is −1, 0 or 1")

    @property
    def has_tie(self) -> bool:
        """Whether samples of it are tied: the two of a pair by win_probability, some of a list by their scores."""
        if self.kind == "list":
            return self.scores is not None and len(set(self.scores)) < len(self.scores)
        return self.win_probability == 0.5

    def singles(self) -> list[Preference]:
        """One row per sample of a labelled row: a batch needs groups of one size. Any other row as it is."""
        if self.labels is None:
            return [self]
        scores = self.scores
        return [
            replace(self, samples=(sample,), labels=(label,), scores=None if scores is None else scores[place : place + 1])
            for place, (sample, label) in enumerate(zip(self.samples, self.labels, strict=True))
        ]

    def to_row(self) -> dict[str, Any]:
        """A row of PREFERENCES."""
        row = dict(vars(self))
        for name in ("samples", "labels", "scores", "segment_labels"):
            row[name] = None if row[name] is None else list(row[name])
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Preference:
        """Of a row of PREFERENCES."""
        values = {name: row[name] for name in PREFERENCES.names}
        for name in ("samples", "labels", "scores", "segment_labels"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def write_candidates(path: Path, candidates: Sequence[Candidate], modality: str = "image") -> None:
    """One shard of candidates of one modality, media embedded as bytes. ValueError for one of another, or where some lack a condition.

    modality  of a shard without candidates
    """
    modality = modality_of(candidates[0].media) if candidates else modality
    for candidate in candidates:
        own = modality_of(candidate.media)
        if own != modality:
            raise ValueError(f"candidate {candidate.candidate_id!r} is {own} among {modality}; a set has one modality")
    conditioned = has_conditions([candidate.condition for candidate in candidates], f"the candidates for {str(path)!r}")
    features = {"media": media_class(modality).feature()} | ({CONDITION: media_class(MODALITY).feature()} if conditioned else {})
    schema = candidates_schema(modality, conditioned=conditioned)
    write_shard(path, [candidate.to_row() for candidate in candidates], schema, features)


def write_preferences(path: Path, preferences: Iterable[Preference]) -> None:
    """One shard of preferences."""
    write_shard(path, [preference.to_row() for preference in preferences], PREFERENCES)


def read_candidates(folder: Path) -> Iterator[Candidate]:
    """The candidates of a folder in order, streamed; media are handles that decode on demand."""
    return map(Candidate.from_row, read_rows(folder, candidate_columns(folder)))


def candidate_columns(folder: Path) -> list[str]:
    """The columns of a folder of candidates that make a Candidate, by its first shard."""
    with open_parquet(shard_paths(folder)[0]) as file:
        names = file.schema_arrow.names
    return candidates_schema(modality_of_columns(names), conditioned=CONDITION in names).names


def modality_of_candidates(folder: Path) -> str:
    """The modality of a folder of candidates, by its first shard."""
    with open_parquet(shard_paths(folder)[0]) as file:
        return modality_of_columns(file.schema_arrow.names)


def read_preferences(folder: Path) -> list[Preference]:
    """The preferences of a folder in order."""
    return [Preference.from_row(row) for row in read_rows(folder, PREFERENCES.names)]


def read_scores(folder: Path, rewards: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """The scores under scores/REWARD/shard-*.parquet, of these rewards or of all, as "reward.dimension" → candidate_id → value."""
    folder = Path(folder)
    if rewards is None:
        if not folder.is_dir():
            raise FileNotFoundError(f"folder {str(folder)!r} does not exist; run the stage `score` first")
        rewards = sorted(path.name for path in folder.iterdir() if path.is_dir())
    scores: dict[str, dict[str, float]] = {}
    for reward in (folder / name for name in rewards):
        with open_parquet(shard_paths(reward)[0]) as file:
            dimensions = [column.name for column in file.schema_arrow if pa.types.is_floating(column.type)]
        columns = {dimension: scores.setdefault(f"{reward.name}.{dimension}", {}) for dimension in dimensions}
        for row in read_rows(reward, ["candidate_id", *dimensions]):
            for dimension, values in columns.items():
                values[row["candidate_id"]] = row[dimension]
    return scores


def score_columns(folder: Path, names: Sequence[str], samples: Iterable[str], *, standardise: bool) -> dict[str, tuple[float, ...]]:
    """The scores `names` ("reward.dimension") of each sample, in that order; less their mean over the samples and over their deviation.

    Raises ValueError for a score that is not there, and for a sample that has none.
    """
    wanted = list(dict.fromkeys(samples))
    columns = []
    for name in names:
        reward = name.partition(".")[0]
        found = read_scores(folder, [reward]) if (Path(folder) / reward).is_dir() else {}
        if name not in found:
            raise ValueError(f"no score {name!r} in {folder}; write reward.dimension of a reward of the section score ({', '.join(found)})")
        missing = [sample for sample in wanted if (value := found[name].get(sample)) is None or math.isnan(value)]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(wanted)} samples have no {name}, the first: {missing[0]!r}; run the stage `score`, or, where its "
                "judge did not answer about them, have pair set them aside: name the score in pair.by, in pair.agreement (which drops "
                f"pairs that it ranks the other way), or with a limit that all pass, as pair.thresholds: {{{name}: {{minimum_gap: -1e9}}}}"
            )
        values = [found[name][sample] for sample in wanted]
        mean, deviation = (fmean(values), pstdev(values) or 1.0) if standardise else (0.0, 1.0)
        columns.append([(value - mean) / deviation for value in values])
    return dict(zip(wanted, zip(*columns, strict=True), strict=True))
