"""The images that prompts came with, at the size of the media that are denoised beside them: they cover it and are cut to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from diffalign.data.modalities import Media
from diffalign.data.modalities.image import fit


def all_given(conditions: Sequence[Media | None], always: str) -> list[Media]:
    """The conditions; ValueError where one is None, which begins with `always`."""
    given = [condition for condition in conditions if condition is not None]
    if len(given) != len(conditions):
        raise ValueError(f"{always}; give a condition for each prompt")
    return given


def pictures(conditions: Sequence[Media], count: int, size: tuple[int, int]) -> list[PIL.Image.Image]:
    """As a pipeline takes them, of (height, width); ValueError where there are not `count`."""
    if len(conditions) != count:
        raise ValueError(f"{count} prompts and {len(conditions)} conditions; give one image per prompt")
    images: Sequence[Any] = conditions
    return [PIL.Image.fromarray(fit(image.pixels(), size)) for image in images]


def pixels(conditions: Sequence[Media], size: tuple[int, int]) -> Tensor:
    """float32 (N, 3, H, W) in [−1, 1]."""
    return torch.from_numpy(np.stack([condition.tensor(size, None) for condition in conditions]))
