"""`diffalign methods NAME` of a preset: a file of configs/methods that is an objective with pairs, noising or an order of its own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import yaml

from diffalign.noising import NOISINGS
from diffalign.objectives import OBJECTIVES, defaults, objective_function
from diffalign.stabilisers import STABILISERS
from pipelines.config_file import bundled_configs
from pipelines.methods_beta import beta_elsewhere, scale_line
from pipelines.methods_needs import needs_lines

PRESET_COLUMNS = ("preset", "objective", "what it does")
ARRANGEMENT = ("base", "run")  # keys of the file that are no part of the method


def presets() -> dict[str, Path]:
    """Name → file, of those in configs/methods that are called as no objective."""
    return {path.stem: path for path in sorted((bundled_configs() / "methods").glob("*.yaml")) if path.stem not in OBJECTIVES}


def presets_rows() -> list[tuple[str, str, str]]:
    """A line of PRESET_COLUMNS for each preset: its name, the objective that it is one of, and the first line of its file."""
    rows = []
    for name, path in presets().items():
        text = path.read_text(encoding="utf-8")
        objective = _objective_of(yaml.safe_load(text))
        does = text.splitlines()[0].removeprefix("# ").removesuffix(".")
        rows.append((name, objective if isinstance(objective, str) else objective["name"], does))
    return rows


def describe_preset(path: Path) -> str:
    """A preset in full, as text: what it is by its header, the objective's formula, what it needs and adds, its arguments, β elsewhere."""
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    train, given = values.get("train", {}), _objective_of(values)
    name = given if isinstance(given, str) else given["name"]
    arguments = defaults(name) | ({} if isinstance(given, str) else {key: value for key, value in given.items() if key != "name"})
    changed = {key: value for key, value in arguments.items() if value != defaults(name)[key]}
    formula = (inspect.getdoc(objective_function(name)) or "").splitlines()[0]
    added = [line for key, value in values.items() if key not in ARRANGEMENT for line in _added(key, value)]
    lines = [
        ("paper", _links(_header(text, "Paper"))),
        ("preset", _header(text, "Preset")),
        ("objective", f"{name}; diffalign methods {name} has it in full"),
        *needs_lines(name, values),
        *(("adds" if index == 0 else "", line) for index, line in enumerate(added or ["nothing but its name and arguments"])),
        ("arguments", ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "none"),
        ("not the default", ", ".join(f"{key} (default: {defaults(name)[key]!r})" for key in changed) or "none"),
        scale_line(name, arguments),
        ("config", f"configs/methods/{path.name}"),
    ]
    title = text.splitlines()[0].removeprefix("# ")
    told = "\n".join(f"{label:<20}{line}" for label, line in lines)
    return f"{path.stem}: {title}\n\n{formula}\n\n{told}{beta_elsewhere(name, arguments, train.get('stabilisers', ()))}"


def _objective_of(values: dict[str, Any]) -> str | dict[str, Any]:
    """The objective of a config's own values, as it stands there."""
    return values.get("train", {}).get("objective", "diffusion_dpo")


def _added(section: str, values: dict[str, Any]) -> list[str]:
    """One line a setting of the file, with what a noising or a stabiliser does."""
    lines = []
    for key, value in values.items():
        if (section, key) == ("train", "objective"):
            continue
        does = ""
        if (section, key) == ("train", "noising"):
            does = ": " + NOISINGS[value if isinstance(value, str) else value["name"]]
        if (section, key) == ("train", "stabilisers"):
            does = ": " + "; ".join(STABILISERS[each] for each in value)
        lines.append(f"{section}.{key}={_brief(value)}{does}")
    return lines


def _brief(value: Any) -> str:
    """A value as a config has it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("\n").removesuffix("\n...")


def _header(text: str, label: str) -> str:
    """What a header says under a label, with the lines that go on with it, which are indented."""
    found = re.search(rf"^# {label}: +(.*(?:\n# {{11}}.*)*)$", text, re.MULTILINE)
    return re.sub(r"\n# +", " ", found[1]) if found else "–"


def _links(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"https://arxiv.org/abs/\1", paper)
