"""Where a Chromium is, for the browser tests: optional on a person's machine, required where continuous integration has installed one."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = "DIFFALIGN_BROWSER_REQUIRED"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """The path of the first that is there; else the test goes without, see below."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    return found[0] if found else go_without("no Chromium on the PATH: install chromium or google-chrome to run the browser tests")


def go_without(reason: str) -> NoReturn:
    """Skips the test, or fails it where the environment says that a browser is there."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason} ({REQUIRED} is set, so they are not skipped)")
    pytest.skip(reason)
