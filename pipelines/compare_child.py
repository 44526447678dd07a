"""One training of a comparison in a process of its own: python -m pipelines.compare_child CONFIG.

It ends when the comparison ends, however that ends: its standard input is a pipe that the comparison holds open and writes nothing to.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread


def end_with_parent() -> None:
    """Waits for standard input to end, then kills this process: training resumes from its last checkpoint to the same bits.

    Not SIGTERM: a process that is asked to stop unwinds first, gives up its lock, and may go on for long.
    """
    os.read(0, 1)  # not sys.stdin, whose lock a thread must not hold when Python ends
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Thread(target=end_with_parent, daemon=True).start()  # before the imports, which take seconds
    from pipelines.cli import app

    app(["train", *sys.argv[1:]])
