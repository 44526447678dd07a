"""How far a method of a comparison went from the base, and of which that is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.config_file import bundled_configs

Result = Mapping[str, Any]
DRIFTS = ("win_adv", "lose_adv")
FROM_BASE = "initial"


def drift_of(name: str, method: Result) -> dict[str, float | None]:
    """win_adv and lose_adv, None where there is none or the reference is not the base: one that moves says not how far a method went."""
    return {key: method.get(key) if _reference_of(name, method) == FROM_BASE else None for key in DRIFTS}


def drift_note(methods: Sequence[tuple[str, Result]]) -> list[str]:
    """A sentence on the methods whose drift is from another reference than the base."""
    others = {name: _reference_of(name, method) for name, method in methods if any(key in method for key in DRIFTS)}
    found = ", ".join(f"`{name}` ({reference})" for name, reference in others.items() if reference != FROM_BASE)
    why = "`win_adv` and `lose_adv` are from a method's own reference; one that is not the base does not say how far the method went"
    return ["", f"{why}: – for {found}."] if found else []


def _reference_of(name: str, method: Result) -> str:
    """The name of train.reference; of a result that has not kept it, that of configs/methods under the method's name less its variant."""
    if "reference" in method:
        return method["reference"]
    file = bundled_configs() / "methods" / f"{name.partition('-')[0]}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    given = values.get("train", {}).get("reference", FROM_BASE)
    return given if isinstance(given, str) else given["name"]
