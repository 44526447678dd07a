"""An image: pixels, a file or bytes, decoded to uint8 RGB on demand and once."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import PIL.ImageOps

from diffalign.data.modalities.stored import Stored, row_of, stored_bytes, stored_path, stored_row

# Named, because Pillow would also try formats that start programs (EPS runs Ghostscript) on bytes from strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000  # 192 MB as RGB; below the 89 million where Pillow starts to warn
ORIENTATION = 0x0112  # the EXIF tag
BOMBS = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)


class Image:
    """One RGB image. Build it with from_pixels, from_path, from_bytes or from_row; equality of content is `identity()`.

    Opening nothing until asked, a handle costs its bytes at most. `size` reads the header alone. Transparency is laid over white, EXIF
    orientation is applied, 16-bit grey is scaled to 8. Every reading error is a ValueError that names the file or row and the fix.
    """

    COLUMNS = ("width", "height")  # beside `media` in a table of candidates

    __slots__ = ("_pixels", "_size", "_stored", "path")

    def __init__(self, pixels: np.ndarray | None, stored: Stored | None, path: str = "") -> None:
        self._pixels = pixels
        self._stored = stored
        self._size: tuple[int, int] | None = None if pixels is None else (pixels.shape[1], pixels.shape[0])
        self.path = path if stored is None else stored.path

    @classmethod
    def from_pixels(cls, pixels: np.ndarray, path: str = "") -> Image:
        """Of an array uint8 (H, W, 3), 0–255."""
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f"an image is a numpy array uint8 (H, W, 3), got {found}; scale to 0–255, put channels last and cast")
        return cls(np.ascontiguousarray(pixels), None, path)

    @classmethod
    def from_path(cls, path: str | Path) -> Image:
        """Of a file, read when asked. FileNotFoundError at once where there is none."""
        return cls(None, stored_path("image", path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "", name: str = "") -> Image:
        """Of an encoded file's bytes; `path` and `name` (of the row) only name it in messages: neither is opened."""
        return cls(None, stored_bytes("image", data, path, name))

    @classmethod
    def from_row(cls, row: dict[str, Any], name: str = "") -> Image:
        """Of a media column's value {"bytes", "path"}. A path without bytes is refused: nothing from data names a file to open."""
        return cls(None, stored_row("image", row, name))

    @staticmethod
    def feature() -> dict[str, Any]:
        """The `datasets` feature of a media column, in the form of the `huggingface` schema metadata."""
        return {"_type": "Image"}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown, EXIF orientation applied; reads the header only (a PNG without EXIF there is read to its end)."""
        if self._size is None:
            with self._open() as picture:
                width, height = picture.size
                try:
                    orientation = picture.getexif().get(ORIENTATION, 1)
                except Exception as error:  # damaged files make Pillow raise anything
                    raise self._corrupt(error) from error
                self._size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
        return self._size

    @property
    def columns(self) -> dict[str, Any]:
        """The values of COLUMNS."""
        return dict(zip(self.COLUMNS, self.size, strict=True))

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3), decoded at the first call and kept. Do not write into it: `identity()` is its hash."""
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels

    def check(self) -> None:
        """Decode and let go: ValueError where it cannot be read to its end. For many images that are not needed yet."""
        if self._pixels is None:
            self._decode()

    def _decode(self) -> np.ndarray:
        with self._open() as picture:
            try:
                pixels = _to_rgb(picture)
            except BOMBS as error:
                raise self._bomb() from error
            except Exception as error:  # damaged files make Pillow raise anything
                raise self._corrupt(error) from error
        self._size = (pixels.shape[1], pixels.shape[0])
        return pixels

    @staticmethod
    def shape_of(columns: Mapping[str, Any], rate: float | None) -> tuple[int, ...]:
        """(H, W) of an image with such COLUMNS."""
        return columns["height"], columns["width"]

    def tensor(self, shape: tuple[int, ...], rate: float | None, channels: int | None = None) -> np.ndarray:
        """float32 (3, H, W) in [−1, 1] of that (H, W): covered and cut, see `fit`. An image has no rate."""
        height, width = shape
        pixels = self._decode() if self._pixels is None else self._pixels
        return fit(pixels, (height, width)).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1

    def encoded(self) -> bytes:
        """The bytes it came as (of its file, unchanged), or PNG of its pixels."""
        if self._stored is not None:
            if self._stored.data is None:
                _ = self.size  # a file that is no image is refused before its bytes are copied anywhere
            return self._stored.read()
        buffer = BytesIO()
        PIL.Image.fromarray(self.pixels()).save(buffer, format="PNG", compress_level=4)
        return buffer.getvalue()

    def identity(self) -> str:
        """sha256 (hex) of size and pixels: a JPEG and the PNG made from it agree, two crops of one colour do not."""
        pixels = self.pixels()
        return sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode() + pixels.tobytes()).hexdigest()

    def to_row(self) -> dict[str, Any]:
        """The value of a media column: bytes, and the bare file name (no folder of this machine gets into a data set)."""
        return row_of(self.encoded(), self.path)

    def __repr__(self) -> str:
        return f"<{self._stored or 'image (from pixels)'}>"

    def _corrupt(self, error: Exception) -> ValueError:
        return ValueError(f"{self._stored} is truncated or corrupt ({type(error).__name__}: {error}); fetch the file again or drop the row")

    def _bomb(self) -> ValueError:
        return ValueError(
            f"{self._stored} unpacks to more than {MAX_PIXELS:,} pixels (a decompression bomb?); scale it down or drop the row"
        )

    def _open(self) -> PIL.Image.Image:
        try:
            picture = PIL.Image.open(cast("Stored", self._stored).source(), formats=FORMATS)
        except BOMBS as error:
            raise self._bomb() from error
        except Exception as error:  # damaged files make Pillow raise anything
            raise ValueError(
                f"{self._stored} cannot be read ({type(error).__name__}); it must be a whole file in one of {', '.join(FORMATS)}: "
                "fetch it again or drop the row"
            ) from error
        if picture.width * picture.height > MAX_PIXELS:
            picture.close()
            raise self._bomb()
        return picture


def fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) resized (Lanczos) to cover `size` (height, width), then its centre; as it is where it fits."""
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    if scale != 1:
        resized = (max(width, round(pixels.shape[1] * scale)), max(height, round(pixels.shape[0] * scale)))
        pixels = np.asarray(PIL.Image.fromarray(pixels).resize(resized, PIL.Image.Resampling.LANCZOS))
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _to_rgb(picture: PIL.Image.Image) -> np.ndarray:
    """Decode to a writable uint8 (H, W, 3)."""
    picture.load()
    picture = PIL.ImageOps.exif_transpose(picture) or picture
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = np.clip((np.asarray(picture).astype(np.int64) + 128) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))
