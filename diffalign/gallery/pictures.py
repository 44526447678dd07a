"""Media as files the page can show: one store per kind of sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffalign.gallery import Sample

TINY = 128  # pixels: a picture with no longer side is kept exactly, the page enlarges it
SHARD = 1000  # files in one folder


class MediaFolder:
    """Numbers the files under `root/media`, and counts the samples stored so far."""

    def __init__(self, root: Path, thumbnail_size: int, detail_size: int, progress: Callable[[int], None] | None) -> None:
        self.thumbnail_size, self.detail_size = thumbnail_size, detail_size  # pixels of the longer side
        self._root, self._progress = root, progress
        self._files = self._samples = 0

    def store(self, sample: Sample, where: str) -> dict[str, Any]:
        """Write one sample's files and return what the page needs to show it; `where` names the sample in an error."""
        if sample.kind not in STORES:
            raise ValueError(f"{where} is of kind {sample.kind!r}; the gallery shows: {', '.join(STORES)}")
        record = {"kind": sample.kind, "id": str(sample.candidate_id), **STORES[sample.kind](self, sample, where)}
        self._samples += 1
        if self._progress is not None:
            self._progress(self._samples)
        return record

    def new_file(self, suffix: str) -> tuple[Path, str]:
        """The next file as a path to write, and as the address the page will use."""
        address = f"media/{self._files // SHARD:03d}/{self._files:06d}{suffix}"
        self._files += 1
        path = self._root / address
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, address


def store_image(folder: MediaFolder, sample: Sample, where: str) -> dict[str, Any]:
    """A thumbnail for the table and, for a picture larger than that, a second file for the lightbox."""
    pixels = np.asarray(sample.media.pixels())
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"{where}: pixels() returned {pixels.dtype} of shape {pixels.shape}; the gallery takes uint8 of shape (H, W, 3)")
    image = Image.fromarray(pixels)
    tiny = max(image.size) <= TINY
    path, address = folder.new_file(".webp")
    if tiny:
        image.save(path, lossless=True, method=2)
    else:
        _shrunk(image, folder.thumbnail_size).save(path, quality=85)
    record = {"src": address, "width": image.width, "height": image.height, "tiny": tiny}
    if not tiny and max(image.size) > folder.thumbnail_size and folder.detail_size > folder.thumbnail_size:
        path, record["detail"] = folder.new_file(".webp")
        _shrunk(image, folder.detail_size).save(path, quality=90)
    return record


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    copy = image.copy()
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    return copy


STORES: dict[str, Callable[[MediaFolder, Sample, str], dict[str, Any]]] = {"image": store_image}
