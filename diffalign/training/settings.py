"""The settings of a training run: defaults live here, once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from diffalign.section import Section

# What changes how a run is shown or split over devices, and not what it computes.
FREE = {
    "log_every", "tracker", "tracker_project", "tracker_run", "micro_batch_size", "samples_per_forward", "reference_cache",
    "reference_device", "checkpoint_every", "keep_checkpoints",
}  # fmt: skip
# Of these, what the record of a run has had from the beginning: it stays there as it was at the first step.
RECORDED = {"checkpoint_every"}


class Curriculum(Section):
    """Groups by the gap between their first and last score, in stages."""

    name: Literal["curriculum"]
    stages: int = Field(default=6, ge=1, description="parts of equal size; Curriculum-DPO has 6, Curry-DPO 3. One: plain shuffling")
    easy_first: bool = Field(default=True, description="large gaps first")
    cumulative: bool = Field(default=True, description="a stage adds its part to the pool (Curriculum-DPO); false: replaces it (Curry-DPO)")
    every: int | None = Field(default=None, ge=1, description="steps from stage to stage, the last has the rest; None: all alike")

    def first_step(self, stage: int, steps: int) -> int:
        """The step of a run of `steps` that a stage begins with, both from 0."""
        return -(-steps * stage // self.stages) if self.every is None else self.every * stage


Order = Annotated[
    Annotated[Literal["shuffle"], Tag("shuffle")] | Annotated[Curriculum, Tag("curriculum")],
    Discriminator(
        lambda value: value if isinstance(value, str) else value.get("name") if isinstance(value, dict) else getattr(value, "name", None),
        custom_error_type="unknown_order",
        custom_error_message="write shuffle, or a mapping with the name curriculum",
    ),
]


class Settings(Section):
    """Optimisation. Nothing is scaled silently: the learning rate is the one in force, the batch size counts all processes together."""

    steps: int = Field(default=1000, ge=1, description="optimiser steps")
    order: Order = Field(default="shuffle", description="shuffle, or {name: curriculum, stages: …}: from easy pairs to hard ones")
    batch_size: int = Field(default=32, ge=1, description="groups per optimiser step, over all processes and accumulation together")
    micro_batch_size: int | None = Field(default=None, ge=1, description="groups per forward on one device; None: no accumulation")
    learning_rate: float = Field(default=2e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="after warm-up: constant, or down to 0 at the last step"
    )
    schedule_steps: int | None = Field(
        default=None, ge=1, description="steps after which the schedule reaches 0; None: `steps`. More: training stops on the way down"
    )
    warmup_steps: int = Field(default=0, ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor"] = Field(
        default="adamw", description="…_8bit: moments in 8 bits; paged_…: moments wait in the machine's memory where the GPU is full"
    )
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest gradient norm; None: no clipping")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="autocast of the forwards; weights and errors stay float32"
    )
    gradient_checkpointing: bool = False
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="exponential moving average of the weights, saved as the result")
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps between checkpoints; None: a quarter of the run")
    keep_checkpoints: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda count: count is None,
        description="the newest of them, whose folders stay; older ones go when a new one is written. None: all",
    )
    log_every: int = Field(default=10, ge=1, description="steps between lines on the console")
    tracker: str | None = Field(
        default="tensorboard", description="any tracker of accelerate (tensorboard, wandb, …); None: metrics.jsonl alone"
    )
    tracker_project: str = Field(
        default="diffalign", min_length=1, exclude_if=lambda name: name == "diffalign", description="of a tracker that has projects"
    )
    tracker_run: str | None = Field(
        default=None,
        min_length=1,
        exclude_if=lambda name: name is None,
        description="what the tracker calls the run; None: the run folder's name. TensorBoard's runs are named by their folders",
    )
    seed: int = 0

    @field_validator("order", mode="before")
    @classmethod
    def _curriculum_by_name(cls, value: Any) -> Any:
        return {"name": value} if value == "curriculum" else value

    @model_validator(mode="after")
    def _every_stage_is_reached(self) -> Settings:
        if isinstance(self.order, Curriculum):
            last = self.order.first_step(self.order.stages - 1, self.steps)
            if last >= self.steps:
                raise ValueError(
                    f"the last of {self.order.stages} stages begins after {last} steps, and the run has {self.steps}: it is never reached; "
                    f"lower order.stages or order.every, or raise steps"
                )
        return self

    @model_validator(mode="after")
    def _schedule_covers_the_run(self) -> Settings:
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ValueError(
                f"schedule_steps {self.schedule_steps} is less than steps {self.steps}: the rest would train at rate 0; "
                f"give at least {self.steps}, or leave it out"
            )
        return self
