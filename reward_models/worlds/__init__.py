"""Miniature worlds: each has a caption grammar, a renderer and an exact verifier, so that alignment can be measured without weights."""

from importlib import import_module
from types import ModuleType

WORLDS = ("shapes", "motion", "tones")  # name = package reward_models/worlds/NAME


def load_world(name: str) -> ModuleType:
    """The package of the world called `name`, imported on demand.

    Every world offers `prompts(split, count, seed, shares)` with text, task and scene (shares of the tasks, or None), `render(caption,
    seed)` as an array and `medium(caption, seed, size, rate)` as a medium, long enough for a size at so many a second or of the world's
    own length, `verify(caption, array)`, `perturb(caption)` by `STRATEGIES`, and a reward model class.
    ValueError for a name not in `WORLDS`.
    """
    if name not in WORLDS:
        raise ValueError(f"unknown world {name!r}; choose one of: {', '.join(WORLDS)}")
    return import_module(f"{__name__}.{name}")
