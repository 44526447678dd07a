"""An image: pixels, a file or bytes, decoded to uint8 RGB on demand and once."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

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

    __slots__ = ("_bytes", "_pixels", "_size", "name", "path")

    def __init__(self, *, pixels: np.ndarray | None, data: bytes | None, path: str, name: str = "") -> None:
        self._pixels = pixels
        self._bytes = data
        self._size: tuple[int, int] | None = None if pixels is None else (pixels.shape[1], pixels.shape[0])
        self.path = path
        self.name = name or path

    @classmethod
    def from_pixels(cls, pixels: np.ndarray, path: str = "") -> Image:
        """Of an array uint8 (H, W, 3), 0–255."""
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f"an image is a numpy array uint8 (H, W, 3), got {found}; scale to 0–255, put channels last and cast")
        return cls(pixels=np.ascontiguousarray(pixels), data=None, path=path)

    @classmethod
    def from_path(cls, path: str | Path) -> Image:
        """Of a file, read when asked. FileNotFoundError at once where there is none."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"image {str(path)!r} does not exist or is not a file; check the path")
        return cls(pixels=None, data=None, path=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "", name: str = "") -> Image:
        """Of an encoded file's bytes; `path` and `name` (of the row) only name it in messages: neither is opened."""
        shown = repr(name or path) if name or path else "(from bytes)"
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ValueError(f"image {shown}: expected the bytes of an encoded image, got {type(data).__name__}")
        if len(data) == 0:
            raise ValueError(f"image {shown} is empty (0 bytes); fetch the file again or drop the row")
        return cls(pixels=None, data=bytes(data), path=path, name=name)

    @classmethod
    def from_row(cls, row: dict[str, Any], name: str = "") -> Image:
        """Of a media column's value {"bytes", "path"}. A path without bytes is refused: nothing from data names a file to open."""
        if not isinstance(row, dict) or row.get("bytes") is None:
            raise ValueError(
                f"image {name or 'row'!r} holds no bytes; embed the files' bytes in the data set (datasets: `embed_external_files=True`)"
            )
        return cls.from_bytes(row["bytes"], row.get("path") or "", name)

    @staticmethod
    def arrow_type() -> Any:
        """The Arrow type of a media column: struct{bytes: binary, path: string}, as `datasets` stores images."""
        import pyarrow as pa

        return pa.struct({"bytes": pa.binary(), "path": pa.string()})

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

    def encoded(self) -> bytes:
        """The bytes it came as (of its file, unchanged), or PNG of its pixels."""
        if self._bytes is not None:
            return self._bytes
        if self._pixels is None:
            _ = self.size  # a file that is no image is refused before its bytes are copied anywhere
            return Path(self.path).read_bytes()
        buffer = BytesIO()
        PIL.Image.fromarray(self._pixels).save(buffer, format="PNG", compress_level=4)
        return buffer.getvalue()

    def identity(self) -> str:
        """sha256 (hex) of size and pixels: a JPEG and the PNG made from it agree, two crops of one colour do not."""
        pixels = self.pixels()
        return sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode() + pixels.tobytes()).hexdigest()

    def to_row(self) -> dict[str, Any]:
        """The value of a media column: bytes, and the bare file name (no folder of this machine gets into a data set)."""
        return {"bytes": self.encoded(), "path": Path(self.path).name or None}

    def _name(self) -> str:
        return repr(self.name) if self.name else "(from pixels)" if self._bytes is None else "(from bytes)"

    def _corrupt(self, error: Exception) -> ValueError:
        return ValueError(
            f"image {self._name()} is truncated or corrupt ({type(error).__name__}: {error}); fetch the file again or drop the row"
        )

    def _bomb(self) -> ValueError:
        return ValueError(
            f"image {self._name()} unpacks to more than {MAX_PIXELS:,} pixels (a decompression bomb?); scale it down or drop the row"
        )

    def _open(self) -> PIL.Image.Image:
        try:
            picture = PIL.Image.open(BytesIO(self._bytes) if self._bytes is not None else self.path, formats=FORMATS)
        except BOMBS as error:
            raise self._bomb() from error
        except Exception as error:  # damaged files make Pillow raise anything
            raise ValueError(
                f"image {self._name()} cannot be read ({type(error).__name__}); it must be a whole file in one of {', '.join(FORMATS)}: "
                "fetch it again or drop the row"
            ) from error
        if picture.width * picture.height > MAX_PIXELS:
            picture.close()
            raise self._bomb()
        return picture

    def __repr__(self) -> str:
        return f"Image({self._name()})"


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
