"""Browser tests are skipped without a browser, but not where one was installed for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import REQUIRED, chromium

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("required", "outcome", "said"),
    [
        ("", pytest.skip.Exception, "no Chromium on the PATH: install"),
        ("1", pytest.fail.Exception, rf"no Chromium on the PATH: .* \({REQUIRED} is set"),
    ],
)
def test_without_a_browser_a_test_is_skipped_or_fails_where_one_is_required(
    required: str, outcome: type[BaseException], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(REQUIRED, required)
    with pytest.raises(outcome, match=said):
        chromium()


def test_the_first_browser_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / "google-chrome"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium() == str(browser)


def test_continuous_integration_requires_the_browser_that_it_has() -> None:
    assert f"export {REQUIRED}=1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
