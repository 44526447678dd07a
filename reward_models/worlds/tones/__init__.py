"""The tones world: three seconds of beeps, buzzes, noise, chirps and clicks, with a caption grammar, a renderer and a verifier."""

from .captions import (
    DIRECTIONS,
    KINDS,
    PITCHES,
    SPLITS,
    TASK_SHARES,
    TASKS,
    Event,
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
from .features import features
from .perturb import STRATEGIES, perturb
from .read import Reading, Sound, read
from .render import SAMPLE_RATE_HZ, SAMPLES, Sounding, layout, render, render_sounds, sounding
from .reward import Tones, medium
from .verify import DIMENSIONS, MIN_CERTAINTY, verify

__all__ = [
    "DIMENSIONS",
    "DIRECTIONS",
    "KINDS",
    "MIN_CERTAINTY",
    "PITCHES",
    "SAMPLES",
    "SAMPLE_RATE_HZ",
    "SPLITS",
    "STRATEGIES",
    "TASKS",
    "TASK_SHARES",
    "Event",
    "Prompt",
    "Reading",
    "Scene",
    "Sound",
    "Sounding",
    "Tones",
    "caption",
    "compose",
    "features",
    "layout",
    "medium",
    "parse",
    "perturb",
    "prompts",
    "read",
    "render",
    "render_sounds",
    "scenes",
    "sounding",
    "verify",
    "wordings",
    "words",
]
