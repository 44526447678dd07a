"""The motion world: clips of coloured shapes that move, with a caption grammar, a renderer and an exact verifier, whole and by segment."""

from reward_models.worlds.splits import SPLITS

from .captions import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SPEEDS,
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
from .perturb import STRATEGIES, perturb
from .read import Reading, Track, motion_magnitude, read
from .render import Layout, Path, layout, render, render_paths
from .reward import Motion, medium
from .timing import FPS, FRAMES, SEGMENT, SIZE
from .verify import DIMENSIONS, FIDELITY_THRESHOLD, verify, verify_segment_parts, verify_segments

__all__ = [
    "COLOURS",
    "DIMENSIONS",
    "FIDELITY_THRESHOLD",
    "FPS",
    "FRAMES",
    "MOTIONS",
    "SEGMENT",
    "SHAPES",
    "SIZE",
    "SPEEDS",
    "SPLITS",
    "STRATEGIES",
    "TASKS",
    "TASK_SHARES",
    "Item",
    "Layout",
    "Motion",
    "Path",
    "Prompt",
    "Reading",
    "Scene",
    "Track",
    "caption",
    "compose",
    "layout",
    "medium",
    "motion_magnitude",
    "parse",
    "perturb",
    "prompts",
    "read",
    "render",
    "render_paths",
    "scenes",
    "verify",
    "verify_segment_parts",
    "verify_segments",
    "wordings",
    "words",
]
