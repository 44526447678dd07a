"""Which modality a file is of, by its first bytes: names and columns lie, the bytes are what is decoded."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import PIL.Image

HEAD = 16  # bytes that tell
SIGNATURES: dict[str, re.Pattern[bytes]] = {
    "image": re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL),
    "video": re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL),
    "audio": re.compile(rb"(?:RIFF|RF64)....WAVE|fLaC|OggS|ID3|FORM....AIF[FC]|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]", re.DOTALL),
}


def modality_of_file(source: bytes | Path, where: str) -> str:
    """The name in MODALITIES of an encoded file, given by its bytes or its path; a GIF of several frames is a video.

    ValueError, which names `where` (the row), for bytes that begin like no known medium.
    """
    head = source[:HEAD] if isinstance(source, bytes) else _first_bytes(source)
    if head.startswith(b"GIF8") and _moves(source):
        return "video"
    for name, pattern in SIGNATURES.items():
        if pattern.match(head):
            return name
    raise ValueError(
        f"media {where!r} cannot be read: its first bytes {head[:8]!r} are those of no image, video or sound that is known; "
        "fetch the file again or drop the row"
    )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _moves(source: bytes | Path) -> bool:
    """Whether a GIF has more than one frame; what cannot be read is left to the image's own check."""
    try:
        with PIL.Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=("GIF",)) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except Exception:  # damaged files make Pillow raise anything
        return False
