"""A static gallery: base against aligned, preference pairs and training curves, in one folder that opens from disk.

The page needs no server, no network and no build step. `write.write_gallery` turns the records below into that folder.

    folder/
      index.html            open this
      page/                 the style sheet and the scripts, the same for every gallery
      data/gallery.js       title, columns, settings, summary, counts
      data/compare.js       one line a row: prompt, tags, scores, seed (what sorting and filtering need)
      data/compare/0000.js  100 rows each: files and ids (what showing needs, loaded on demand)
      data/pairs.js, data/pairs/0000.js, data/curves.js
      media/000/000000.webp named by a running index, never by data

Every score counts as "higher is better", but a guard, whose change is neither good nor bad. A score that is missing or not finite is
shown as "–".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a score has to do with the training, in the order in which scores stand on the page: trained on it; another dimension of a reward
# that was trained on; of a reward that was not; a measure of looks whose drift is a warning.
ROLES = ("trained", "same reward", "held out", "guard")


@dataclass(frozen=True)
class Column:
    """One model or checkpoint. The first column of a comparison is the base, against which the others are read."""

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Sample:
    """One generated item with its scores, named like "shapes.overall" or "sharpness.score".

    media  what the store of its kind reads, while it is being written: pixels() of an image, uint8 (H, W, 3); frames() of a video,
           uint8 (T, H, W, 3), and fps; waveform() of a sound, float (channels, samples) in [−1, 1], and sample_rate_hz
    key    samples of one key are one medium, whose files are written once; empty: no other's
    """

    media: Any
    scores: Mapping[str, float]
    candidate_id: str = ""
    kind: str = "image"  # a row of stores.STORES here and of page/media.js there
    key: str = ""


@dataclass(frozen=True)
class Row:
    """One prompt and one seed under every model; `samples` follows the columns, None where a model has none."""

    prompt: str
    seed: int
    samples: tuple[Sample | None, ...]
    tags: Mapping[str, str] = field(default_factory=dict)  # {"task": "counting"}: each key becomes a filter
    condition: Any = None  # the image that the prompt came with, shown beside it: pixels(), uint8 (H, W, 3)


@dataclass(frozen=True)
class SummaryLine:
    """The mean of one score under the base and under `column`, and the interval [low, high] of their difference.

    `win_rate` is the share of samples, 0 to 1, on which `column` beats the base, a tie counting one half; None leaves it out.
    """

    score: str
    base: float
    aligned: float
    change: float
    low: float
    high: float
    column: str
    win_rate: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows are read once, in order, so a generator keeps one row of media in memory at a time.

    `settings` is what all columns share (scheduler, steps, guidance, size) and stands in the header.
    """

    columns: Sequence[Column]
    rows: Iterable[Row]
    settings: Mapping[str, str] = field(default_factory=dict)
    summary: Sequence[SummaryLine] = ()


@dataclass(frozen=True)
class PairRow:
    """One preference: `gap` is the score of chosen minus that of rejected; `flags` are warnings ("tie", "identical").

    segments  per equal span of time, first to last: 1 the chosen side is better, −1 the rejected one, 0 neither; empty: not known
    context   what was wrong with the prompt of the rejected side, where that is known
    condition  as of a Row
    """

    prompt: str
    chosen: Sample
    rejected: Sample
    gap: float
    flags: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    segments: Sequence[int] = ()
    context: str = ""
    condition: Any = None


@dataclass(frozen=True)
class Curve:
    """One training curve as (step, value) points in order of step; the curves of a `group` share a chart."""

    name: str
    points: Sequence[tuple[int, float]]
    group: str
