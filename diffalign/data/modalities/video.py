"""A video segment: frames with their rate, a file or bytes, decoded to uint8 RGB on demand and once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffalign.data.modalities.image import fit
from diffalign.data.modalities.stored import Stored, library, row_of, stored_bytes, stored_path, stored_row

# Named, because FFmpeg would also try formats that open other files (playlists, concatenations) on bytes from strangers.
FORMATS = "mov,mp4,matroska,webm,avi,gif"
MAX_PIXELS = 1_500_000_000  # of all frames together, 4.5 GB as RGB: 241 frames of 1080p
SMALL = 256 * 256  # pixels of a frame
CODEC, CODEC_OPTIONS = "libx264rgb", {"crf": "0", "preset": "medium"}  # H.264 without loss: what is scored is what is stored, to the bit


class Video:
    """One RGB video without sound. Build it with from_frames, from_path, from_bytes or from_row; equality of content is `identity()`.

    Opening nothing until asked. Frames are taken as they come: a variable rate counts as its average. Rotation is applied. Every
    reading error is a ValueError that names the file or row and the fix.
    """

    COLUMNS = ("width", "height", "frames", "fps")  # beside `media` in a table of candidates

    __slots__ = ("_frames", "_header", "_stored", "path")

    def __init__(self, frames: np.ndarray | None, fps: float, stored: Stored | None, path: str = "") -> None:
        self._frames, self._stored = frames, stored
        self._header: tuple[int, int, int, float] | None = None if frames is None else _header_of(frames, fps)
        self.path = path if stored is None else stored.path

    @classmethod
    def from_frames(cls, frames: np.ndarray, fps: float, path: str = "") -> Video:
        """Of an array uint8 (T, H, W, 3), 0–255, at `fps` frames per second."""
        fits = isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3
        if not fits or 0 in frames.shape:
            found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ValueError(f"a video is a numpy array uint8 (T, H, W, 3), got {found}; scale to 0–255, put time first, channels last")
        if not 0 < fps <= 1000:
            raise ValueError(f"a video has {fps!r} frames per second; give a rate above 0 and up to 1000")
        return cls(np.ascontiguousarray(frames), float(fps), None, path)

    @classmethod
    def from_path(cls, path: str | Path) -> Video:
        """Of a file, read when asked. FileNotFoundError at once where there is none."""
        return cls(None, 0.0, stored_path("video", path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "", name: str = "") -> Video:
        """Of an encoded file's bytes; `path` and `name` (of the row) only name it in messages: neither is opened."""
        return cls(None, 0.0, stored_bytes("video", data, path, name))

    @classmethod
    def from_row(cls, row: dict[str, Any], name: str = "") -> Video:
        """Of a media column's value {"bytes", "path"}. A path without bytes is refused: nothing from data names a file to open."""
        return cls(None, 0.0, stored_row("video", row, name))

    @staticmethod
    def feature() -> dict[str, Any]:
        """The `datasets` feature of a media column, in the form of the `huggingface` schema metadata."""
        return {"_type": "Video"}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown."""
        return self._read_header()[:2]

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self._read_header()[3]

    @property
    def columns(self) -> dict[str, Any]:
        """The values of COLUMNS."""
        return dict(zip(self.COLUMNS, self._read_header(), strict=True))

    def frames(self) -> np.ndarray:
        """uint8 (T, H, W, 3), decoded at the first call and kept. Do not write into it: `identity()` is its hash."""
        if self._frames is None:
            self._frames = self._decode()
        return self._frames

    def check(self) -> None:
        """Decode and let go: ValueError where it cannot be read to its end. For many videos that are not needed yet."""
        if self._frames is None:
            self._decode()

    @staticmethod
    def shape_of(columns: Mapping[str, Any], rate: float | None) -> tuple[int, ...]:
        """(T, H, W) of a video with such COLUMNS, at `rate` frames per second."""
        count = columns["frames"] if rate is None else int((columns["frames"] - 1) * rate / columns["fps"] + 1e-6) + 1
        return count, columns["height"], columns["width"]

    def tensor(self, shape: tuple[int, ...], rate: float | None, channels: int | None = None) -> np.ndarray:
        """float32 (3, T, H, W) in [−1, 1] of that (T, H, W): frames at `rate` per second, the nearest in time, then covered and cut."""
        count, height, width = shape
        frames = self._decode() if self._frames is None else self._frames
        places = np.arange(count) if rate is None else nearest_frames(count, self.fps, rate)
        if places[-1] >= len(frames):
            wanted = f"{count} frames at {rate or self.fps:g} per second"
            raise ValueError(f"{self._named} lasts {len(frames) / self.fps:.3g} s, too short for {wanted}")
        fitted = np.stack([fit(frames[place], (height, width)) for place in places])
        return fitted.transpose(3, 0, 1, 2).astype(np.float32) / 127.5 - 1

    def encoded(self) -> bytes:
        """The bytes it came as (of its file, unchanged), or a lossless MP4 of its frames."""
        if self._stored is not None:
            if self._stored.data is None and self._header is None:
                self.check()  # a file that is no video is refused before its bytes are copied anywhere
            return self._stored.read()
        return encode(self.frames(), self.fps, CODEC, "rgb24", CODEC_OPTIONS)

    def identity(self) -> str:
        """sha256 (hex) of rate, size and frames."""
        frames = self.frames()
        return sha256(f"{'x'.join(map(str, frames.shape))}@{self.fps:.6g}:".encode() + frames.tobytes()).hexdigest()

    def to_row(self) -> dict[str, Any]:
        """The value of a media column: bytes, and the bare file name (no folder of this machine gets into a data set)."""
        return row_of(self.encoded(), self.path)

    def __repr__(self) -> str:
        return f"<{self._named}>"

    @property
    def _named(self) -> str:
        return str(self._stored or "video (from frames)")

    def _read_header(self) -> tuple[int, int, int, float]:
        """(width, height, frames, fps): only decoding says how many frames there are."""
        if self._header is None:
            self.check()
        return cast("tuple[int, int, int, float]", self._header)

    def _decode(self) -> np.ndarray:
        frames, pixels = [], 0
        with self._opened() as container:
            convert = library("av", "video").video.reformatter.VideoReformatter().reformat  # one for all frames: threads of each cost more
            if not container.streams.video:
                raise ValueError("it has no pictures")
            stream = container.streams.video[0]
            _thread(stream)
            fps = float(stream.average_rate or stream.base_rate or 0)
            for frame in container.decode(stream):
                pixels += frame.width * frame.height
                if pixels > MAX_PIXELS:
                    raise ValueError(f"it unpacks to more than {MAX_PIXELS:,} pixels: cut it or scale it down")
                # Planes of RGB, which is how lossless frames are stored, are put side by side at a twentieth of a conversion's cost.
                turned = (frame if frame.format.name == "gbrp" else convert(frame, format="rgb24")).to_ndarray()
                frames.append(np.rot90(turned, round(getattr(frame, "rotation", 0) / 90)))
            if not frames or not 0 < fps <= 1000:
                raise ValueError(f"it has {len(frames)} frames at {fps:g} per second")
            if stream.frames > len(frames):
                raise ValueError(f"it holds {len(frames)} of its {stream.frames} frames")
        found = np.ascontiguousarray(np.stack(frames))
        self._header = _header_of(found, fps)
        return found

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file, with whatever goes wrong in it as a ValueError that names it."""
        av = library("av", "video")
        try:
            with av.open(cast("Stored", self._stored).source(), options={"format_whitelist": FORMATS}) as container:
                yield container
        except Exception as error:  # damaged files make FFmpeg raise anything
            reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self._named} cannot be read ({reason}); it must be a whole file in one of {FORMATS}: fetch it again or drop the row"
            ) from error


def nearest_frames(count: int, fps: float, rate: float) -> np.ndarray:
    """int (count,): which frame of a video of `fps` is nearest in time to each of one of `rate`; between two always the later."""
    return (np.arange(count) * fps / rate + 0.5).astype(int)


def _header_of(frames: np.ndarray, fps: float) -> tuple[int, int, int, float]:
    return frames.shape[2], frames.shape[1], len(frames), fps


def _thread(stream: Any) -> None:
    """One thread for frames that are decoded or encoded sooner than others start."""
    if stream.width * stream.height <= SMALL:
        stream.codec_context.thread_count = 1


def encode(frames: np.ndarray, fps: float, codec: str, pixels: str, options: dict[str, str]) -> bytes:
    """An MP4 of uint8 (T, H, W, 3) frames by a codec of FFmpeg, with its pixel format and options."""
    av = library("av", "video")
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(60_000))
        stream.height, stream.width, stream.pix_fmt, stream.options = frames.shape[1], frames.shape[2], pixels, options
        _thread(stream)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
