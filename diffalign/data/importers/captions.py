"""Media in folders and their captions: NAME.txt or NAME.caption (sd-scripts' default) beside the file, or one file of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffalign.data.importers.sources import check_columns, csv_rows, json_rows

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"),
)
CAPTIONS = (".txt", ".caption")


def media_files(folder: Path, root: Path) -> dict[str, Path]:
    """The images, videos and sounds of a folder and its subfolders: name (relative, without suffix, with /) → path, sorted.

    root   of the whole set, resolved; PermissionError where a link leads out of it
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {str(folder)!r} does not exist; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            _check_inside(path, root)
            if name in found:
                raise ValueError(f"{str(path)!r} and {found[name].name!r} have the same name without suffix; rename one of them")
            found[name] = path
    return found


def read_caption(names: Sequence[Path], root: Path) -> str | None:
    """The text of the first of these names that has a file NAME.txt or NAME.caption, without surrounding space, or None.

    root   of the whole set, resolved; PermissionError where a link leads out of it
    """
    for path in (name.with_name(name.name + ending) for name in names for ending in CAPTIONS):
        if path.is_file():
            _check_inside(path, root)
            try:
                return path.read_text(encoding="utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"caption {str(path)!r} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    return None


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise PermissionError(f"{str(path)!r} is a link that leads outside {str(root)!r} and is refused; put the file itself there")


def read_prompts(path: Path, names: Sequence[str]) -> Mapping[str, str]:
    """Name → prompt, of one file for all: .txt (a line per name, in sorted order), or .csv .tsv .json .jsonl with name and prompt."""
    if not path.is_file():
        raise FileNotFoundError(f"file of prompts {str(path)!r} does not exist; check the path")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if len(lines) != len(names):
            raise ValueError(
                f"{str(path)!r} has {len(lines)} prompts for {len(names)} files; give one line per file in sorted order, or a .csv"
            )
        return dict(zip(names, lines, strict=True))
    if suffix in (".csv", ".tsv"):
        rows = csv_rows(path, ("name", "prompt"), "", "\t" if suffix == ".tsv" else ",")
    elif suffix in (".json", ".jsonl"):
        rows = json_rows(path, lines=suffix == ".jsonl")
    else:
        raise ValueError(f"file of prompts {str(path)!r} has the suffix {suffix!r}; known are: .txt, .csv, .tsv, .json, .jsonl")
    prompts: dict[str, str] = {}
    for row in rows:
        check_columns(list(row), ("name", "prompt"), repr(str(path)))
        prompts[Path(str(row["name"])).with_suffix("").as_posix()] = str(row["prompt"]).strip()
    return prompts
