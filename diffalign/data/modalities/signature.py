"""Which format a file is in, by its first bytes: names and columns lie, the bytes are what is decoded."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import PIL.Image

HEAD = 16  # bytes that tell


class Signature(NamedTuple):
    """A format: its modality, and how its files begin."""

    modality: str
    pattern: bytes


SIGNATURES: dict[str, Signature] = {  # by suffix
    ".png": Signature("image", rb"\x89PNG\r\n"),
    ".jpg": Signature("image", rb"\xff\xd8\xff"),
    ".gif": Signature("image", rb"GIF8"),
    ".bmp": Signature("image", rb"BM"),
    ".tif": Signature("image", rb"II\*\0|MM\0\*"),
    ".webp": Signature("image", rb"RIFF....WEBP"),
    ".mp4": Signature("video", rb"....(?:ftyp|moov|mdat|wide|free|skip)"),  # and .mov
    ".mkv": Signature("video", rb"\x1a\x45\xdf\xa3"),  # and .webm
    ".avi": Signature("video", rb"RIFF....AVI "),
    ".wav": Signature("audio", rb"(?:RIFF|RF64)....WAVE"),
    ".flac": Signature("audio", rb"fLaC"),
    ".ogg": Signature("audio", rb"OggS"),
    ".aiff": Signature("audio", rb"FORM....AIF[FC]"),
    ".mp3": Signature("audio", rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"),
}


def modality_of_file(source: bytes | Path, where: str) -> str:
    """The name in MODALITIES of an encoded file, given by its bytes or its path; a GIF of several frames is a video.

    ValueError, which names `where` (the row), for no bytes, and for bytes that begin like no known medium.
    """
    suffix = suffix_of_file(source, where)
    return "video" if suffix == ".gif" and _moves(source) else SIGNATURES[suffix].modality


def suffix_of_file(source: bytes | Path, where: str) -> str:
    """The suffix that a file of this content has, a key of SIGNATURES. ValueError where it is none of them, or empty."""
    head = source[:HEAD] if isinstance(source, bytes) else _first_bytes(source)
    if not head:
        raise ValueError(f"media {where!r} is empty (0 bytes); fetch the file again or drop the row")
    for suffix, signature in SIGNATURES.items():
        if re.match(signature.pattern, head, re.DOTALL):
            return suffix
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
