"""The card of an exported preference set: README.md with the YAML head that hubs read, and where the set comes from."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffalign
from diffalign.data.exported import LAYOUTS
from pipelines.config import Config
from pipelines.config_file import dump_yaml

if TYPE_CHECKING:
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.records import Preference

SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 1_000_000), ("1M<n<10M", 10_000_000))
NAME_LENGTH = 100  # characters of a name in a table
SPEED = ("batch_size", "prompts_per_shard")  # of the section generate: nothing that determines a sample
MEDIA = {
    "pairs": "| `chosen`, `rejected` | pairs: the media |",
    "lists": "| `samples` | lists: the media, best first |",
    "labelled": "| `media`, `label` | labelled: one medium, and 1 where it is wanted, 0 where it is not |",
}
DECODING = (
    "`datasets` decodes these media with `pip install torchcodec`; without it `.cast_column(COLUMN, datasets.{feature}(decode=False))` "
    "gives the files' bytes.\n"
)
COLUMNS = """
| `win_probability` | P(first preferred), 0.5 a tie, null unknown |
| `scores` | what the order rests on, best first, or null |
| `segment_labels` | per span of time: 1 the first is better, −1 the second, 0 neither; or null |
| `weight`, `source`, `context`, `user` | weight in a loss, who judged, and what is known of the question and the judge |
| `group_id`, `candidate_ids` | their names in the run |
| `models`, `seeds`, `steps`, `guidance`, `negative_prompts`, `tags` | how the samples were made, in the same order |
| `parents` | what each was made of, such as the real clip, or null |
""".strip()


def write_card(
    path: Path,
    config: Config,
    preferences: Sequence[Preference],
    candidates: CandidateFiles,
    *,
    form: str,
    licence: str | None,
    title: str,
) -> None:
    """Writes the card. No path or address gets into it: of a local source it names the file or folder alone."""
    layouts = [name for kind, name in LAYOUTS.items() if any(row.kind == kind for row in preferences)]
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {
        "task_categories": [f"text-to-{candidates.modality}"],
        "tags": ["preference", "diffusion", "diffalign"],
        "size_categories": [next((name for name, limit in SIZES if len(preferences) < limit), "n>10M")],
    }
    if form == "parquet":
        files = {name: [{"split": "train", "path": f"data/{name}/train-*.parquet"}] for name in layouts}
        head["configs"] = [
            {"config_name": name, "data_files": files[name], "default": True}
            if name == layouts[0]
            else {"config_name": name, "data_files": files[name]}
            for name in layouts
        ]
    parts = [
        f"---\n{dump_yaml(head)}---\n\n# {title}\n",
        f"Preferences over {candidates.modality} samples, written by diffalign {diffalign.__version__}.\n",
        f"Licence: {licence or 'not stated by those who made this set; ask them before you use it'}\n",
        f"## Counts\n\n{_counts(preferences, candidates)}\n",
        f"## Where it comes from\n\n```yaml\n{dump_yaml(_origin(config))}```\n",
        f"## How to open it\n\n{_opening(form, layouts, candidates.modality)}\n",
    ]
    if form == "parquet":
        media = "\n".join(MEDIA[name] for name in layouts)
        parts.append(f"## Columns\n\n| column | what |\n|---|---|\n| `prompt` | what was asked |\n{media}\n{COLUMNS}\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def _counts(preferences: Sequence[Preference], candidates: CandidateFiles) -> str:
    kinds = Counter(LAYOUTS[row.kind] for row in preferences)
    judges = Counter(row.source or "unknown" for row in preferences)
    rows = {
        **kinds,
        "with ties": sum(row.has_tie for row in preferences),
        "prompts": len({row.prompt for row in preferences}),
        "samples used": len({sample for row in preferences for sample in row.samples}),
        "samples in the run": len(candidates),
        **{f"judged by {name}": count for name, count in sorted(judges.items())},
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {count:,} |" for name, count in rows.items())])


def _cell(name: str) -> str:
    """A name as text of a table: judges are named by whoever made the set, and Markdown or HTML of theirs stays letters."""
    line = " ".join(name.split())
    cut = line if len(line) <= NAME_LENGTH else line[: NAME_LENGTH - 1] + "…"
    return re.sub(r"([\\|`*\[\]])", r"\\\1", html.escape(cut, quote=False))


def _origin(config: Config) -> dict[str, Any]:
    """Samples, judges and rule: the config's sections, as they were resolved, without paths of this machine."""
    pair = config.pair
    found: dict[str, Any] = {"seed": config.seed}
    if pair is not None and pair.source is not None:
        found["imported"] = {"importer": pair.source.importer, "from": _named(pair.source.path), **pair.source.settings}
    else:
        model = {"backbone": config.model.backbone, "source": _named(config.model.source)}
        found["model"] = model | ({"adapters": [_named(name) for name in config.model.adapters]} if config.model.adapters else {})
        if config.generate is not None:
            found["generate"] = config.generate.model_dump(
                mode="json", exclude_none=True, exclude={**dict.fromkeys(SPEED, True), "prompts": {"texts"}}
            )
    if config.score is not None:
        found["reward models"] = config.score.model_dump(mode="json", exclude_none=True)["rewards"]
    if pair is not None:
        found["pairing"] = pair.model_dump(mode="json", exclude_none=True, exclude={"source"})
    return _without_folders(found)


def _named(source: str) -> str:
    """A hub id or bundled name as it is; of a path its last part; of an address nothing."""
    if "://" in source:
        return "an endpoint"
    path = Path(source).expanduser()
    return path.name if path.exists() or path.is_absolute() or source.startswith((".", "~")) else source


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items() if inner not in ("", [])}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return _named(value) if isinstance(value, str) and "/" in value and len(value) < 1000 else value


def _opening(form: str, layouts: Sequence[str], modality: str) -> str:
    if form == "jsonl":
        return "\n".join(
            [
                "`records.jsonl` has a record per prompt, all its samples and what was said of them; media lie in `media/`.\n",
                "```yaml\npair: {source: {importer: records, path: THIS_FOLDER/records.jsonl}}\n```",
            ]
        )
    back = "\n".join(f"pair: {{source: {{importer: table, path: THIS_FOLDER/data/{name}, exported: true}}}}" for name in layouts)
    opened = "\n".join(f'load_dataset("THIS_FOLDER", "{name}", split="train")' for name in layouts)
    return "\n".join(
        [
            f"```python\nfrom datasets import load_dataset\n\n{opened}\n```\n",
            *([] if modality == "image" else [DECODING.format(feature=modality.capitalize())]),
            "In diffalign, as it was:\n",
            f"```yaml\n{back}\n```",
        ]
    )
