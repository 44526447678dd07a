"""Records to a gallery folder, one row at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffalign.gallery import ROLES, Comparison, Curve, PairRow, Row, Sample
from diffalign.gallery.replace import replacing
from diffalign.gallery.scripts import RowScripts, finite, write_script
from diffalign.gallery.sounds import match_loudness
from diffalign.gallery.stores import MediaFolder

PAGE = Path(__file__).parent / "page"
OWNED = ("index.html", "page", "data", "media")
MARK = "data/gallery.js"


def write_gallery(
    folder: Path,
    comparison: Comparison | None,
    pairs: Iterable[PairRow] = (),
    curves: Iterable[Curve] = (),
    *,
    title: str,
    roles: Mapping[str, str] | None = None,
    thumbnail_size: int = 256,
    detail_size: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write the gallery to `folder` and return its index.html, which opens from disk without a network.

    Rows and pairs are read once, in order; the media of one row is in memory at a time. The folder appears, or replaces
    an older gallery, only when it is complete (`replace.replacing`). Pictures of at most 128 pixels are stored exactly;
    larger ones as a thumbnail of `thumbnail_size` and, for the lightbox, at up to `detail_size` (0: thumbnail only),
    both in pixels of the longer side; so are videos (`videos.store_video`). Sounds are stored whole. `roles` gives scores
    one of ROLES; the page shows those trained on first, and folds the others where there are many. `progress` is called
    after each sample with the number written so far.

    Raises ValueError for a row whose samples do not match the columns, column names that repeat, a summary line about
    no column, an unknown role, a label of a segment that is not −1, 0 or 1, media that the store of their kind does not take, or a
    folder that something else wrote.
    """
    _check_sizes(thumbnail_size, detail_size)
    roles = roles or {}
    _check_roles(roles)
    if comparison is not None:
        _check_comparison(comparison)
    with replacing(folder, OWNED, MARK) as partial:
        media = MediaFolder(partial, thumbnail_size, detail_size, progress)
        header = {
            "title": str(title),
            "chunk": RowScripts.CHUNK,
            "compare": None if comparison is None else _write_comparison(partial / "data", comparison, media, roles),
            "pairs": _write_pairs(partial / "data", pairs, media, roles),
            "curves": _write_curves(partial / "data", curves),
        }
        shutil.copyfile(PAGE / "index.html", partial / "index.html")
        shutil.copytree(PAGE, partial / "page", ignore=shutil.ignore_patterns("index.html"))
        write_script(partial / MARK, "gallery", header)
    return Path(folder) / "index.html"


def _check_sizes(thumbnail_size: int, detail_size: int) -> None:
    if not 16 <= thumbnail_size <= 4096:
        raise ValueError(f"thumbnail_size is {thumbnail_size}; choose 16 to 4096 pixels of the longer side")
    if not 0 <= detail_size <= 16383:
        raise ValueError(f"detail_size is {detail_size}; choose 0 (thumbnails only) to 16383 pixels, the most webp holds")


def _check_roles(roles: Mapping[str, str]) -> None:
    for name, role in roles.items():
        if role not in ROLES:
            raise ValueError(f"score {name!r} has the role {role!r}; choose one of: {', '.join(ROLES)}")


def _check_comparison(comparison: Comparison) -> None:
    names = [column.name for column in comparison.columns]
    if not names:
        raise ValueError("the comparison has no columns; give the base first, then one column per aligned model")
    if len(set(names)) < len(names):
        raise ValueError(f"column names repeat: {', '.join(names)}; give each column its own name")
    for line in comparison.summary:
        if line.column not in names:
            raise ValueError(f"a summary line is about column {line.column!r}; the columns are: {', '.join(names)}")


