"""Two parallel folders, chosen and rejected, with the same file names (SimpleTuner's layout)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffalign.data.importers.captions import image_files, read_caption, read_prompts
from diffalign.data.importers.media import inside, media_of
from diffalign.data.importers.report import ImportedGroup, ImportReport
from diffalign.data.records import Candidate, Preference


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
              beside the chosen image, or beside the rejected one
    max_samples   stop after so many pairs kept
    A name that one folder lacks, and a name without caption, count as broken.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; give 1 or more, or null for all")
    root = Path(source).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"folder {source!r} does not exist; it must hold the folders {chosen!r} and {rejected!r}")
    folders = {"chosen": inside(root, chosen, "setting chosen"), "rejected": inside(root, rejected, "setting rejected")}
    if folders["chosen"] == folders["rejected"]:
        raise ValueError(f"chosen and rejected are both {chosen!r}; name two folders")
    files = {side: image_files(folder) for side, folder in folders.items()}
    names = sorted({*files["chosen"], *files["rejected"]})
    texts = None if prompts is None else read_prompts(inside(root, prompts, "setting prompts"), names)
    for index, name in enumerate(names):
        if max_samples is not None and report.kept >= max_samples:
            return
        report.read += 1
        group_id = f"two_folders-{index:07d}"
        try:
            missing = [side for side in files if name not in files[side]]
            if missing:
                raise ValueError(f"the {missing[0]} image is missing; both folders need a file of this name")
            captions = [folder / f"{name}.txt" for folder in folders.values()]
            text = read_caption(captions) if texts is None else texts.get(name)
            if not text:
                raise ValueError(f"no caption; write {name}.txt beside the image, or name a file of `prompts` that has it")
            candidates = tuple(
                Candidate(
                    f"{group_id}-{side}", group_id, text, media_of(files[side][name].read_bytes(), f"{side}/{name}"), tags={"name": name}
                )
                for side in ("chosen", "rejected")
            )
        except ValueError as error:
            report.count_broken(name, error)
            continue
        preference = Preference(group_id, text, tuple(candidate.candidate_id for candidate in candidates), source="two_folders")
        yield report.count_kept(ImportedGroup(group_id, text, candidates, (preference,)))
