"""SIGKILL at a moment of choice, for the tests that a stage survives it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path


def kill_after(code: str, *arguments: object, folder: Path, wait_for: str, delay: float) -> bool:
    """Runs Python code, kills it `delay` seconds after a file matching `wait_for` is in folder; whether it was still running."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 240  # a busy machine needs a minute to start Python
    while process.poll() is None and time.monotonic() < deadline and not list(folder.glob(wait_for)):
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive
