"""Data as scripts: a page opened from disk may not fetch JSON, but it may load a <script>."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# json.dumps leaves these three alone; inside a script element "</script" or "<!--" would end or change it.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script_json(value: Any) -> str:
    """`value` as ASCII JSON that is also a safe JavaScript expression inside any HTML page.

    ASCII keeps U+2028 and U+2029 (line ends in older JavaScript) and lone surrogates escaped. Raises ValueError on a
    number that is not finite: pass it through `finite` first.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():
        text = text.replace(character, escaped)
    return text


def finite(number: float | None) -> float | None:
    """`number` to six significant digits, None where it is missing or not finite."""
    if number is None or not math.isfinite(number):
        return None
    return float(f"{float(number):.6g}")


def write_script(path: Path, name: str, value: Any) -> None:
    """Write `value` so that loading the file hands it to the page under `name`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"galleryData({script_json(name)},{script_json(value)});\n", encoding="ascii")


class RowScripts:
    """Rows of one table, written as they come: a line each in the index, and chunks of `CHUNK` for what is shown.

    The index (`data/NAME.js`) is loaded whole, so it holds only what sorting and filtering need; a chunk
    (`data/NAME/0000.js`) is loaded when one of its rows comes into view.
    """

    CHUNK = 100

    def __init__(self, data: Path, name: str) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._data, self._name = data, name
        self._chunk: list[Any] = []
        self._index = (data / f"{name}.js").open("w", encoding="ascii", newline="\n")
        self._index.write(f"galleryData({script_json(name)},[")

    def __enter__(self) -> RowScripts:
        return self

    def add(self, line: Any, shown: Any) -> None:
        self._index.write(("," if self.count else "") + "\n" + script_json(line))
        self._chunk.append(shown)
        self.count += 1
        if len(self._chunk) == self.CHUNK:
            self._flush()

    def __exit__(self, *error: object) -> None:
        self._index.write("\n]);\n")
        self._index.close()
        self._flush()

    def _flush(self) -> None:
        if self._chunk:
            name = f"{self._name}/{(self.count - 1) // self.CHUNK:04d}"
            write_script(self._data / f"{name}.js", name, self._chunk)
            self._chunk = []
