"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math

import torch
from torch import nn

from diffalign.training.settings import Settings


def build_optimizer(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """The optimiser named in the settings. ImportError names the extra where 8-bit Adam's library is missing."""
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    adam = {"betas": settings.adam_betas, "eps": settings.adam_epsilon}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options, **adam)
    if settings.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, **options, scale_parameter=False, relative_step=False)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ImportError("optimizer: adamw_8bit needs bitsandbytes; install it with: pip install 'diffalign[bitsandbytes]'") from error
    return AdamW8bit(parameters, **options, **adam)


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Factor on the learning rate at a step, from 0: linear warm-up to 1, then constant, or down to 0 after its last step."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    last = settings.schedule_steps or settings.steps
    done = (step - settings.warmup_steps) / max(1, last - settings.warmup_steps)
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
