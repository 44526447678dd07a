"""What a command says when it fails: one sentence to the user for what is theirs to mend, a traceback for what is ours."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape


@contextmanager
def clear_errors(traceback: bool) -> Iterator[None]:
    """A user's mistake or misfortune becomes one message in red and exit status 1; Ctrl-C says how to resume, exit status 130.

    Errors of other kinds are ours, and keep their traceback.
    """
    traceback = traceback or os.environ.get("DIFFALIGN_TRACEBACK", "") not in ("", "0")
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except KeyboardInterrupt:
        _complain("stopped; what is finished is kept: resume with the same command")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep Python from complaining again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except Exception as error:  # only what has a message for the user is caught; the rest goes on up
        message = _message(error)
        if message is None or traceback:
            raise
        _complain(f"error: {message}")
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _complain(text: str) -> None:
    Console(stderr=True).print(escape(text), style="bold red", highlight=False, soft_wrap=True)


def _message(error: Exception) -> str | None:
    """What to tell the user, or None where the error is a bug."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's: naming it must not import torch
        detail = f" ({str(error).splitlines()[0]})" if str(error) else ""
        return f"out of memory{detail}; lower batch_size of the stage (train: micro_batch_size), what is finished is kept"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"no permission for {error.filename!r} ({error.strerror}); change its rights, or choose another folder with run=..."
    if isinstance(error, FileExistsError) and error.filename is not None:
        return f"{error.filename!r} is a file where a folder is needed; move it away, or choose another folder with run=..."
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) and error.filename is not None:
        return f"{error.strerror}: {error.filename!r}; check the path"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error.strerror or str(error)
    if isinstance(error, OSError | ValueError | ImportError) or type(error).__name__ == "DivergedError":
        return str(error) or type(error).__name__
    return None
