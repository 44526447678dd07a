"""The shapes world: 64x64 pictures of coloured shapes, with a caption grammar, a renderer and an exact verifier."""

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
from .perturb import STRATEGIES, perturb
from .read import Detection, Reading, detect, read
from .render import Layout, Placed, layout, render, render_objects
from .reward import Shapes, medium
from .verify import DIMENSIONS, FIDELITY_THRESHOLD, verify

__all__ = [
    "COLOURS",
    "DIMENSIONS",
    "FIDELITY_THRESHOLD",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "SPLITS",
    "STRATEGIES",
    "TASKS",
    "TASK_SHARES",
    "Detection",
    "Item",
    "Layout",
    "Placed",
    "Prompt",
    "Reading",
    "Scene",
    "Shapes",
    "caption",
    "compose",
    "detect",
    "layout",
    "medium",
    "parse",
    "perturb",
    "prompts",
    "read",
    "render",
    "render_objects",
    "scenes",
    "verify",
    "wordings",
    "words",
]
