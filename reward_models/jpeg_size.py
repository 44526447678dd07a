"""JPEG size: how much detail a picture has, in what it costs to write down."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image as PillowImage

from reward_models.pixels import PixelReward


def jpeg_size(pixels: np.ndarray, quality: int = 75) -> float:
    """Bytes per pixel as a baseline JPEG, 4:2:0, standard tables (DDPO's incompressibility, arXiv:2305.13301, per pixel).

    pixels uint8 (H, W, 3). The headers' 625 bytes are counted, so small pictures cost more per pixel: compare pictures of one size.
    """
    buffer = BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return len(buffer.getvalue()) / (pixels.shape[0] * pixels.shape[1])


@dataclass(frozen=True)
class JpegSize(PixelReward):
    """JPEG bytes per pixel; no prompt, no weights. quality: 1 to 95, as libjpeg counts."""

    quality: int = 75

    name = "jpeg_size"

    def __post_init__(self) -> None:
        if type(self.quality) is not int or not 1 <= self.quality <= 95:
            raise ValueError(f"jpeg_size got quality = {self.quality!r}; give a whole number from 1 to 95 (default 75)")

    @property
    def revision(self) -> str:
        """The quality: sizes at two qualities do not compare."""
        return f"1-quality-{self.quality}"

    def measure(self, pixels: np.ndarray) -> float:
        return jpeg_size(pixels, self.quality)
