"""A preference as one row of a table that others read: its media in columns of their own, and beside them all that was said.

One layout for each kind of preference. `diffalign export` writes them, `datasets.load_dataset` opens them with media decoded, and the
importer `table` reads them back. What is said of several samples is a list, best first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from diffalign.data.conditions import CONDITION, MODALITY
from diffalign.data.modalities import media_class
from diffalign.data.modalities.stored import arrow_type
from diffalign.data.records import PREFERENCES, Candidate, Kind, Preference

LAYOUTS: dict[Kind, str] = {"pair": "pairs", "list": "lists", "labelled": "labelled"}  # kind → name of its folder
MEDIA_COLUMNS: dict[Kind, tuple[str, ...]] = {"pair": ("chosen", "rejected"), "list": ("samples",), "labelled": ("media",)}
SAID = ("win_probability", "scores", "weight", "segment_labels", "source", "context", "user")  # as in PREFERENCES
OF_SAMPLES = pa.schema(  # column → a value of each sample, best first; the fields of a candidate that are not media
    [
        ("candidate_ids", pa.list_(pa.string())),
        ("models", pa.list_(pa.string())),
        ("seeds", pa.list_(pa.int64())),
        ("steps", pa.list_(pa.int32())),
        ("guidance", pa.list_(pa.float32())),
        ("negative_prompts", pa.list_(pa.string())),
        ("tags", pa.list_(pa.string())),  # JSON objects
    ]
)
PARENTS = "parents"  # as those of OF_SAMPLES; sets that were written before it lack it


def layout_schema(kind: Kind, *, conditioned: bool = False) -> pa.Schema:
    """The columns of the table of a kind; conditioned: with what came with the prompts."""
    media = arrow_type() if kind != "list" else pa.list_(arrow_type())
    return pa.schema(
        [
            pa.field("prompt", pa.string()),
            *([pa.field(CONDITION, arrow_type())] if conditioned else []),
            *(pa.field(name, media) for name in MEDIA_COLUMNS[kind]),
            *([pa.field("label", pa.int8())] if kind == "labelled" else []),
            *(PREFERENCES.field(name).with_nullable(True) for name in SAID),
            pa.field("group_id", pa.string()),
            *OF_SAMPLES,
            pa.field(PARENTS, pa.list_(pa.string())),
        ]
    )


def layout_features(kind: Kind, modality: str, *, conditioned: bool = False) -> dict[str, dict[str, Any]]:
    """The `datasets` features of the media columns, in the form of the `huggingface` schema metadata."""
    media = media_class(modality).feature()
    own = {name: media if kind != "list" else {"_type": "Sequence", "feature": media} for name in MEDIA_COLUMNS[kind]}
    return own | ({CONDITION: media_class(MODALITY).feature()} if conditioned else {})


def layout_row(preference: Preference, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The row of a preference, its candidates in the order of its samples; a labelled one has one (Preference.singles)."""
    media = [candidate.media.to_row() for candidate in candidates]
    columns = {"samples": media} if preference.kind == "list" else dict(zip(MEDIA_COLUMNS[preference.kind], media, strict=True))
    return {
        "prompt": preference.prompt,
        **({} if (condition := candidates[0].condition) is None else {CONDITION: condition.to_row()}),
        **columns,
        **({} if preference.labels is None else {"label": preference.labels[0]}),
        **{name: list(value) if isinstance(value := getattr(preference, name), tuple) else value for name in SAID},
        "group_id": preference.group_id,
        "candidate_ids": [candidate.candidate_id for candidate in candidates],
        "models": [candidate.model for candidate in candidates],
        "seeds": [candidate.seed for candidate in candidates],
        "steps": [candidate.steps for candidate in candidates],
        "guidance": [candidate.guidance for candidate in candidates],
        "negative_prompts": [candidate.negative_prompt for candidate in candidates],
        "tags": [json.dumps(dict(candidate.tags), ensure_ascii=False, sort_keys=True) for candidate in candidates],
        PARENTS: [candidate.parent for candidate in candidates],
    }


def said_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says, as fields of a Preference."""
    return {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in SAID}


def facts_of(row: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What a row says of a sample, as fields of a Candidate. ValueError for tags that are no JSON."""
    names = {"model": "models", "seed": "seeds", "steps": "steps", "guidance": "guidance", "negative_prompt": "negative_prompts"}
    try:
        tags = json.loads(row["tags"][place])
    except (TypeError, ValueError) as error:
        raise ValueError(f"tags of sample {place} are no JSON object ({error})") from None
    parents = row.get(PARENTS)
    parent = None if parents is None else parents[place]
    return {name: row[column][place] for name, column in names.items()} | {"parent": parent, "tags": tags}
