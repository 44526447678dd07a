"""Which methods of a comparison are marked as better or worse than the one they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import variance
from typing import Any

from pipelines.bootstrap import holm, p_value

Result = Mapping[str, Any]
LEVEL = 0.05  # of one false mark or more in the whole table


def marks(result: Result) -> dict[str, dict[str, str]]:
    """Method → headline score → ▲ better, ▼ worse; nothing where that is not significant, by Holm over all of the table."""
    found = p_values(result)
    bound = holm((p for values in found.values() for p in values.values()), LEVEL)
    return {
        name: {score: "▲" if result["methods"][name]["against"][score]["change"] > 0 else "▼" for score, p in values.items() if p <= bound}
        for name, values in found.items()
    }


def p_values(result: Result) -> dict[str, dict[str, float]]:
    """Method → headline score → two-sided p of no difference from its rival; none where compare.json has not what it takes.

    The variance is that over prompts and that over seeds of training. The latter is known from two or three trainings alone, so of what
    looks steady some is by luck: by simulation of 26 methods with three seeds, up to a third of all tables would have a false mark.
    It is therefore at least twice that of a method's own change, pooled over all methods, as if seeds had nothing in common. What differs
    by seed and prompt is in both variances, so the p is rather too large.
    """
    found: dict[str, dict[str, float]] = {}
    for score in result["scores"]:
        pooled, freedom = _pooled([[change[score] for change in method.get("seeds", {}).values()] for method in result["methods"].values()])
        for name, method in result["methods"].items():
            change = method.get("against", {}).get(score)
            if change is None or "prompt_error" not in change:
                continue
            differences = list(change["seeds"].values())
            count = len(differences)
            own = variance(differences) if count > 1 else 0.0
            of_seeds = (own, count - 1) if own > 2 * pooled else (2 * pooled, freedom)
            of_prompts = (change["prompt_error"] ** 2, max(1, result["clusters"] - 1))
            found.setdefault(name, {})[score] = p_value(change["change"], [of_prompts, (of_seeds[0] / count, max(1, of_seeds[1]))])
    return found


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance within groups and its degrees of freedom; 0 and 0 where each has one value."""
    several = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    return sum((len(values) - 1) * variance(values) for values in several) / max(1, freedom), freedom
