"""Samplers by name, for the families whose pipelines take any scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

PREDICTIONS = ("epsilon", "v_prediction")
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


def set_levels(pipeline: Any, prediction_type: str, rescale_betas_zero_snr: bool) -> bool:
    """Gives a pipeline the scheduler that its model was trained with, where its config says otherwise, or nothing, as a single file does.

    Returns whether it has another one now.
    prediction_type         one of PREDICTIONS; "": as the config has it
    rescale_betas_zero_snr  levels whose last is noise alone (Lin et al. 2023, arXiv:2305.08891); False: as the config has it
    """
    import diffusers

    if prediction_type not in ("", *PREDICTIONS):
        raise ValueError(f"prediction_type is {prediction_type!r}; choose one of: {', '.join(PREDICTIONS)}, or leave it out")
    if not prediction_type and not rescale_betas_zero_snr:
        return False
    scheduler, changes = pipeline.scheduler, {"prediction_type": prediction_type} if prediction_type else {}
    kind: Any = type(scheduler)
    if rescale_betas_zero_snr:
        found = prediction_type or scheduler.config.get("prediction_type")
        if found != "v_prediction":
            raise ValueError(
                f"rescale_betas_zero_snr with prediction_type {found!r}: of noise alone ε tells nothing; set prediction_type: v_prediction"
            )
        changes |= {"rescale_betas_zero_snr": True}
        if "rescale_betas_zero_snr" not in signature(kind.__init__).parameters:  # PNDM's class knows no such levels
            kind = diffusers.DDIMScheduler
    pipeline.scheduler = kind.from_config(scheduler.config, **changes)
    return True


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
