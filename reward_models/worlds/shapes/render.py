"""The renderer of the shapes world: a scene and a seed become a 64x64 picture, anti-aliased, with jittered size, place and tint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .captions import COLOURS, Scene, parse
from .geometry import PALETTE, REACH, SIZE, coverage

MIN_GAP = 3.0  # pixels between any two objects
MIN_MARGIN = 2.0  # pixels between an object and the border
MIN_SEPARATION = 16.0  # pixels between the centres along the axis of a relation
MIN_DOMINANCE = 6.0  # pixels by which the distance along that axis exceeds the one across it
_RADII = {1: (7.5, 10.0), 2: (7.0, 9.5), 3: (6.5, 8.5), 4: (6.5, 7.8)}  # pixels, by number of objects
_COLOUR_JITTER = 8  # of 255, per channel
_TRIES_AT_ONCE = 64


@dataclass(frozen=True)
class Placed:
    """One object of a picture: its centre (x to the right, y downwards) and radius in pixels.

    colour: a name of `PALETTE` or an (R, G, B) triple of 0-255. The centre of the top left pixel is (0.5, 0.5).
    """

    shape: str
    colour: str | tuple[float, float, float]
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Layout:
    """All there is in a picture: its objects, in the order of the scene's, and its background as (R, G, B) of 0-255."""

    placed: tuple[Placed, ...]
    background: tuple[float, float, float]


def render(scene: Scene | str, seed: int) -> np.ndarray:
    """The picture of a scene, or of a caption, as uint8 (64, 64, 3); deterministic in its arguments.

    It shows `layout(scene, seed)`. ValueError for a caption that does not parse.
    """
    drawn = layout(scene, seed)
    return render_objects(drawn.placed, drawn.background)


def layout(scene: Scene | str, seed: int) -> Layout:
    """What the picture of a scene, or of a caption, shows where; deterministic in its arguments.

    Objects lie at least 3 px apart and 2 px from the border, on a light, nearly grey background. "A left of B" means
    here that A's centre is at least 16 px to the left of B's, and at least 6 px farther to the left than it is above or
    below; "above" is the same the other way round. A colour that the scene leaves open is drawn at random, one for all
    objects of a counted group. ValueError for a caption that does not parse.
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    rng = np.random.default_rng([seed, 0x5A])
    background = rng.uniform(226, 246) + rng.uniform(-5, 5, size=3)
    colours = [item.colour or COLOURS[int(rng.integers(len(COLOURS)))] for item in scene.items]
    objects = [(item.shape, colour) for item, colour in zip(scene.items, colours, strict=True) for _ in range(item.count)]
    radii, centres = _place([shape for shape, _ in objects], scene.relation, rng)
    placed = tuple(
        Placed(shape, _jittered(colour, rng), float(x), float(y), float(radius))
        for (shape, colour), radius, (x, y) in zip(objects, radii, centres, strict=True)
    )
    return Layout(placed, (float(background[0]), float(background[1]), float(background[2])))


def render_objects(placed: Sequence[Placed], background: tuple[float, float, float]) -> np.ndarray:
    """The picture of objects wherever they are, later ones over earlier ones: uint8 (64, 64, 3).

    background: (R, G, B) of 0-255. Objects may overlap and leave the picture. ValueError for an unknown shape or colour,
    or a radius that is not positive.
    """
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = background
    for one in placed:
        if not one.radius > 0:
            raise ValueError(f"radius {one.radius!r} of {one.shape!r} is not positive; give pixels > 0, such as 8.0")
        if isinstance(one.colour, str) and one.colour not in PALETTE:
            raise ValueError(f"unknown colour {one.colour!r}; choose one of: {', '.join(PALETTE)}, or give (R, G, B)")
        rows, columns = _window(one.y, one.radius), _window(one.x, one.radius)
        dx = np.arange(columns.start, columns.stop) + 0.5 - one.x
        dy = np.arange(rows.start, rows.stop) + 0.5 - one.y
        alpha = coverage(one.shape, dx[None, :], dy[:, None], one.radius)[..., None]
        colour = np.asarray(PALETTE[one.colour] if isinstance(one.colour, str) else one.colour, dtype=float)
        picture[rows, columns] += alpha * (colour - picture[rows, columns])
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _window(centre: float, radius: float) -> slice:
    """The pixels of one axis that an object may touch."""
    reach = radius * max(REACH.values()) + 1
    return slice(min(SIZE, max(0, math.floor(centre - reach))), max(0, min(SIZE, math.ceil(centre + reach))))


def _jittered(colour: str, rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = np.clip(PALETTE[colour] + rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, size=3), 0, 255)
    return float(red), float(green), float(blue)


def _place(shapes: list[str], relation: str | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Radii (N,) and centres (N, 2) in pixels that keep every distance `render` promises, by rejection."""
    count = len(shapes)
    reach = np.array([REACH[shape] for shape in shapes])
    first, second = np.triu_indices(count, 1)
    low, high = _RADII[count]
    while True:
        radii = rng.uniform(low, high, size=(_TRIES_AT_ONCE, count))
        margin = (reach * radii + MIN_MARGIN)[..., None]
        centres = margin + rng.random((_TRIES_AT_ONCE, count, 2)) * (SIZE - 2 * margin)
        offsets = centres[:, second] - centres[:, first]
        needed = (reach * radii)[:, first] + (reach * radii)[:, second] + MIN_GAP
        fits = (np.hypot(offsets[..., 0], offsets[..., 1]) >= needed).all(axis=1)
        if relation is not None:
            axis = 0 if relation == "left of" else 1
            along, across = offsets[:, 0, axis], abs(offsets[:, 0, 1 - axis])
            fits &= (along >= MIN_SEPARATION) & (along >= across + MIN_DOMINANCE)
        if fits.any():
            index = int(fits.argmax())
            return radii[index], centres[index]
