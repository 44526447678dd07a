from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.json_file import read_json
from pipelines.report import read_report


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"a": 1', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_object_is_named_with_the_fix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"report\.json .*JSON.*; make it again$"):
        read_json(tmp_path / "report.json", "make it again")
    with pytest.raises(ValueError, match=r"report\.json .*run `diffalign evaluate CONFIG`"):
        read_report(tmp_path)


def test_an_object_comes_back(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"name": "β"}', encoding="utf-8")
    assert read_json(tmp_path / "report.json", "") == {"name": "β"}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", "")
