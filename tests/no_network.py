"""A stretch of a test in which nobody is called."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def no_network() -> Iterator[None]:
    """Whatever looks up a host or connects to one fails, and so does the test at the end, also where what was refused went on."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        tried.append(arguments)
        raise AssertionError(f"the network was tried: {arguments}")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("getaddrinfo", "create_connection"):
            patch.setattr(socket, name, refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield
    assert not tried, f"the network was tried: {tried}"
