"""OpenAI's transform of a picture for CLIP, with Pillow alone, to the pixel as torchvision's: BLIP and the heads over CLIP take it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.image import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: Sequence[Image], size: int) -> Tensor:
    """float32 (N, 3, size, size): the shorter side scaled to `size` (bicubic), the centre, less MEAN, over STD.

    Radford et al. 2021, arXiv:2103.00020, as `clip.load` of the release does it.
    """
    import torch

    return torch.from_numpy(np.stack([_pixels(image.pixels(), size) for image in images]))


def _pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image as PillowImage

    height, width = pixels.shape[:2]
    shorter = min(height, width)
    # The longer side is cut off, not rounded, and the margin is rounded to even: so torchvision's Resize and CenterCrop.
    height, width = int(size * height / shorter), int(size * width / shorter)
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(PillowImage.fromarray(pixels).resize((width, height), PillowImage.Resampling.BICUBIC))
    top, left = round((height - size) / 2), round((width - size) / 2)
    centre = pixels[top : top + size, left : left + size].astype(np.float32) / np.float32(255)
    return ((centre - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1)
