"""Replace a folder in one step, so that whoever looks sees the old one or the new one, never half of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: Path, owned: Sequence[str], mark: str) -> Iterator[Path]:
    """Yield an empty sibling of `folder` to fill; on success it takes the folder's place, on an error it is removed.

    `owned` are the names at the top of the folder that belong to the writer and are replaced; anything else there (a
    stage.json, notes) is kept. `mark` is a file, relative to the folder, by which a folder written earlier is known.
    A run killed at any point leaves the old folder, or none; what it left beside it is cleared by the next run. Two
    writers must not replace the same folder at once.

    Raises ValueError when `folder` is a file, or holds an owned name that some other writer put there.
    """
    folder = Path(folder).expanduser().resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    previous = folder.with_name(f".{folder.name}.previous")
    _recover(folder, partial, previous)
    _check(folder, owned, mark)
    partial.mkdir(parents=True)
    try:
        yield partial
        _keep_others(folder, partial, owned)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _swap(folder, partial, previous)


def _recover(folder: Path, partial: Path, previous: Path) -> None:
    """Undo what a killed run left: its unfinished folder, or the old folder moved aside but not yet replaced."""
    if partial.exists():
        shutil.rmtree(partial)
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    elif previous.exists():
        shutil.rmtree(previous)


def _check(folder: Path, owned: Sequence[str], mark: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder, new or written by an earlier run")
    clash = [name for name in owned if (folder / name).exists()]
    if clash and not (folder / mark).exists():
        raise ValueError(
            f"{folder} holds {', '.join(clash)} but no {mark}, so something else wrote it and it is left alone; "
            "give another folder, or move it away"
        )


def _keep_others(folder: Path, partial: Path, owned: Sequence[str]) -> None:
    for entry in sorted(folder.iterdir()) if folder.exists() else ():
        if entry.name in owned:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, partial / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, partial / entry.name, follow_symlinks=False)


def _swap(folder: Path, partial: Path, previous: Path) -> None:
    # A folder that is not empty cannot be renamed over, so there are two renames and `_recover` closes the gap.
    if folder.exists():
        folder.rename(previous)
    try:
        partial.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
