"""Finds the objects in every frame of a clip of the motion world, all frames at once.

Background from the border, one colour class per pixel, connected components within a frame, then their likeness to a template
of each shape. Made for clips that a model drew: soft edges, specks, noise, colours that are slightly off.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from scipy import ndimage

from reward_models.worlds.shapes.geometry import PALETTE, coverage

from .captions import COLOURS, SHAPES
from .timing import SIZE, check_video

_BORDER = 2  # pixels of rim that the background is estimated from
_CORE = 0.5  # opacity from which a pixel belongs to the core of an object
_MIN_AREA = 12  # core pixels; a smaller component is a speck
_MAX_FOUND = 6  # objects a frame; of more the largest are kept, so that noise takes no longer than a clip
_INK_FLOOR, _INK_SPAN = 28.0, 80.0  # distance from the background, of 255 per channel, where ink begins, and until it is full
_FOREIGN_FLOOR = 40.0  # as _INK_FLOOR, at an object: blur shifts the colours of its edge by more than a plain background
_COLOUR_SPREAD, _COLOUR_SLACK, _COLOUR_REACH = 36.0, 40.0, 45.0  # Euclidean RGB distances, see _colour_confidences
_GRID, _GRID_REACH = 20, 1.95  # samples, and reach in equivalent radii, of the frame that templates are compared in
_TEMPLATE_RADIUS = 4.7  # pixels
_SPATIAL = np.zeros((3, 3, 3), dtype=bool)  # neighbours are above, below, left and right: never in another frame
_SPATIAL[1] = ndimage.generate_binary_structure(2, 1)
_PALETTE = np.array([PALETTE[colour] for colour in COLOURS], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects, each in one frame, in the order of the frames; every field is an array whose first axis is N.

    frame       the index of the frame
    centre      (N, 2), centroid in pixels, x to the right and y downwards
    size        pixels, the radius of the disc of equal area
    colour      (N, 3), (R, G, B) of 0-255
    contrast    distance of the colour from the background, of 255 per channel
    colours     (N, 6), certainty in [0, 1] per name of `COLOURS`
    agreements  (N, 4), likeness in [0, 1] (Tanimoto) to each of `SHAPES`
    edge        width of the outline in pixels
    unevenness  RMS distance of the inside from the colour, of 255 per channel
    foreign     pixels of ink in or at it that are no mixture of its colour and the background: dots, stripes, an outline
    """

    frame: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    colour: np.ndarray
    contrast: np.ndarray
    colours: np.ndarray
    agreements: np.ndarray
    edge: np.ndarray
    unevenness: np.ndarray
    foreign: np.ndarray


@dataclass(frozen=True, eq=False)
class Frames:
    """What is in the T frames of a clip: the objects and what is around them.

    background (T, 3): (R, G, B) of 0-255. roughness (T,): RMS distance of the background's pixels from it. stray (T,): pixels of
    ink that belong to no object.
    """

    objects: Objects
    background: np.ndarray
    roughness: np.ndarray
    stray: np.ndarray


