"""What the shapes and colours of the world look like: signed distances, coverage and the palette."""

import math

import numpy as np

SIZE = 64  # pixels, both sides of a picture

# Chosen far apart as directions from a light background: at least 35 degrees, so that a pixel mixed with background keeps its name.
PALETTE = {
    "red": (218, 38, 42),
    "green": (40, 165, 60),
    "blue": (42, 78, 220),
    "yellow": (244, 200, 24),
    "purple": (200, 50, 205),
    "cyan": (24, 190, 214),
}

_SQUARE_HALF_SIDE = 0.86
_TRIANGLE_INRADIUS = 0.62
_STAR_TIP, _STAR_DENT = 1.22, 0.55
_CROSS_LENGTH, _CROSS_HALF_WIDTH = 1.04, 0.36
_RING_HOLE = 0.54

# The farthest point of each shape from its centre, in radii.
REACH = {
    "circle": 1.0,
    "square": _SQUARE_HALF_SIDE * math.sqrt(2),
    "triangle": 2 * _TRIANGLE_INRADIUS,
    "star": _STAR_TIP,
    "cross": math.hypot(_CROSS_LENGTH, _CROSS_HALF_WIDTH),
    "ring": 1.0,
}


def signed_distance(shape: str, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Distance to the outline of `shape` of radius 1 centred at the origin, negative inside.

    dx to the right, dy downwards, both in radii and of one shape. Exact in sign everywhere and in value away from the
    corners, where it is too small outside: corners stay sharp when it becomes coverage. ValueError for an unknown shape.
    """
    if shape == "circle":
        return np.hypot(dx, dy) - 1
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) - _SQUARE_HALF_SIDE
    if shape == "triangle":  # equilateral, point up, centred on its centroid
        return np.maximum(dy, abs(dx) * (math.sqrt(3) / 2) - dy / 2) - _TRIANGLE_INRADIUS
    if shape == "star":
        return _star_distance(dx, dy)
    if shape == "cross":
        ax, ay = abs(dx), abs(dy)
        upright = np.maximum(ax - _CROSS_HALF_WIDTH, ay - _CROSS_LENGTH)
        level = np.maximum(ay - _CROSS_HALF_WIDTH, ax - _CROSS_LENGTH)
        return np.minimum(upright, level)
    if shape == "ring":
        distance = np.hypot(dx, dy)
        return np.maximum(distance - 1, _RING_HOLE - distance)
    raise ValueError(f"unknown shape {shape!r}; choose one of: {', '.join(REACH)}")


def _star_distance(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    # Five points are ten mirror images of one edge: fold the plane into the sector between a tip and a dent.
    sector = math.pi / 5
    angle = abs((np.arctan2(dx, -dy) + sector) % (2 * sector) - sector)
    distance = np.hypot(dx, dy)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    dent_along, dent_across = _STAR_DENT * math.cos(sector), _STAR_DENT * math.sin(sector)
    edge = math.hypot(dent_along - _STAR_TIP, dent_across)
    return (dent_across * (along - _STAR_TIP) - (dent_along - _STAR_TIP) * across) / edge


def coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """The share of each pixel that `shape` covers, in [0, 1]; dx, dy and radius in pixels."""
    return np.clip(0.5 - radius * signed_distance(shape, dx / radius, dy / radius), 0.0, 1.0)
