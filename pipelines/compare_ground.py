"""What the numbers of a comparison rest on, kept under `ground` in compare.json: how all were judged, and how each was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.compare_jobs import Road
from pipelines.config import Section
from pipelines.prompts import Prompts

# Of the stages and of what is in them: speed, memory, and when to give up.
FREE = {"batch_size", "prompts_per_shard", "candidates_per_shard", "max_unanswered", "at_once"}


def shared_ground(road: Road, *, own_data: bool) -> dict[str, Any]:
    """What must be equal for all methods of a table: base, data and evaluation, as plain values."""
    config = road.config
    sections = {"score": config.score, "encode": config.encode} | ({} if own_data else {"generate": config.generate})
    return {
        "seed": config.seed,
        "model": config.model.fingerprint(),
        "evaluate": _plain(road.evaluate, {"models", "trained_on"}),
        **{name: None if section is None else _plain(section) for name, section in sections.items()},
    }


def own_ground(road: Road, points: Sequence[tuple[float, float]], validation: Prompts | None, seeds: int) -> dict[str, Any]:
    """What two methods should have alike, and a table says where they have not: grid, what chose from it, seeds and budget.

    points      factors of β and of the learning rate
    validation  None where there was nothing to choose
    """
    return {
        "grid": [list(point) for point in points],
        "validation": None if validation is None else _plain(validation),
        "seeds": [road.seed + 1 + place for place in range(seeds)],
        "steps": road.train.steps,
        "batch_size": road.train.batch_size,
    }


def clash(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first difference of two shared grounds, in words; None where there is none, or one of them was not kept."""
    if not ours or not theirs:
        return None
    mine, other = _flat(without_free(ours)), _flat(without_free(theirs))
    keys = [key for key in mine | other if mine.get(key) != other.get(key)]
    return f"{keys[0]} {other.get(keys[0])!r} and this one {mine.get(keys[0])!r}" if keys else None


def check_earlier(earlier: Mapping[str, Any], ground: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """ValueError where the methods of an earlier comparison cannot stand in one table with those of a shared ground.

    earlier   its compare.json
    facts     what else must be equal, as compare.json has it
    """
    if not {"made", "methods", "scores"} <= earlier.keys():
        raise ValueError("what earlier= names is no compare.json of this version; name the one beside a page that compare has written")
    unequal = [f"{key} {earlier.get(key)!r} and this one {value!r}" for key, value in facts.items() if earlier.get(key) != value]
    different = clash(ground, earlier.get("ground", {})) or next(iter(unequal), None)
    if different is not None:
        raise ValueError(
            f"the earlier comparison has {different}, so one table cannot hold both: "
            "compare all of its methods again, or leave out earlier="
        )


def unlike(methods: Mapping[str, Mapping[str, Any]], against: str | None) -> dict[str, str]:
    """Method → in what it was made otherwise than the one they are compared with, or else the first; those made alike are left out."""
    grounds = {name: method.get("ground", {}) for name, method in methods.items()}
    like = grounds.get(against or "") or next(filter(None, grounds.values()), {})
    found = {}
    for name, own in grounds.items():
        words = [f"{_words(key, own[key])}, not {_words(key, like[key])}" for key in like if key in own and own[key] != like[key]]
        if words or (like and not own):
            found[name] = "; ".join(words) or "not kept by its earlier comparison"
    return found


def _words(key: str, value: Any) -> str:
    match key:
        case "grid":
            return f"grid {', '.join(f'{beta:g}×{rate:g}' for beta, rate in value)}"
        case "validation":
            named = {} if value is None else {name: each for name, each in value.items() if each is not None}
            return "chosen on " + (", ".join(f"{name} {each}" for name, each in named.items()) or "nothing")
        case "seeds":
            return f"seeds {', '.join(map(str, value))}"
    return f"{key} {value}"


def _plain(section: Section, without: set[str] | None = None) -> dict[str, Any]:
    return without_free(section.model_dump(mode="json", exclude=without))


def without_free(values: Any) -> Any:
    """Plain values without what changes no number, however deep."""
    if isinstance(values, Mapping):
        return {key: without_free(value) for key, value in values.items() if key not in FREE}
    return values


def _flat(ground: Mapping[str, Any]) -> dict[str, Any]:
    """Sections one level down: evaluate.steps."""
    return {
        f"{name}.{key}" if key else name: value
        for name, section in ground.items()
        for key, value in (section.items() if isinstance(section, Mapping) else [("", section)])
    }
