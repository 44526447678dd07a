"""The table of modalities: how one medium is read, decoded on demand, and written. The ground floor, imported by every package.

An addition is one file `modalities/NAME.py` with a final class and one line in MODALITIES; tests/data/test_modalities.py asks of it
that write → read gives the same identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Media(Protocol):
    """One medium: cheap to hold, decoded on demand."""

    def encoded(self) -> bytes:
        """The bytes that go into a file."""
        ...

    def identity(self) -> str:
        """sha256 (hex) of the decoded content: equal for equal content, however it is stored."""
        ...

    def check(self) -> None:
        """Decode and let go: ValueError where it cannot be read to its end."""
        ...

    def to_row(self) -> dict[str, Any]:
        """The value of a media column, {"bytes": …, "path": …}."""
        ...

    @property
    def columns(self) -> dict[str, Any]:
        """What a table of candidates says of it: the values of the class's COLUMNS (width, height, …)."""
        ...

    @staticmethod
    def shape_of(columns: Mapping[str, Any], rate: float | None) -> tuple[int, ...]:
        """The shape *S, space and time, that `tensor` can have at most for a medium with such COLUMNS: (H, W), (T, H, W) or (samples,)."""
        ...

    def tensor(self, shape: tuple[int, ...], rate: float | None, channels: int | None = None) -> np.ndarray:
        """float32 (C, *shape) in [−1, 1] as a model encodes it; rate: frames or samples per second, None for its own.

        What is decoded for it is not kept: a model takes each medium once, and a shard of decoded videos is larger than memory.

        channels  C of sounds, where a model takes others than one; a picture has three
        """
        ...


MODALITIES: dict[str, str] = {
    "image": "Image",  # PNG, JPEG, WebP, GIF (first frame), BMP, TIFF → uint8 RGB
    "video": "Video",  # MP4, MOV, MKV, WebM, AVI, GIF → uint8 RGB frames
    "audio": "Audio",  # WAV, FLAC, OGG, MP3, AIFF → float32 waveform
}


def modality_of_columns(names: Iterable[str]) -> str:
    """The modality whose COLUMNS a table of candidates has; ValueError where that is none."""
    columns = {name: set(media_class(name).COLUMNS) for name in MODALITIES}
    own = set().union(*columns.values()) & set(names)
    for name, wanted in columns.items():
        if wanted == own:
            return name
    known = "; ".join(f"{name}: {', '.join(sorted(wanted))}" for name, wanted in columns.items())
    raise ValueError(f"the columns {', '.join(sorted(own)) or 'of no medium'} are of no modality; they are ({known})")


def modality_of(item: Media) -> str:
    """The name in MODALITIES of a media handle's class (Image → image), or the class's own name where it is none of them."""
    class_name = type(item).__name__
    return next((name for name, known in MODALITIES.items() if known == class_name), class_name)


def media_class(name: str) -> Any:
    """The class behind a name of MODALITIES; ValueError names the known ones."""
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}; choose one of: {', '.join(MODALITIES)}")
    return getattr(import_module(f"diffalign.data.modalities.{name}"), MODALITIES[name])
