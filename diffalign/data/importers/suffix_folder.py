"""One folder where a name's end says what an image is: NAME_w preferred, NAME_l dispreferred, NAME_e equal (kohya-ss/sd-scripts#1040)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

from diffalign.data.importers.captions import media_files, read_caption
from diffalign.data.importers.judged import Place, Side
from diffalign.data.importers.report import ImportedGroup, ImportReport, check_count, import_each

NAME = re.compile(r"(?P<name>.+)_(?P<side>[wle])(?P<number>\d*)", re.DOTALL)


def suffix_folder(source: str, *, report: ImportReport, max_samples: int | None = None) -> Iterator[ImportedGroup]:
    """One group per NAME, in sorted order: every _w beats every _l, and the _e of a name are ties of one another.

    Several of a kind are numbered: NAME_w1.png, NAME_w2.png, NAME_e1.png, NAME_e2.png. The caption is NAME.txt, or else the NAME_w.txt
    beside a file, or .caption for .txt. Files with another ending are skipped; a name without partner or caption counts as broken; a link
    out of `source` stops the import (PermissionError).
    max_samples   stop after so many names kept
    """
    check_count(max_samples)
    root = Path(source).expanduser().resolve()
    groups: dict[str, dict[str, list[tuple[str, Path]]]] = {}
    for stem, path in media_files(root, root).items():
        match = NAME.fullmatch(stem)
        if match is None:
            report.read += 1
            report.skipped += 1
            continue
        groups.setdefault(match["name"], {"w": [], "l": [], "e": []})[match["side"]].append((match["side"] + match["number"], path))
    names = sorted(groups)
    yield from import_each(
        "suffix_folder",
        zip(names, names, strict=True),
        lambda name, group_id: _group(root, name, groups[name], group_id),
        report,
        max_samples,
    )


def _group(root: Path, name: str, sides: dict[str, list[tuple[str, Path]]], group_id: str) -> ImportedGroup:
    if not (sides["w"] and sides["l"]) and len(sides["e"]) < 2:
        found = ", ".join(path.name for files in sides.values() for _, path in files)
        raise ValueError(f"no pair among {found}; a name needs _w and _l, or _e1 and _e2")
    files = [file for side in ("w", "l", "e") for file in sides[side]]
    text = read_caption([root / name, *(path.with_suffix("") for _, path in files)], root)
    if not text:
        raise ValueError(f"no caption; write {name}.txt")
    at = Place("suffix_folder", group_id, "", None)
    candidates = tuple(at.candidate(text, Side(path, ending, tags={"name": name}, column=f"{name}_{ending}")) for ending, path in files)
    ids = {ending: candidate.candidate_id for (ending, _), candidate in zip(files, candidates, strict=True)}
    decided = [(first, second, None) for (first, _), (second, _) in product(sides["w"], sides["l"])]
    tied = [(first, second, 0.5) for (first, _), (second, _) in combinations(sides["e"], 2)]
    preferences = tuple(
        at.preference(text, {"samples": (ids[first], ids[second]), "win_probability": probability})
        for first, second, probability in (*decided, *tied)
    )
    return ImportedGroup(group_id, text, candidates, preferences)
