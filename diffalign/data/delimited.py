"""Tables of text with a header: CSV, and TSV whether its fields are quoted or not."""

from __future__ import annotations

import csv
import re
from io import StringIO
from typing import TextIO

# Of the fields of a TSV that begin with a quote: one that closes before a tab, a line's end or the file's, and else the whole field.
QUOTED = re.compile(r'(?<![^\t\r\n])(?:"[^"]*(?:""[^"]*)*"(?![^\t\r\n])|("[^\t\r\n]*))')


def open_table(file: TextIO, delimiter: str) -> csv.DictReader[str]:
    """The rows of a file opened with newline="", by the names of its header. Reading them raises csv.Error.

    A field of a TSV is quoted where its closing quote ends it; it may hold tabs and lines then. Any other quote is a letter: PartiPrompts'
    file has no quoting, and a prompt that begins with one.
    """
    if delimiter == "\t":
        file = StringIO(QUOTED.sub(lambda field: _quoted(field[1]) if field[1] else field[0], file.read()), newline="")
    return csv.DictReader(file, delimiter=delimiter, strict=True)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
