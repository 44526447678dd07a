"""An encoded media file, held as its bytes or as the path they are read from when asked: what every modality keeps its content in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stored:
    """Bytes, or a path to read them from. Build it with stored_path, stored_bytes or stored_row.

    kind  the modality, for messages; `name` is what they call it, the row or the file
    """

    kind: str
    data: bytes | None
    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else f"{self.kind} (from bytes)"

    def read(self) -> bytes:
        return Path(self.path).read_bytes() if self.data is None else self.data

    def tail(self, count: int) -> bytes:
        """The last `count` bytes, or all where there are fewer."""
        if self.data is not None:
            return self.data[-count:]
        with Path(self.path).open("rb") as file:
            file.seek(max(0, Path(self.path).stat().st_size - count))
            return file.read(count)

    def source(self) -> BytesIO | str:
        """What a decoder opens."""
        return self.path if self.data is None else BytesIO(self.data)


def stored_path(kind: str, path: str | Path) -> Stored:
    """A file, read when asked. FileNotFoundError at once where there is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{kind} {str(path)!r} does not exist or is not a file; check the path")
    return Stored(kind, None, str(path), str(path))


def stored_bytes(kind: str, data: bytes, path: str = "", name: str = "") -> Stored:
    """An encoded file's bytes; `path` and `name` (of the row) only name it in messages: neither is opened."""
    shown = repr(name or path) if name or path else "(from bytes)"
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"{kind} {shown}: expected the bytes of an encoded {kind}, got {type(data).__name__}")
    if len(data) == 0:
        raise ValueError(f"{kind} {shown} is empty (0 bytes); fetch the file again or drop the row")
    return Stored(kind, bytes(data), path, name or path)


def stored_row(kind: str, row: dict[str, Any], name: str = "") -> Stored:
    """A media column's value {"bytes", "path"}. A path without bytes is refused: nothing from data names a file to open."""
    if not isinstance(row, dict) or row.get("bytes") is None:
        raise ValueError(
            f"{kind} {name or 'row'!r} holds no bytes; embed the files' bytes in the data set (datasets: `embed_external_files=True`)"
        )
    return stored_bytes(kind, row["bytes"], row.get("path") or "", name)


def row_of(data: bytes, path: str) -> dict[str, Any]:
    """The value of a media column: bytes, and the bare file name (no folder of this machine gets into a data set)."""
    return {"bytes": data, "path": Path(path).name or None}


def library(name: str, kind: str) -> Any:
    """A decoder's module; ModuleNotFoundError that names the pip extra, which is called as the modality."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        raise ModuleNotFoundError(f"{kind} needs {name}, which is not installed: pip install 'diffalign[{kind}]'", name=name) from error


def arrow_type() -> Any:
    """The Arrow type of a media column: struct{bytes: binary, path: string}, as `datasets` stores all media."""
    import pyarrow as pa

    return pa.struct({"bytes": pa.binary(), "path": pa.string()})
