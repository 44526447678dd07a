"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math

import torch
from torch import nn

from diffalign.training.settings import Settings

# Settings' name → bitsandbytes' class. Moments in 8 bits (Dettmers et al. 2021, arXiv:2110.02861); paged: what the GPU has no room for
# waits in the machine's memory. torchao's 8-bit Adam is none of them: its moments are no plain tensors, and a checkpoint cannot hold them.
BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}


def build_optimizer(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """The optimiser named in the settings.

    ImportError names the extra where its library is missing; ValueError for a paged one of parameters that are on no GPU.
    """
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    adam = {"betas": settings.adam_betas, "eps": settings.adam_epsilon}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options, **adam)
    if settings.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, **options, scale_parameter=False, relative_step=False)
    name = settings.optimizer
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise ImportError(f"optimizer: {name} needs bitsandbytes; install it with: pip install 'diffalign[bitsandbytes]'") from error
    if name.startswith("paged") and any(parameter.device.type == "cpu" for parameter in parameters):
        raise ValueError(f"optimizer: {name} moves between a GPU and the machine's memory, and the model is on 'cpu'; choose adamw")
    return getattr(optim, BITSANDBYTES[name])(parameters, **options, **adam)


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Factor on the learning rate at a step, from 0: linear warm-up to 1, then constant, or down to 0 after its last step."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    last = settings.schedule_steps or settings.steps
    done = (step - settings.warmup_steps) / max(1, last - settings.warmup_steps)
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
