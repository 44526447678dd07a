"""The items of a JSON list, read as the file is: a list of a million pairs is larger than what a row needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK = 1 << 20  # characters
SPACE = re.compile(r"[ \t\r\n]*")
ENDS = (",", "]", " ", "\t", "\r", "\n")  # what may follow an item
DECODER = json.JSONDecoder()


def json_items(file: TextIO, chunk: int = CHUNK) -> Iterator[Any]:
    """The items in order. ValueError where the text is no JSON, TypeError where it is no list."""
    text = _Text(file, chunk)
    if text.next() != "[":
        raise TypeError(f"expected a list, got {type(json.loads(text.all())).__name__}")
    text.place += 1
    if text.next() == "]":
        text.place += 1
    else:
        is_open = True
        while is_open:
            yield text.item()
            mark = text.next()
            if mark not in (",", "]"):
                raise ValueError(f"expected a comma or the end of the list, got {mark!r}")
            text.place += 1
            is_open = mark == ","
    if text.next():
        raise ValueError(f"something follows the list: {text.next()!r}")


class _Text:
    """What is read of a file and not used up: from `place` on."""

    def __init__(self, file: TextIO, chunk: int) -> None:
        self.file, self.chunk = file, chunk
        self.text, self.place = "", 0

    def next(self) -> str:
        """The next character that is no space, at `place`; "" at the end."""
        while True:
            self.place = SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.text) or not self._more():
                return self.text[self.place : self.place + 1]

    def item(self) -> Any:
        """The JSON value at `place`, which then stands behind it."""
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if self.text[end : end + 1] not in ENDS and self._more():  # a number may go on: 0 of 0.5
                continue
            self.place = end
            return value

    def all(self) -> str:
        while self._more():
            pass
        return self.text

    def _more(self) -> bool:
        """Reads on, as much again as is left at least; False at the end of the file."""
        found = self.file.read(max(self.chunk, len(self.text) - self.place))
        self.text, self.place = self.text[self.place :] + found, 0
        return bool(found)
