"""A JSON file that a stage left behind, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(file: Path, fix: str) -> dict[str, Any]:
    """The object in a JSON file. ValueError names the file and says the fix; FileNotFoundError where there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable JSON ({error}); {fix}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, not a JSON object; {fix}")
    return values
