"""A gallery of invented data, to look at the page while changing it: `python -m diffalign.gallery.demo FOLDER [image|video|audio]`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffalign.gallery import Column, Comparison, Curve, PairRow, Row, Sample, SummaryLine
from diffalign.gallery.demo_timed import MEDIA
from diffalign.gallery.write import write_gallery

COLOURS = {"red": "#d64545", "blue": "#3b6fd4", "green": "#3c9d5d", "yellow": "#e3b536", "purple": "#8a56c2", "orange": "#e2803a"}
SHAPES = ("circle", "square", "triangle")
TASKS = {"single": 1, "two": 2, "counting": 3}
COLUMNS = (Column("base"), Column("dpo", "diffusion_dpo, step 400"), Column("kto", "diffusion_kto, step 400"))
TRAINED_ON = "shapes.overall"
DEMO_ROLES = {TRAINED_ON: "trained", "shapes.colour": "same reward", "pick_score.score": "held out", "sharpness.score": "guard"}
GAINS = {"base": 0.0, "dpo": 0.5, "kto": 0.3}  # chance that a model mends a mistake of the base


@dataclass(frozen=True)
class Drawing:
    """A picture of a few shapes on a pale ground; `mistakes` of them have a wrong colour."""

    shapes: tuple[tuple[str, str], ...]  # (colour, shape)
    mistakes: int
    seed: int
    size: int = 64  # pixels

    def pixels(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        scale = 4  # drawn larger and reduced, for soft edges
        image = Image.new("RGB", (self.size * scale, self.size * scale), tuple(int(c) for c in 236 - rng.integers(0, 14, 3)))
        draw = ImageDraw.Draw(image)
        for place, (colour, shape) in enumerate(self.shapes):
            if place < self.mistakes:
                colour = list(COLOURS)[(list(COLOURS).index(colour) + 1 + self.seed % 4) % len(COLOURS)]
            across = self.size * scale / len(self.shapes)
            radius = min(across * 0.36, self.size * scale * 0.3) * rng.uniform(0.75, 1.0)
            x, y = across * (place + 0.5), self.size * scale * rng.uniform(0.4, 0.6)
            if shape == "triangle":
                draw.regular_polygon((x, y, radius), 3, fill=COLOURS[colour])
            else:
                kind = draw.ellipse if shape == "circle" else draw.rectangle
                kind((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.LANCZOS))


def demo_rows(count: int, size: int = 64, columns: tuple[Column, ...] = COLUMNS, kind: str = "image") -> Iterator[Row]:
    """`count` rows, two seeds a prompt, the same on every call; the drawings themselves, or as what `kind` makes of them."""
    for index in range(count):
        rng = np.random.default_rng(index // 2)
        task = list(TASKS)[int(rng.integers(len(TASKS)))]
        shapes = tuple((str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))) for _ in range(TASKS[task]))
        prompt = " and ".join(f"{'an' if colour == 'orange' else 'a'} {colour} {shape}" for colour, shape in shapes)
        rng = np.random.default_rng(10_000 + index)
        mistakes = int(rng.binomial(len(shapes), 0.5))
        samples = []
        for place, column in enumerate(columns):
            left = max(0, mistakes - int(rng.binomial(mistakes, GAINS.get(column.name, 0.1))) + int(rng.random() < 0.04 * place))
            sample = _sample(shapes, min(left, len(shapes)), index, column.name, rng, size)
            samples.append(replace(sample, media=MEDIA[kind](sample.media), kind=kind))
        yield Row(prompt, 1000 + index % 2, tuple(samples), {"task": task})


def _sample(shapes: tuple[tuple[str, str], ...], mistakes: int, index: int, name: str, rng: np.random.Generator, size: int) -> Sample:
    right = 1 - mistakes / len(shapes)
    scores = {
        "shapes.overall": right,
        "shapes.colour": 1 - mistakes / len(shapes) * float(rng.uniform(0.7, 1.0)),
        "pick_score.score": 0.2 + 0.02 * right + 0.004 * float(rng.normal()),
        "sharpness.score": 0.031 + 0.004 * float(rng.normal()) - 0.002 * (name != "base"),
    }
    return Sample(Drawing(shapes, mistakes, index, size), scores, candidate_id=f"{name}-{index:05d}")


def demo_pairs(count: int, kind: str = "image") -> Iterator[PairRow]:
    """Of what takes time every pair but each fifth has labels of four segments."""
    for index, row in enumerate(demo_rows(count, kind=kind)):
        first, second = row.samples[0], row.samples[1]
        if first is None or second is None:
            continue
        noise = float(np.random.default_rng(row.seed + len(row.prompt)).normal(0, 0.05))  # an annotator's
        gap = second.scores[TRAINED_ON] - first.scores[TRAINED_ON] + noise
        chosen, rejected = (second, first) if gap >= -0.15 else (first, second)
        gap = gap if gap >= -0.15 else -gap
        flags = ("tie",) if abs(gap) < 0.02 else ("against the score",) if gap < 0 else ()
        labels = np.random.default_rng(index).choice([1, 1, 1, 0, -1], 4) if kind != "image" and index % 5 else ()
        context = "one colour was another" if kind != "image" and index % 3 == 0 else ""
        yield PairRow(row.prompt, chosen, rejected, gap, flags, row.tags, tuple(int(label) for label in labels), context)


def demo_curves(steps: int = 400) -> list[Curve]:
    rng = np.random.default_rng(0)
    at = range(0, steps + 1, 2)
    shapes = {
        ("loss", "dpo"): lambda s: math.log(2) * (0.72 + 0.28 * math.exp(-s / 130)) + rng.normal(0, 0.02),
        ("loss", "kto"): lambda s: math.log(2) * (0.8 + 0.2 * math.exp(-s / 90)) + rng.normal(0, 0.015),
        ("accuracy", "training"): lambda s: 0.5 + 0.26 * (1 - math.exp(-s / 120)) + rng.normal(0, 0.03),
        ("accuracy", "held out"): lambda s: 0.5 + 0.18 * (1 - math.exp(-s / 100)) + rng.normal(0, 0.015),
        ("drift", "winner"): lambda s: 1e-4 * (-0.4 * s / 100 + rng.normal(0, 0.15)),
        ("drift", "loser"): lambda s: 1e-4 * (0.9 * s / 100 + rng.normal(0, 0.15)),
        ("gradient norm", "dpo"): lambda s: 10 ** (0.8 - s / 300 + rng.normal(0, 0.12)),
    }
    return [Curve(name, [(step, float(value(step))) for step in at], group) for (group, name), value in shapes.items()]


def demo_summary(rows: int) -> list[SummaryLine]:
    """Means over the rows, with a bootstrap interval (95 %) that resamples prompts."""
    table = [[sample.scores for sample in row.samples if sample is not None] for row in demo_rows(rows)]
    lines = []
    for place, column in enumerate(COLUMNS[1:], start=1):
        for score in table[0][0]:
            base, aligned = (np.array([row[at][score] for row in table]) for at in (0, place))
            change = (aligned - base).reshape(-1, 2).mean(1)
            means = change[np.random.default_rng(0).integers(0, len(change), (500, len(change)))].mean(1)
            low, high = (float(edge) for edge in np.quantile(means, (0.025, 0.975)))
            wins = float(np.mean((change > 0) + 0.5 * (change == 0)))
            lines.append(SummaryLine(score, float(base.mean()), float(aligned.mean()), float(change.mean()), low, high, column.name, wins))
    return lines


def write_demo(folder: Path, rows: int = 200, kind: str = "image") -> Path:
    """The demo gallery of one of the kinds in demo_timed.MEDIA."""
    if kind not in MEDIA:
        raise ValueError(f"there is no demo of {kind!r}; choose one of: {', '.join(MEDIA)}")
    settings = {"scheduler": "DDIM", "steps": "20", "guidance": "3.0", "size": "64×64", "prompts": f"{rows // 2} × 2 seeds"}
    comparison = Comparison(COLUMNS, demo_rows(rows, kind=kind), settings, demo_summary(rows))
    title = "Invented shapes: base, DPO and KTO"
    return write_gallery(folder, comparison, demo_pairs(rows, kind), demo_curves(), title=title, roles=DEMO_ROLES)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m diffalign.gallery.demo FOLDER [image|video|audio]")
    print(write_demo(Path(sys.argv[1]), 60 if len(sys.argv) == 3 else 200, *sys.argv[2:]))
