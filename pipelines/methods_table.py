"""`diffalign methods`: what an objective is, what it needs and how to get it, and its β in other projects' terms."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module

import yaml

from diffalign.did_you_mean import did_you_mean
from diffalign.objectives import OBJECTIVES, defaults, objective_function
from pipelines.config_file import bundled_configs
from pipelines.methods_beta import beta_elsewhere, scale_line
from pipelines.methods_needs import needs_lines
from pipelines.methods_presets import describe_preset, presets

COLUMNS = ("objective", "rows", "reference", "what it does")


def methods_rows() -> list[tuple[str, str, str, str]]:
    """A line of COLUMNS for each objective, in the order of the table."""
    return [(name, needs.rows, needs.reference or "none", _summary(name)) for name, needs in OBJECTIVES.items()]


def markdown() -> str:
    """The table of the README: methods_rows, and who wrote of it, by its docstring."""
    lines = ["| name | rows | reference | what it does | paper |", "|---|---|---|---|---|"]
    for name, rows, reference, does in methods_rows():
        also = ", triples" if OBJECTIVES[name].triples else ""
        lines.append(f"| `{name}` | {rows}{also} | {reference} | {does} | {_citation(name)} |")
    return "\n".join(lines)


def describe(name: str) -> str:
    """One objective or preset in full, as text. ValueError for a name that is neither."""
    if name in presets():
        return describe_preset(presets()[name])
    if name not in OBJECTIVES:
        hint = did_you_mean(name, [*OBJECTIVES, *presets()])
        raise ValueError(f"unknown method {name!r}{hint}; choose one of: {', '.join(OBJECTIVES)}; or a preset: {', '.join(presets())}")
    function = objective_function(name)
    needs, formula, arguments = OBJECTIVES[name], inspect.getdoc(function) or "", defaults(name)
    at_reference = (
        "depends on the errors or scores" if needs.value_at_reference is None else f"{needs.value_at_reference:.6g} at the defaults"
    )
    noising = ", noising: trajectory" if needs.own_samples else ""
    lines = [
        ("paper", paper(formula)),
        *needs_lines(name),
        ("defaults", ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "none"),
        ("in a config", f"train: {{objective: {{{', '.join(['name: ' + name, *_yaml_arguments(arguments)])}}}{noising}}}"),
        ("policy = reference", f"loss {at_reference}"),
        scale_line(name, arguments),
        *(("config" if index == 0 else "", path) for index, path in enumerate(configs_of(name))),
    ]
    told = "\n".join(f"{label:<20}{text}" for label, text in lines)
    return f"{name}: {_summary(name)}\n\n{formula}\n\n{told}{beta_elsewhere(name, arguments)}"


def paper(formula: str) -> str:
    """The links in a docstring: arXiv numbers as addresses, and addresses as they are."""
    found = re.findall(r"arXiv:\d{4}\.\d{5}|https://[^\s,;]+", formula)
    return ", ".join(each.replace("arXiv:", "https://arxiv.org/abs/").rstrip(".") for each in found)


def configs_of(name: str) -> list[str]:
    """The bundled configs/methods/*.yaml that train with an objective."""
    found = []
    for path in sorted((bundled_configs() / "methods").glob("*.yaml")):
        objective = (yaml.safe_load(path.read_text(encoding="utf-8")).get("train") or {}).get("objective", "diffusion_dpo")
        if name == (objective if isinstance(objective, str) else objective.get("name")):
            found.append(f"configs/methods/{path.name}")
    return found


def _summary(name: str) -> str:
    """The first line of the objective's file, without its name."""
    text = (import_module(f"diffalign.objectives.{name}").__doc__ or "").split("\n")[0]
    return text.partition(": ")[2].rstrip(".")


def _citation(name: str) -> str:
    """Authors, year and number or address, as the objective's docstring has them first. ValueError where it has none."""
    cited = r"(?:after )?[A-Z][\w'-]+(?: et al\.)? \d{4}(?: \([^)]*\))?, (?:arXiv:\d{4}\.\d{5}|https://[^\s,;]*[^\s,;.])"
    found = re.search(cited, inspect.getdoc(objective_function(name)) or "")
    if found is None:
        raise ValueError(f"the docstring of objective {name!r} names no paper; write such as Wallace et al. 2023, arXiv:2311.12908")
    return found[0]


def _yaml_arguments(arguments: dict[str, object]) -> list[str]:
    return [f"{key}: {json.dumps(value)}" for key, value in arguments.items()]
