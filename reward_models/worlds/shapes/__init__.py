"""The shapes world: 64x64 pictures of coloured shapes, with a caption grammar and a renderer."""

from .captions import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SPLITS,
    TASK_SHARES,
    TASKS,
    Item,
    Prompt,
    Scene,
    caption,
    compose,
    parse,
    prompts,
    scenes,
    wordings,
    words,
)
from .geometry import PALETTE, SIZE
from .render import Placed, render, render_objects

__all__ = [
    "COLOURS",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "SPLITS",
    "TASKS",
    "TASK_SHARES",
    "Item",
    "Placed",
    "Prompt",
    "Scene",
    "caption",
    "compose",
    "parse",
    "prompts",
    "render",
    "render_objects",
    "scenes",
    "wordings",
    "words",
]
