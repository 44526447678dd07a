"""A stretch of a test in which nobody is called."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def no_network() -> Iterator[None]:
    """Whatever looks up a host or connects to one fails, and so does the test at the end, also where what was refused went on.

    The hub counts as reachable, as it does to a user: offline, libraries ask it nothing, or give up before a connection.
    """
    tried: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        tried.append(arguments)
        raise AssertionError(f"the network was tried: {arguments}")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("getaddrinfo", "create_connection"):
            patch.setattr(socket, name, refuse)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setenv("HF_HUB_OFFLINE", "0")
        for module in list(sys.modules.values()):
            for name in ("HF_HUB_OFFLINE", "_is_offline_mode"):  # the latter is transformers 4's; each library keeps its own copy
                if vars(module).get(name) is True:
                    patch.setattr(module, name, False)
        yield
    assert not tried, f"the network was tried: {tried}"
