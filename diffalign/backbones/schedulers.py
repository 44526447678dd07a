"""Samplers by name, for the families whose pipelines take any scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


@contextmanager
def scheduler_named(pipeline: Any, name: str | None) -> Iterator[None]:
    """The pipeline with another scheduler inside; None: its own. ValueError for a name that is not in SCHEDULERS."""
    if name is not None and name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}; choose one of: {', '.join(SCHEDULERS)}")
    own = pipeline.scheduler
    if name is not None:
        import diffusers

        # Stable Diffusion's PNDM starts without Runge-Kutta steps; another scheduler's config does not say so.
        options = {"skip_prk_steps": True} if name == "pndm" else {}
        pipeline.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(own.config, **options)
    try:
        yield
    finally:
        pipeline.scheduler = own
