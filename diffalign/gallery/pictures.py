"""Pictures as files the page can show: exact where they are tiny, else a thumbnail and a larger one for the lightbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffalign.gallery import Sample

if TYPE_CHECKING:
    from diffalign.gallery.stores import MediaFolder

TINY = 128  # pixels: a picture with no longer side is kept exactly, the page enlarges it


def store_image(folder: MediaFolder, sample: Sample, where: str) -> dict[str, Any]:
    """A thumbnail for the table and, for a picture larger than that, a second file for the lightbox."""
    pixels = np.asarray(sample.media.pixels())
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"{where}: pixels() returned {pixels.dtype} of shape {pixels.shape}; the gallery takes uint8 of shape (H, W, 3)")
    image = Image.fromarray(pixels)
    tiny = max(image.size) <= TINY
    path, address = folder.new_file(".webp")
    save_picture(path, image, tiny, folder.thumbnail_size)
    record = {"src": address, "width": image.width, "height": image.height, "tiny": tiny}
    if not tiny and max(image.size) > folder.thumbnail_size and folder.detail_size > folder.thumbnail_size:
        path, record["detail"] = folder.new_file(".webp")
        shrunk(image, folder.detail_size).save(path, quality=90)
    return record


def save_picture(path: Path, image: Image.Image, tiny: bool, size: int) -> None:
    """A webp: without loss of a tiny picture, of another a thumbnail whose longer side has at most `size` pixels."""
    if tiny:
        image.save(path, lossless=True, method=2)
    else:
        shrunk(image, size).save(path, quality=85)


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """A copy whose longer side has at most `size` pixels (Lanczos)."""
    copy = image.copy()
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    return copy
