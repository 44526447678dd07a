"""A run's folder while a stage works in it: one run at a time, and a full disk told clearly."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO


def now() -> str:
    """The time as records have it, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


_held: dict[Path, int] = {}  # runs that this process has locked, and how many times


@contextmanager
def lock_run(run: Path, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """One run at a time in a folder. Released when the process ends, however it ends; may be taken again by the process that has it.

    ValueError where another process still has it after patience_seconds.
    """
    run.mkdir(parents=True, exist_ok=True)
    key = run.resolve()
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    # Record locks, not flock: a forked data worker that outlives its parent must not keep the run locked.
    with (run / ".lock").open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + patience_seconds
        while not _is_ours(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read().strip() or "unknown process"
                raise ValueError(f"another run works in {run} ({holder}); wait for it, stop it, or choose another with run=...")
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}, since {now()}")
        file.flush()
        _held[key] = 1
        try:
            yield
        finally:
            del _held[key]
            file.truncate(0)


def _is_ours(file: IO[str]) -> bool:
    """Whether the lock could be taken."""
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


@contextmanager
def full_disk_is_clear(path: Path) -> Iterator[None]:
    """Says on a full disk what is kept and what to do."""
    try:
        yield
    except Exception as error:  # a full disk comes out of every library in its own exception; all others go on up
        number = full_disk(error)
        if number is None:
            raise
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        raise OSError(
            number,
            f"the disk is full ({free / 1e6:.0f} MB free in {existing}); "
            "what is finished stays; free some space and run the same command again",
        ) from error


def full_disk(error: Exception) -> int | None:
    """The errno of a full disk, or None. safetensors wraps the system's error in one of its own, which has the number in its text alone."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno if error.errno in full else None
    told = str(error) if type(error).__name__ == "SafetensorError" else ""
    return next((number for number in full if f"os error {number}" in told), None)