def detect(video: np.ndarray) -> Frames:
    """The objects of every frame. video: uint8 (T ≥ 5, 32, 32, 3); ValueError for anything else."""
    check_video(video)
    picture = video.astype(np.float32)
    rim = np.ones((SIZE, SIZE), dtype=bool)
    rim[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    background = np.median(picture[:, rim], axis=1)
    offset = picture - background[:, None, None]
    length = np.sqrt((offset**2).sum(axis=3))
    labels, count = _label_cores(offset, background)
    owner = _grown(labels)
    ink = np.clip((length - _INK_FLOOR) / _INK_SPAN, 0, 1)
    plain = (owner == 0) & (ink == 0)
    roughness = np.sqrt((length**2 * plain).sum(axis=(1, 2)) / np.maximum(plain.sum(axis=(1, 2)), 1))
    return Frames(_describe(offset, background, labels, owner, count), background, roughness, (ink * (owner == 0)).sum(axis=(1, 2)))


def _label_cores(offset: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels (T, 32, 32) of the cores of objects, 1 to count in the order of frames, 0 elsewhere.

    Every pixel is read as background mixed with the one palette colour that explains it best.
    """
    directions = _PALETTE - background[:, None]
    squares = np.maximum((directions**2).sum(axis=2), 1.0)[:, None]
    projections = offset.reshape(len(offset), -1, 3) @ directions.transpose(0, 2, 1)
    opacity = np.clip(projections / squares, 0, 1)
    misfit = opacity * (opacity * squares - 2 * projections)  # plus |offset|², the same for all colours
    classes = misfit.argmin(axis=2)
    is_core = np.take_along_axis(opacity, classes[..., None], axis=2)[..., 0] > _CORE
    classes, is_core = classes.reshape(offset.shape[:3]), is_core.reshape(offset.shape[:3])
    labels, count = np.zeros(classes.shape, dtype=np.int32), 0
    for index in np.flatnonzero(np.bincount(classes[is_core], minlength=len(COLOURS)) >= _MIN_AREA):
        parts, found = cast("tuple[np.ndarray, int]", ndimage.label(is_core & (classes == index), _SPATIAL))
        areas = np.bincount(parts.ravel(), minlength=found + 1)
        # Where two colours touch, their mixture may look like a third: a seam, too thin to survive erosion.
        inner = np.bincount(_eroded(parts).ravel(), minlength=found + 1)
        kept = [part for part in range(1, found + 1) if areas[part] >= _MIN_AREA and inner[part]]
        names = np.zeros(found + 1, dtype=np.int32)
        names[kept] = np.arange(count + 1, count + len(kept) + 1)
        labels += names[parts]
        count += len(kept)
    return _in_order(labels, count)


def _in_order(labels: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """The same components numbered frame by frame, of every frame the largest `_MAX_FOUND` alone."""
    areas = np.stack([np.bincount(frame.ravel(), minlength=count + 1)[1:] for frame in labels])
    frames = areas.argmax(axis=0)
    names, kept = np.zeros(count + 1, dtype=np.int32), 0
    for frame in range(len(labels)):
        found = np.flatnonzero(frames == frame)
        for part in found[np.argsort(-areas[frame, found], kind="stable")][:_MAX_FOUND]:
            kept += 1
            names[part + 1] = kept
    return names[labels], kept


def _neighbours(labels: np.ndarray) -> list[np.ndarray]:
    """The labels to the left, to the right, above and below of every pixel, 0 beyond the border."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
    return [padded[:, 1:-1, :-2], padded[:, 1:-1, 2:], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]]


def _eroded(labels: np.ndarray) -> np.ndarray:
    """Labels without the pixels that have a neighbour of another label."""
    return labels * np.logical_and.reduce([other == labels for other in _neighbours(labels)])


def _grown(labels: np.ndarray) -> np.ndarray:
    """Labels grown into what has none, by about three pixels: the soft edges belong to their object."""
    owner = labels
    for _ in range(4):
        owner = np.where(owner == 0, np.maximum.reduce(_neighbours(owner)), owner)
    return owner


def _describe(offset: np.ndarray, background: np.ndarray, labels: np.ndarray, owner: np.ndarray, count: int) -> Objects:
    """Every labelled object, from the pixels that it owns."""
    cores = labels.reshape(len(labels), -1)
    frame = np.array([np.flatnonzero((cores == label).any(axis=1))[0] for label in range(1, count + 1)], dtype=int)
    names = np.arange(1, count + 1)[:, None, None]
    around = offset[frame]
    inner = _eroded(labels)[frame] == names
    core = labels[frame] == names
    solid = np.where((inner.sum(axis=(1, 2)) >= 5)[:, None, None], inner, core).astype(np.float32)
    solid /= solid.sum(axis=(1, 2), keepdims=True)
    colour = (around * solid[..., None]).sum(axis=(1, 2))
    unevenness = np.sqrt((((around - colour[:, None, None]) ** 2).sum(axis=3) * solid).sum(axis=(1, 2)))
    mask = owner[frame] == names
    square = np.maximum((colour**2).sum(axis=1), 1.0)
    opacity = np.clip((around * colour[:, None, None]).sum(axis=3) / square[:, None, None], 0, 1) * mask
    area = np.maximum(opacity.sum(axis=(1, 2)), 1.0)
    places = np.arange(SIZE) + 0.5
    centre = np.stack([opacity.sum(axis=1) @ places, opacity.sum(axis=2) @ places], axis=1) / area[:, None]
    size = np.sqrt(area / math.pi)
    agreements = _agreements(opacity, centre, size)
    unexplained = np.sqrt(((around - opacity[..., None] * colour[:, None, None]) ** 2).sum(axis=3)) * mask
    outline = _outlines()[agreements.argmax(axis=1)] * size
    return Objects(
        frame=frame,
        centre=centre,
        size=size,
        colour=colour + background[frame],
        contrast=np.sqrt(square),
        colours=_colour_confidences(colour + background[frame]),
        agreements=agreements,
        # A linear ramp one pixel wide has an integral of opacity * (1 - opacity) across it of 1/6.
        edge=6 * (opacity * (1 - opacity)).sum(axis=(1, 2)) / outline,
        unevenness=unevenness,
        foreign=np.clip((unexplained - _FOREIGN_FLOOR) / _INK_SPAN, 0, 1).sum(axis=(1, 2)),
    )


def _agreements(opacity: np.ndarray, centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The likeness (N, 4) of objects to the best template of each shape, in frames of their own size centred on them.

    Tanimoto's s·t / (s·s + t·t - s·t), which is the intersection over the union where all is 0 or 1, and one product of matrices.
    """
    steps = np.linspace(-_GRID_REACH, _GRID_REACH, _GRID) * size[:, None]
    columns, rows = (_interpolation(centre[:, axis, None] + steps) for axis in (0, 1))
    seen = (rows @ opacity @ columns.transpose(0, 2, 1)).reshape(len(opacity), _GRID**2)
    templates, squares = _templates()
    shared = seen @ templates.T
    likeness = shared / ((seen**2).sum(axis=1)[:, None] + squares - shared)
    return likeness.reshape(len(opacity), len(SHAPES), len(templates) // len(SHAPES)).max(axis=2)


def _interpolation(places: np.ndarray) -> np.ndarray:
    """The matrices (N, 20, 32) that sample a line of pixels linearly at 20 places each, zero outside of it."""
    return np.maximum(0, 1 - abs(places[..., None] - (np.arange(SIZE) + 0.5)))


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Templates (4 * 9, 20 * 20) in [0, 1], shape by shape in three sizes and softnesses, and their sums of squares."""
    templates = []
    for shape in SHAPES:
        pixels = _TEMPLATE_RADIUS * math.sqrt(_unit_area(shape) / math.pi)  # an equivalent radius
        for scale in (0.95, 1.0, 1.05):
            # Drawn five times as fine, then averaged with a Gaussian, to be as soft as pixels are, or softer.
            fine = np.linspace(-_GRID_REACH, _GRID_REACH, 5 * (_GRID - 1) + 1) * pixels / scale
            x, y = np.meshgrid(fine, fine)
            sharp = coverage(shape, x, y, _TEMPLATE_RADIUS)
            for softness in (0.3, 0.6, 0.9):  # pixels
                templates.append(ndimage.gaussian_filter(sharp, softness / (fine[1] - fine[0]))[::5, ::5])
    stack = np.array(templates).reshape(len(templates), -1)
    return stack, (stack**2).sum(axis=1)


def _unit_drawing(shape: str) -> np.ndarray:
    """A shape of radius 1, a hundred samples to the unit."""
    steps = np.arange(400) + 0.5 - 200
    return coverage(shape, *np.meshgrid(steps, steps), 100)


@lru_cache
def _unit_area(shape: str) -> float:
    """The area of a shape of radius 1."""
    return float(_unit_drawing(shape).sum()) / 100**2


@lru_cache(maxsize=1)
def _outlines() -> np.ndarray:
    """The lengths (4,) of the outlines of the shapes, in equivalent radii."""
    lengths = []
    for shape in SHAPES:
        down, across = np.gradient(ndimage.gaussian_filter(_unit_drawing(shape), 2))
        slope = np.hypot(down, across)
        lengths.append(float(slope.sum()) / 100 / math.sqrt(_unit_area(shape) / math.pi))
    return np.array(lengths)


def _colour_confidences(seen: np.ndarray) -> np.ndarray:
    """Certainty (N, 6) about each colour: how much nearer it is than the others, times how near it is at all."""
    distances = np.sqrt(((seen[:, None] - _PALETTE) ** 2).sum(axis=2))
    best = distances.min(axis=1, keepdims=True)
    weights = np.exp((best**2 - distances**2) / (2 * _COLOUR_SPREAD**2))
    fit = np.exp(-((np.maximum(0.0, best - _COLOUR_SLACK) / _COLOUR_REACH) ** 2))
    return weights / weights.sum(axis=1, keepdims=True) * fit
