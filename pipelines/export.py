"""export: the preferences of a run → a folder that others open.

As Parquet, `datasets.load_dataset(FOLDER)` opens it with media decoded and a hub takes it unchanged: one table for each kind of preference
(diffalign/data/exported.py). As JSONL, a person reads, edits and shares it: one record per prompt, media as files beside it.
Either way with a card, README.md, that says where the set comes from. The folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipelines.config import Config
from pipelines.export_card import write_card
from pipelines.progress import Progress
from pipelines.stage import is_current, require_stage, stage_path

if TYPE_CHECKING:
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.records import Preference

Form = Literal["parquet", "jsonl"]
SHARD_BYTES = 256 * 2**20  # of media; what one shard holds in memory while it is written


def run(config: Config, to: Path, *, form: str = "parquet", licence: str | None = None, progress: Progress) -> Path:
    """Writes the preferences of the run's stage `pair` to the folder `to`, and gives its path.

    licence   of the set, for the card, such as cc-by-4.0
    ValueError: an unknown form, a folder that is there and not empty, a stage that has not run.
    """
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.records import read_preferences

    if form not in get_args(Form):
        raise ValueError(f"unknown format {form!r}; choose one of: {', '.join(get_args(Form))}")
    to = to.expanduser()
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise ValueError(f"{str(to)!r} is there already and not empty; give a new folder, or move it away")
    folder = require_stage(config, "export", "pair")
    candidates = CandidateFiles(require_stage(config, "export", "generate"))
    preferences = [single for row in read_preferences(folder) for single in row.singles()]
    to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        with progress.bar("export", len(preferences)) as advance:
            if form == "parquet":
                write_tables(unfinished, preferences, candidates, advance)
            else:
                from pipelines.export_records import write_records

                write_records(unfinished, preferences, candidates, current_scores(config), advance)
        write_card(unfinished / "README.md", config, preferences, candidates, form=form, licence=licence, title=to.name)
        unfinished.chmod(0o755)  # mkdtemp gives it to the user alone
        to.rmdir() if to.is_dir() else None
        unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    progress.say(f"export: {len(preferences)} preferences in {to}")
    return to


def write_tables(folder: Path, preferences: Sequence[Preference], candidates: CandidateFiles, advance: Callable[[int], None]) -> None:
    """data/LAYOUT/train-NNNNN.parquet for each kind of preference there is, media embedded."""
    from diffalign.data.exported import LAYOUTS, layout_features, layout_schema
    from diffalign.data.shards import write_shard

    for kind, name in LAYOUTS.items():
        conditioned = candidates.conditioned
        schema = layout_schema(kind, conditioned=conditioned)
        features = layout_features(kind, candidates.modality, conditioned=conditioned)
        for index, rows in enumerate(_shards([row for row in preferences if row.kind == kind], candidates)):
            write_shard(folder / "data" / name / f"train-{index:05d}.parquet", rows, schema, features)
            advance(len(rows))


def _shards(preferences: Sequence[Preference], candidates: CandidateFiles) -> Iterator[list[dict[str, Any]]]:
    from diffalign.data.exported import layout_row

    rows: list[dict[str, Any]] = []
    size = 0
    for preference in preferences:
        members = [candidates[sample] for sample in preference.samples]
        rows.append(layout_row(preference, members))
        size += sum(len(member.media.encoded()) for member in members)
        if size >= SHARD_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def current_scores(config: Config) -> dict[str, dict[str, float]]:
    """ "reward.dimension" → candidate_id → value, of the rewards that scored the candidates as they are now."""
    from diffalign.data.records import read_scores

    rewards = [reward for reward in (config.score.rewards if config.score is not None else ()) if is_current(config, f"score/{reward}")]
    return read_scores(stage_path(config, "score"), rewards)