class _ScoreNames:
    """Scores as a list in the order in which their names were first met; later names make later lists longer."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def line(self, scores: Mapping[str, float]) -> list[float | None]:
        for name in scores:
            self.names.setdefault(str(name), len(self.names))
        return [finite(scores.get(name)) for name in self.names]


def _write_comparison(data: Path, comparison: Comparison, media: MediaFolder, roles: Mapping[str, str]) -> dict[str, Any]:
    scores, frame = _ScoreNames(), _Frame()
    with RowScripts(data, "compare") as table:
        for row in comparison.rows:
            where = f"row {table.count} ({row.prompt!r}, seed {row.seed})"
            _check_row(row, comparison, where)
            shown = [
                None if sample is None else frame.seen(media.store(sample, f"{where}, column {column.name!r}"))
                for sample, column in zip(row.samples, comparison.columns, strict=True)
            ]
            match_loudness(shown)
            line = [None if sample is None else scores.line(sample.scores) for sample in row.samples]
            # A 64-bit seed does not fit a JavaScript number, so it travels as text.
            beside = media.store_condition(row.condition, where)
            table.add([row.prompt, _texts(row.tags), line, str(row.seed), *([beside] if beside else [])], shown)
    return {
        "columns": [{"name": column.name, "detail": column.detail} for column in comparison.columns],
        "settings": [[str(name), str(value)] for name, value in comparison.settings.items()],
        "summary": [
            {
                "score": line.score, "column": line.column, "base": finite(line.base), "aligned": finite(line.aligned),
                "change": finite(line.change), "low": finite(line.low), "high": finite(line.high),
                "win_rate": finite(line.win_rate), "role": roles.get(line.score),
            }
            for line in comparison.summary
        ],
        "scores": list(scores.names),
        "roles": [roles.get(name) for name in scores.names],
        "count": table.count,
        **frame.size,
    }  # fmt: skip


def _check_row(row: Row, comparison: Comparison, where: str) -> None:
    if len(row.samples) != len(comparison.columns):
        names = ", ".join(column.name for column in comparison.columns)
        raise ValueError(
            f"{where} has {len(row.samples)} samples, the comparison has {len(comparison.columns)} columns ({names}); "
            "give one sample per column, None where there is none"
        )


def _write_pairs(data: Path, pairs: Iterable[PairRow], media: MediaFolder, roles: Mapping[str, str]) -> dict[str, Any] | None:
    scores, frame = _ScoreNames(), _Frame()
    with RowScripts(data, "pairs") as table:
        for pair in pairs:
            where = f"pair {table.count} ({pair.prompt!r})"
            sides: dict[str, Sample] = {"chosen": pair.chosen, "rejected": pair.rejected}
            shown = [frame.seen(media.store(sample, f"{where}, {side}")) for side, sample in sides.items()]
            line = [scores.line(sample.scores) for sample in sides.values()]
            match_loudness(shown)
            flags = [str(flag) for flag in pair.flags]
            more = _more_of(pair, where) | media.store_condition(pair.condition, where)
            table.add([pair.prompt, _texts(pair.tags), line, finite(pair.gap), flags, *([more] if more else [])], shown)
    names = list(scores.names)
    return {"scores": names, "roles": [roles.get(name) for name in names], "count": table.count, **frame.size} if table.count else None


def _more_of(pair: PairRow, where: str) -> dict[str, Any]:
    """What few pairs have, as one more entry of the line; nothing where there is nothing of it."""
    segments = [int(label) for label in pair.segments]
    wrong = next((label for label in pair.segments if label not in (-1, 0, 1)), None)
    if wrong is not None:
        raise ValueError(f"{where}: a segment is labelled {wrong!r}; give 1 (chosen better), −1 (rejected better) or 0 (neither)")
    more = {"segments": segments, "context": str(pair.context)}
    return {name: value for name, value in more.items() if value}


def _write_curves(data: Path, curves: Iterable[Curve]) -> dict[str, Any] | None:
    lines = [
        {"name": curve.name, "group": curve.group, "points": [[int(step), finite(value)] for step, value in curve.points]}
        for curve in curves
    ]
    write_script(data / "curves.js", "curves", lines)
    return {"count": len(lines)} if lines else None


class _Frame:
    """The kind and shape of the box that the page reserves for every item of a table (its first one's), and whether any is tiny."""

    def __init__(self) -> None:
        self.size: dict[str, Any] = {"kind": "image", "width": 1, "height": 1, "tiny": False}
        self._empty = True

    def seen(self, record: dict[str, Any]) -> dict[str, Any]:
        if self._empty and "width" in record:
            self.size.update(kind=record["kind"], width=record["width"], height=record["height"])
            self._empty = False
        self.size["tiny"] = self.size["tiny"] or record.get("tiny", False)
        return record


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {str(name): str(value) for name, value in tags.items()}
