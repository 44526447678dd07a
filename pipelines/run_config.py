"""RUN/config.yaml: the configuration that made what the run holds, so that `diffalign run RUN/config.yaml` finds it complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import STAGES
from pipelines.config import Config
from pipelines.config_file import dump_yaml, read_yaml
from pipelines.stage import write_atomically


def keep_config(config: Config, stage: str) -> None:
    """Takes over the section of the stage that has just run, and whatever no other stage of the run was made by.

    A later command need not repeat the overrides of an earlier one, so the sections of the stages that the run holds stay as they were,
    and seed and model too where a stage before this one was made by them.
    """
    file = config.run / "config.yaml"
    before, now = _read(file), read_yaml(config.to_yaml(), str(file))
    made = [name for name in STAGES if name != stage and name in before and (config.run / STAGES[name].folder).is_dir()]
    if getattr(config.pair, "source", None) is not None and "generate" in made:
        made.remove("generate")  # the candidates are imported
    kept = {name: before[name] for name in made}
    order = list(STAGES)
    if any(order.index(name) < order.index(stage) for name in made):
        kept |= {key: before[key] for key in ("seed", "model") if key in before}
    values = now | kept
    write_atomically(file, dump_yaml({key: values[key] for key in Config.model_fields if key in values}).encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        values = read_yaml(file.read_bytes(), str(file))
    except (FileNotFoundError, ValueError):  # it is ours to write: one that somebody broke is written anew
        return {}
    return values if isinstance(values, dict) else {}
