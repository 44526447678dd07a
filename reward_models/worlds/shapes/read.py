"""Reads a picture of the shapes world back: which objects it shows, where, and how cleanly they are drawn.

Background from the border, one colour class per pixel, connected components, then the best template for each component.
Made for pictures that a model drew: soft edges, specks, colours that are slightly off, objects that touch.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

import numpy as np
from scipy import ndimage

from .captions import COLOURS, SHAPES
from .geometry import PALETTE, SIZE, coverage

_BORDER = 2  # pixels of frame that the background is estimated from
_CORE = 0.5  # opacity from which a pixel belongs to the core of an object
_MIN_AREA = 20  # core pixels; a smaller component is a speck
_REGION = 3.0  # pixels around a core that still belong to its object
_INK_FLOOR, _INK_SPAN = 24.0, 80.0  # distance from the background, of 255 per channel, where ink begins, and until it is full
_FOREIGN_FLOOR = 35.0  # as _INK_FLOOR, at an object: blur and compression shift the colours of its edge by more than a plain background
_COLOUR_SPREAD, _COLOUR_SLACK, _COLOUR_REACH = 36.0, 40.0, 45.0  # Euclidean RGB distances, see _colour_confidences
_SHAPE_TEMPERATURE = 0.02  # in IoU
_NO_FIT, _FULL_FIT = 0.5, 0.8  # IoU with the best template below which a thing is like no shape, and above which it is one
_GRID, _GRID_REACH = 28, 1.95  # samples, and reach in equivalent radii, of the frame that templates are compared in


@dataclass(frozen=True)
class Detection:
    """One object found in a picture.

    shape, colour    the likeliest names
    x, y             centroid in pixels, from the top left corner
    size             pixels, the radius of the disc of equal area
    shapes, colours  confidence in [0, 1] per name; shape_confidence and colour_confidence are those of the likeliest
    agreement        soft IoU with the best template
    fit              in [0, 1], how far the agreement makes it a shape at all
    edge             width of its outline in pixels
    unevenness       RMS distance of its core from its own colour, of 255 per channel
    ink              its area in pixels of full colour
    foreign          pixels of ink in or at it that are no mixture of its colour and the background: dots, stripes, an outline
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    shape_confidence: float
    colour_confidence: float
    shapes: dict[str, float]
    colours: dict[str, float]
    agreement: float
    fit: float
    edge: float
    unevenness: float
    ink: float
    foreign: float


@dataclass(frozen=True)
class Reading:
    """A whole picture: its objects, left to right, and what is not an object.

    background: (R, G, B) of 0-255. roughness: RMS distance of the background's pixels from it, of 255 per channel.
    stray: pixels of ink that belong to no object.
    """

    detections: tuple[Detection, ...]
    background: tuple[float, float, float]
    roughness: float
    stray: float


def detect(pixels: np.ndarray) -> list[Detection]:
    """The objects of a picture, left to right. pixels: uint8 (64, 64, 3); ValueError for anything else."""
    return list(read(pixels).detections)


def read(pixels: np.ndarray) -> Reading:
    """The objects of a picture and the state of its background. pixels: uint8 (64, 64, 3); ValueError for anything else."""
    if pixels.shape != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; give uint8 ({SIZE}, {SIZE}, 3)")
    picture = pixels.astype(np.float32)
    background = _background(picture)
    offset = picture - background
    length = np.sqrt((offset**2).sum(axis=2))
    ink = np.clip((length - _INK_FLOOR) / _INK_SPAN, 0, 1)
    labels, count = _label_cores(offset, background)
    if count:
        distance, nearest = cast("tuple[np.ndarray, np.ndarray]", ndimage.distance_transform_edt(labels == 0, return_indices=True))
        owner = labels[nearest[0], nearest[1]] * (distance <= _REGION)
    else:
        owner = labels
    found = [
        _describe(offset, background, owner == label, labels == label, float(ink[owner == label].sum())) for label in range(1, count + 1)
    ]
    is_free = owner == 0
    plain = length[is_free & (ink == 0)]
    return Reading(
        detections=tuple(sorted(found, key=lambda one: one.x)),
        background=(float(background[0]), float(background[1]), float(background[2])),
        roughness=float(np.sqrt((plain**2).mean())) if plain.size else 0.0,
        stray=float(ink[is_free].sum()),
    )


