"""The media an imported row names: its own bytes, or a file inside the data set's folder. Nothing is fetched, nothing outside is opened."""

from __future__ import annotations

from errno import ENAMETOOLONG
from pathlib import Path
from typing import Any

from diffalign.data.conditions import check_is_image
from diffalign.data.importers.fields import check_text, shown
from diffalign.data.modalities import Media, media_class
from diffalign.data.modalities.signature import modality_of_file
from diffalign.data.modalities.stored import stored_path


def media_of(value: Any, where: str, folder: Path | None = None) -> Media:
    """The checked image, video or sound of a column's value: bytes, {"bytes", "path"}, or a path (text) relative to `folder`.

    A Path is of a file that we found ourselves, and is taken as it is.

    What it is, its bytes say. Raises ValueError on missing or corrupt media (FileNotFoundError for a missing file), PermissionError on a
    path that leaves the folder.
    """
    if isinstance(value, dict):
        inner = value.get("bytes")
        value = inner if inner is not None else value.get("path")
    if isinstance(value, bytes):
        item = media_class(modality_of_file(value, where)).from_bytes(value, name=where)
    elif isinstance(value, Path) or (isinstance(value, str) and value):
        path = value if isinstance(value, Path) else inside(folder, check_text(value, where), where)
        _check_is_file(path, where)
        item = media_class(modality_of_file(path, where)).from_path(path)
    else:
        raise ValueError(
            f"{where}: no media (got {'nothing' if value in (None, '') else type(value).__name__}); expected bytes or a relative path"
        )
    item.check()
    return item


def _check_is_file(path: Path, where: str) -> None:
    try:
        stored_path("media", path)
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        raise ValueError(f"{where}: {shown(str(path))} is longer than a path may be; give a relative path, or bytes") from None


def condition_of(value: Any, where: str, folder: Path | None) -> Media:
    """The image that a prompt came with, as `media_of` reads media; ValueError for a video or a sound."""
    return check_is_image(media_of(value, where, folder), where)


def inside(folder: Path | None, name: str, where: str) -> Path:
    """`folder`/`name`, links resolved. PermissionError on an absolute path, a URL, or a way out of the folder: data open nothing else."""
    if folder is None:
        raise PermissionError(f"{where}: names a file {name!r}, and rows from a hub must hold their bytes; use a copy with embedded media")
    if "://" in name:
        raise PermissionError(
            f"{where}: {name!r} is a URL, and URLs are never fetched; download the files and give relative paths, or use bytes"
        )
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise PermissionError(f"{where}: {name!r} is no usable path ({error}); give a path relative to {str(folder)!r}") from error
    if Path(name).is_absolute() or not path.is_relative_to(root):
        raise PermissionError(
            f"{where}: {name!r} lies outside {str(folder)!r} and is refused; keep media beside the table and give relative paths"
        )
    return path
