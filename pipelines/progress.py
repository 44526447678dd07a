"""Progress of a run: bars with the time left on a terminal, one line per stage elsewhere, nothing in silent mode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Advance(Protocol):
    def __call__(self, n: int = 1) -> None: ...


class Progress:
    """Bars and sentences of a run, on standard error, so that standard output holds results only."""

    def __init__(self, *, silent: bool = False, console: Console | None = None) -> None:
        self.silent = silent
        self.console = console or Console(stderr=True)
        self._bars: RichProgress | None = None
        self._open = 0

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line, shown above the bars. The text is shown as it is: brackets are no markup."""
        if not self.silent:
            self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def logger(self, name: str) -> logging.Logger:
        """A logger whose records are said, each after `name`; warnings in yellow."""
        logger = logging.getLogger(f"diffalign.{name}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        say = self.say

        class Say(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                say(f"{name}: {record.getMessage()}", style="yellow" if record.levelno >= logging.WARNING else None)

        logger.handlers = [Say()]
        return logger

    @contextmanager
    def bar(self, description: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
        """A bar of `total` units (None: not known) of which `done` were done before; yields advance(n=1)."""
        if self.silent:
            yield lambda n=1: None
            return
        started, count = time.monotonic(), done

        def step(n: int = 1) -> None:
            nonlocal count
            count += n
            show(n)

        show: Callable[[int], None] = lambda n: None  # noqa: E731
        if self.console.is_terminal:
            bars = self._start()
            task = bars.add_task(escape(description), total=total, completed=done)
            show = lambda n: bars.advance(task, n)  # noqa: E731
        try:
            yield step
        finally:
            if self.console.is_terminal:
                self._stop()
        if not self.console.is_terminal:
            of = "" if total is None else f"/{total}"
            self.say(f"{description}: {count}{of} in {time.monotonic() - started:.1f} s")

    def _start(self) -> RichProgress:
        if self._bars is None:
            self._bars = bars = RichProgress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("·"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            bars.start()
        self._open += 1
        return self._bars

    def _stop(self) -> None:
        self._open -= 1
        if self._open == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None