def _background(picture: np.ndarray) -> np.ndarray:
    frame = np.ones((SIZE, SIZE), dtype=bool)
    frame[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.median(picture[frame], axis=0)


def _label_cores(offset: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels (64, 64) of the cores of objects, 1 to count, 0 elsewhere.

    Every pixel is read as background mixed with the one palette colour that explains it best.
    """
    directions = np.array([PALETTE[colour] for colour in COLOURS], dtype=np.float32) - background
    squares = np.maximum((directions**2).sum(axis=1), 1.0)
    projections = offset @ directions.T
    opacity = np.clip(projections / squares, 0, 1)
    misfit = opacity * (opacity * squares - 2 * projections)  # plus |offset|², the same for all colours
    classes = misfit.argmin(axis=2)
    is_core = np.take_along_axis(opacity, classes[..., None], axis=2)[..., 0] > _CORE
    labels, count = np.zeros((SIZE, SIZE), dtype=np.int32), 0
    for index in np.flatnonzero(np.bincount(classes[is_core], minlength=len(COLOURS)) >= _MIN_AREA):
        parts, _ = cast("tuple[np.ndarray, int]", ndimage.label(is_core & (classes == index)))
        areas = np.bincount(parts.ravel())
        # Where two colours touch, their mixture may look like a third: a seam, too thin to survive erosion.
        survivors = np.unique(parts[np.asarray(ndimage.binary_erosion(parts > 0), dtype=bool)])
        for part in survivors:
            if part and areas[part] >= _MIN_AREA:
                count += 1
                labels[parts == part] = count
    return labels, count


def _describe(offset: np.ndarray, background: np.ndarray, region: np.ndarray, core: np.ndarray, ink: float) -> Detection:
    """The object whose core is `core`, from the pixels of `region`."""
    solid = offset[core & ndimage.binary_erosion(core)] if core.sum() > 2 * _MIN_AREA else offset[core]
    if len(solid) < 5:
        solid = offset[core]
    colour = np.median(solid, axis=0)
    opacity = np.clip(offset @ colour / max(float(colour @ colour), 1.0), 0, 1) * region
    area = max(float(opacity.sum()), 1.0)
    centres = np.arange(SIZE) + 0.5
    x, y = float(opacity.sum(axis=0) @ centres) / area, float(opacity.sum(axis=1) @ centres) / area
    size = math.sqrt(area / math.pi)
    agreements = _agreements(opacity, x, y, size)
    fit = min(1.0, max(0.0, (max(agreements.values()) - _NO_FIT) / (_FULL_FIT - _NO_FIT)))
    shapes = {shape: fit * share for shape, share in _shape_shares(agreements).items()}
    colours = _colour_confidences(colour + background)
    best_shape, best_colour = max(shapes, key=shapes.__getitem__), max(colours, key=colours.__getitem__)
    outline = _perimeter(best_shape) * size
    unexplained = np.linalg.norm(offset - opacity[..., None] * colour, axis=2)[region]
    return Detection(
        shape=best_shape,
        colour=best_colour,
        x=x,
        y=y,
        size=size,
        shape_confidence=shapes[best_shape],
        colour_confidence=colours[best_colour],
        shapes=shapes,
        colours=colours,
        agreement=agreements[best_shape],
        fit=fit,
        # A linear ramp one pixel wide has an integral of opacity * (1 - opacity) across it of 1/6.
        edge=6 * float((opacity * (1 - opacity)).sum()) / outline,
        unevenness=float(np.sqrt(((solid - colour) ** 2).sum(axis=1).mean())),
        ink=ink,
        foreign=float(np.clip((unexplained - _FOREIGN_FLOOR) / _INK_SPAN, 0, 1).sum()),
    )


def _agreements(opacity: np.ndarray, x: float, y: float, size: float) -> dict[str, float]:
    """The soft IoU of an object with the best template of each shape, in a frame of its own size centred on it."""
    steps = np.linspace(-_GRID_REACH, _GRID_REACH, _GRID) * size
    rows, columns = _interpolation(y + steps), _interpolation(x + steps)
    seen = (rows @ opacity @ columns.T).astype(np.float32).ravel()
    templates, sums, names = _templates()
    shared = np.minimum(templates, seen).sum(axis=1)
    overlap = shared / (sums + seen.sum() - shared)
    return {shape: float(overlap[names == index].max()) for index, shape in enumerate(SHAPES)}


def _interpolation(places: np.ndarray) -> np.ndarray:
    """The matrix (N, 64) that samples a line of pixels linearly at N places, zero outside of it."""
    return np.maximum(0, 1 - abs(places[:, None] - (np.arange(SIZE) + 0.5)))


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Templates (N, 28 * 28) in [0, 1], their sums (N,), and for each the index of its shape (N,).

    A few sizes, offsets and softnesses of every shape around the one that has area pi in the frame.
    """
    steps = np.linspace(-_GRID_REACH, _GRID_REACH, _GRID)
    templates, names = [], []
    for index, shape in enumerate(SHAPES):
        for scale in (0.94, 1.0, 1.06):
            for shift_x, shift_y in ((0, 0), (0.07, 0), (-0.07, 0), (0, 0.07), (0, -0.07)):
                dx, dy = np.meshgrid(steps - shift_x, steps - shift_y)
                # Drawn ten times as large, so that the edge is as soft as a pixel is in an object of `size` 5.
                radius = scale / math.sqrt(_unit_area(shape) / math.pi)
                sharp = coverage(shape, dx * 5, dy * 5, radius * 5)
                for softness in (0.0, 0.9, 1.5):  # in samples
                    templates.append(ndimage.gaussian_filter(sharp, softness) if softness else sharp)
                    names.append(index)
    stack = np.array(templates, dtype=np.float32).reshape(len(templates), -1)
    return stack, stack.sum(axis=1), np.array(names)


@cache
def _unit_area(shape: str) -> float:
    """The area of a shape of radius 1."""
    steps = (np.arange(400) + 0.5) / 100 - 2
    x, y = np.meshgrid(steps * 100, steps * 100)
    return float(coverage(shape, x, y, 100).sum()) / 100**2


@cache
def _perimeter(shape: str) -> float:
    """The length of the outline of a shape, in equivalent radii."""
    steps = (np.arange(400) + 0.5) / 100 - 2
    x, y = np.meshgrid(steps * 100, steps * 100)
    drawn = coverage(shape, x, y, 100)
    down, across = np.gradient(ndimage.gaussian_filter(drawn, 2))
    slope = np.hypot(down, across)
    return float(slope.sum()) / 100 / math.sqrt(_unit_area(shape) / math.pi)


def _shape_shares(agreements: dict[str, float]) -> dict[str, float]:
    """How much each shape stands out from the others; the shares sum to 1."""
    best = max(agreements.values())
    weights = {shape: math.exp((value - best) / _SHAPE_TEMPERATURE) for shape, value in agreements.items()}
    total = sum(weights.values())
    return {shape: weight / total for shape, weight in weights.items()}


def _colour_confidences(seen: np.ndarray) -> dict[str, float]:
    """Certainty about each colour: how much nearer it is than the others, times how near it is at all."""
    distances = {colour: float(np.linalg.norm(seen - np.array(PALETTE[colour]))) for colour in COLOURS}
    best = min(distances.values())
    weights = {colour: math.exp((best**2 - value**2) / (2 * _COLOUR_SPREAD**2)) for colour, value in distances.items()}
    total = sum(weights.values())
    fit = math.exp(-((max(0.0, best - _COLOUR_SLACK) / _COLOUR_REACH) ** 2))
    return {colour: weight / total * fit for colour, weight in weights.items()}
