"""Videos as files the page can play: H.264 with 4:2:0 colour in mp4, which every browser with video decodes, often in hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffalign.data.modalities.video import encode
from diffalign.gallery import Sample
from diffalign.gallery.pictures import TINY, save_picture, shrunk

if TYPE_CHECKING:
    from diffalign.gallery.stores import MediaFolder

ENLARGED = 256  # pixels that the longer side of a tiny video comes near to in its file
MAX_SIDE = 4096  # pixels: decoders in hardware take no more
# A key frame every 12 and no B-frames: a step back decodes little. The matrix is named, or a player would guess it from the size.
OPTIONS = {"preset": "veryfast", "bf": "0", "g": "12", "x264-params": "colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m"}
CRF, CRF_TINY = "20", "10"  # constant quality; flat enlarged pixels cost little


def store_video(folder: MediaFolder, sample: Sample, where: str) -> dict[str, Any]:
    """A file for the table, its first frame as the poster and, for a video larger than that, a second file for the lightbox.

    A tiny video is enlarged by a whole, even factor, each pixel a square: colour is stored for squares of 2 × 2 pixels, so that few
    are shared between two. The record: src, poster, width and height (of the source), frames, fps, tiny, and detail where there is one.
    """
    frames, fps = np.asarray(sample.media.frames()), float(sample.media.fps)
    _check(frames, fps, where)
    height, width = frames.shape[1:3]
    tiny = max(height, width) <= TINY
    path, address = folder.new_file(".mp4")
    _write(path, _enlarged(frames) if tiny else _fitted(frames, folder.thumbnail_size), fps, CRF_TINY if tiny else CRF)
    poster, poster_address = folder.new_file(".webp")
    save_picture(poster, Image.fromarray(frames[0]), tiny, folder.thumbnail_size)
    record = {
        "src": address, "poster": poster_address, "width": width, "height": height, "frames": len(frames), "fps": fps, "tiny": tiny,
    }  # fmt: skip
    if not tiny and max(height, width) > folder.thumbnail_size and folder.detail_size > folder.thumbnail_size:
        path, record["detail"] = folder.new_file(".mp4")
        _write(path, _fitted(frames, min(folder.detail_size, MAX_SIDE)), fps, CRF)
    return record


def _check(frames: np.ndarray, fps: float, where: str) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise ValueError(
            f"{where}: frames() returned {frames.dtype} of shape {frames.shape}; the gallery takes uint8 of shape (T, H, W, 3), "
            "at least one frame"
        )
    if not 0 < fps <= 1000:
        raise ValueError(f"{where}: fps is {fps}; the gallery takes a rate above 0 and up to 1000 frames per second")


def _enlarged(frames: np.ndarray) -> np.ndarray:
    factor = max(2, ENLARGED // max(frames.shape[1:3]) // 2 * 2)
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _fitted(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames whose longer side has at most `size` pixels, and both an even number of them: an odd last line is repeated."""
    if max(frames.shape[1:3]) > size:
        frames = np.stack([np.asarray(shrunk(Image.fromarray(frame), size)) for frame in frames])
    odd = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
    return np.pad(frames, odd, mode="edge")


def _write(path: Path, frames: np.ndarray, fps: float, crf: str) -> None:
    path.write_bytes(encode(np.ascontiguousarray(frames), fps, "libx264", "yuv420p", {**OPTIONS, "crf": crf}))
