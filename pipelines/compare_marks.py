"""Which methods of a comparison are marked as better or worse than the one they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, variance
from typing import Any

from pipelines.bootstrap import holm, p_value

Result = Mapping[str, Any]
LEVEL = 0.05  # of one false mark or more in the whole table
MOST_FREEDOM = 20  # of the pooled variance: methods differ in theirs, however many there are


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
    It is therefore at least twice that of a method's own change, pooled over the methods, as if seeds had nothing in common. What differs
    by seed and prompt is in both variances, so the p is rather too large. Methods that collapse scatter the most: those far above the
    others are not in the pool, or nothing else would be found. By simulation of 56 methods with three seeds, of which five scatter 1.5 to
    5.2 times as far: where nothing differs 5 % of tables have a false mark (2 % with all scattering alike, 4 % with all methods pooled);
    where the five are worse, a difference of 5 standard errors over prompts is marked in 30 % (24 % with all pooled).
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
    """The variance within groups and its degrees of freedom, MOST_FREEDOM at most; 0 and 0 where each has one value.

    Without groups whose variance is far above the others': above what the largest of as many χ² on the median's scale stays below in 95 %
    of cases.
    """
    from scipy.special import chdtri

    scatters = [(variance(values), len(values) - 1) for values in groups if len(values) > 1]
    if not scatters:
        return 0.0, 0
    scale = median(own * freedom / chdtri(freedom, 0.5) for own, freedom in scatters)
    kept = [(own, freedom) for own, freedom in scatters if own * freedom <= scale * chdtri(freedom, 0.05 / len(scatters))]
    freedom = sum(freedom for _, freedom in kept)
    return sum(own * freedom for own, freedom in kept) / max(1, freedom), min(freedom, MOST_FREEDOM)
