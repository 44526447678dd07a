"""Two parallel folders, chosen and rejected, with the same file names: SimpleTuner's layout, and that of kohya-ss/sd-scripts#1427, whose
folders are w and l."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffalign.data.importers.captions import media_files, read_caption, read_prompts
from diffalign.data.importers.judged import Pair, Place, Side, pair_group
from diffalign.data.importers.media import inside
from diffalign.data.importers.report import ImportedGroup, ImportReport, check_count, import_each


def two_folders(
    source: str,
    *,
    report: ImportReport,
    chosen: str = "chosen",
    rejected: str = "rejected",
    prompts: str | None = None,
    max_samples: int | None = None,
) -> Iterator[ImportedGroup]:
    """One group per file name that both folders hold (subfolders included, suffixes may differ), in sorted order.

    source    the folder that holds both
    chosen, rejected   names of the two folders in it
    prompts   one file of prompts in `source` (.txt a line per name, or .csv .tsv .json .jsonl with name and prompt); None: NAME.txt
              or NAME.caption beside the chosen image, or beside the rejected one
    max_samples   stop after so many pairs kept
    A name that one folder lacks, and a name without caption, count as broken. A link out of `source` stops the import (PermissionError).
    """
    check_count(max_samples)
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"folder {source!r} does not exist; it must hold the folders {chosen!r} and {rejected!r}")
    folders = {"chosen": inside(root, chosen, "setting chosen"), "rejected": inside(root, rejected, "setting rejected")}
    if folders["chosen"] == folders["rejected"]:
        raise ValueError(f"chosen and rejected are both {chosen!r}; name two folders")
    files = {side: media_files(folder, root) for side, folder in folders.items()}
    names = sorted({*files["chosen"], *files["rejected"]})
    texts = None if prompts is None else read_prompts(inside(root, prompts, "setting prompts"), names)

    def build(name: str, group_id: str) -> ImportedGroup:
        missing = [side for side in files if name not in files[side]]
        if missing:
            raise ValueError(f"the {missing[0]} file is missing; both folders need one of this name")
        text = read_caption([folder / name for folder in folders.values()], root) if texts is None else texts.get(name)
        if not text:
            raise ValueError(f"no caption; write {name}.txt beside the file, or name a file of `prompts` that has it")
        first, second = (Side(files[side][name], side, tags={"name": name}, column=f"{side}/{name}") for side in files)
        return pair_group(Pair(text, first, second), Place("two_folders", group_id, "", None))

    yield from import_each("two_folders", zip(names, names, strict=True), build, report, max_samples)
