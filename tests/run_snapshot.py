"""What a run folder holds, to tell whether a command left it as it was."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path


def snapshot(run: Path) -> dict[str, str]:
    """What a run holds: file → hash. Without the lock, and without the records' running time."""
    found = {}
    for file in sorted(run.rglob("*")):
        if file.is_file() and file.name != ".lock":
            content = file.read_bytes()
            if file.name == "stage.json":
                record = json.loads(content)
                record.pop("seconds", None)
                content = json.dumps(record, sort_keys=True).encode()
            found[file.relative_to(run).as_posix()] = sha256(content).hexdigest()
    return found
