"""The table of modalities: how one medium is read, decoded on demand, and written. The ground floor, imported by every package.

An addition is one file `modalities/NAME.py` with a final class and one line in MODALITIES; tests/data/test_modalities.py asks of it
that write → read gives the same identity.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Media(Protocol):
    """One medium: cheap to hold, decoded on demand. Images today; video and sound follow the same protocol."""

    def encoded(self) -> bytes:
        """The bytes that go into a file."""
        ...

    def identity(self) -> str:
        """sha256 (hex) of the decoded content: equal for equal content, however it is stored."""
        ...

    def to_row(self) -> dict[str, Any]:
        """The value of a media column, {"bytes": …, "path": …}."""
        ...


MODALITIES: dict[str, str] = {
    "image": "Image",  # PNG, JPEG, WebP, GIF (first frame), BMP, TIFF → uint8 RGB
}


def media_class(name: str) -> type:
    """The class behind a name of MODALITIES; ValueError names the known ones."""
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}; choose one of: {', '.join(MODALITIES)}")
    return getattr(import_module(f"diffalign.data.modalities.{name}"), MODALITIES[name])
