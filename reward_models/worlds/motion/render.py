"""The renderer of the motion world: a scene and a seed become a clip of 32x32 frames, with jittered size, place, speed and tint."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_models.worlds.shapes.geometry import PALETTE, REACH, coverage

from .captions import Item, Scene, parse
from .timing import FRAMES, SIZE, check_whole, pace

MIN_GAP = 2.0  # pixels between two objects
MIN_MARGIN = 1.0  # pixels between an object and the border
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "stay": (0, 0)}  # x to the right, y downwards

_RADII = {1: (4.0, 5.5), 2: (4.0, 4.8)}  # pixels, by number of objects
# Pixels per frame. What the caption leaves open lies between slowly and fast; half a clip gives room for more.
_SPEEDS = {"slowly": (0.25, 0.35), None: (0.45, 0.72), "fast": (0.85, 1.0)}
_PHASE_SPEEDS = (0.5, 0.85)
_COLOUR_JITTER = 8  # of 255, per channel
_TRIES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Path:
    """One object of a clip and where it is: centres (T, 2) of x to the right and y downwards, radius, in pixels; colour (R, G, B) of 0-255.

    The centre of the top left pixel is (0.5, 0.5).
    """

    shape: str
    colour: tuple[float, float, float]
    radius: float
    centres: np.ndarray


@dataclass(frozen=True, eq=False)
class Layout:
    """All there is in a clip: its objects, in the order of the scene's, and its background as (R, G, B) of 0-255."""

    paths: tuple[Path, ...]
    background: tuple[float, float, float]


def render(scene: Scene | str, seed: int, frames: int = FRAMES) -> np.ndarray:
    """The clip of a scene, or of a caption, as uint8 (frames, 32, 32, 3); deterministic in its arguments.

    It shows `layout(scene, seed, frames)`. ValueError for a caption that does not parse, or frames that are not 4n + 1 >= 5.
    """
    drawn = layout(scene, seed, frames)
    return render_paths(drawn.paths, drawn.background)


def layout(scene: Scene | str, seed: int, frames: int = FRAMES) -> Layout:
    """What the clip of a scene, or of a caption, shows where; deterministic in its arguments.

    Objects keep 1 px from the border and 2 px from each other in every frame, on a light, nearly grey background. They
    move straight at a constant speed, 0.25 to 0.35 px a frame slowly, 0.85 to 1 fast, and between these where the caption leaves
    it open; of two phases the second begins at the middle frame. Clips of more than 17 frames are slower (`pace`).
    """
    scene = parse(scene) if isinstance(scene, str) else scene
    check_whole(frames)
    rng = np.random.default_rng([seed, 0x30])
    background = rng.uniform(226, 246) + rng.uniform(-5, 5, size=3)
    colours = [np.clip(PALETTE[item.colour] + rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, size=3), 0, 255) for item in scene.items]
    radii, centres = _place(scene.items, frames, rng)
    paths = tuple(
        Path(item.shape, _triple(colour), float(radius), path)
        for item, colour, radius, path in zip(scene.items, colours, radii, centres, strict=True)
    )
    return Layout(paths, _triple(background))


def render_paths(paths: Sequence[Path], background: tuple[float, float, float]) -> np.ndarray:
    """The clip of objects wherever they are, later ones over earlier ones: uint8 (T, 32, 32, 3).

    background: (R, G, B) of 0-255. Objects may overlap and leave the picture. ValueError for no objects, an unknown shape, or a radius
    that is not positive.
    """
    if not paths:
        raise ValueError("no paths, so no number of frames; give at least one Path")
    video = np.empty((len(paths[0].centres), SIZE, SIZE, 3))
    video[:] = background
    pixels = np.arange(SIZE) + 0.5
    for path in paths:
        if not path.radius > 0:
            raise ValueError(f"radius {path.radius!r} of {path.shape!r} is not positive; give pixels > 0, such as 5.0")
        dx = pixels[None, None, :] - path.centres[:, 0, None, None]
        dy = pixels[None, :, None] - path.centres[:, 1, None, None]
        video += coverage(path.shape, dx, dy, path.radius)[..., None] * (np.asarray(path.colour) - video)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _place(items: Sequence[Item], frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Radii (N,) and centres (N, T, 2) in pixels that keep every distance `layout` promises, by rejection."""
    reach = np.array([REACH[item.shape] for item in items])
    while True:
        radii = rng.uniform(*_RADII[len(items)], size=(_TRIES_AT_ONCE, len(items)))
        travel = np.stack([_travel(item, frames, rng) for item in items], axis=1)
        margin = (reach * radii + MIN_MARGIN)[..., None]
        low, high = margin - travel.min(axis=2), SIZE - margin - travel.max(axis=2)
        centres = (low + rng.random(low.shape) * (high - low))[:, :, None] + travel
        fits = (low <= high).all(axis=(1, 2))
        if len(items) == 2:
            distance = np.hypot(*np.moveaxis(centres[:, 0] - centres[:, 1], -1, 0)).min(axis=1)
            fits &= distance >= (reach * radii).sum(axis=1) + MIN_GAP
        if fits.any():
            index = int(fits.argmax())
            return radii[index], centres[index]


def _travel(item: Item, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Displacements (tries, T, 2) in pixels of an object from where it starts."""
    phases = len(item.motions)
    low, high = _SPEEDS[item.speed] if phases == 1 else _PHASE_SPEEDS
    speeds = rng.uniform(low, high, size=(_TRIES_AT_ONCE, phases, 1)) * pace(frames)
    velocities = speeds * np.array([DIRECTIONS[motion] for motion in item.motions])
    steps = np.repeat(velocities, (frames - 1) // phases, axis=1)
    return np.concatenate([np.zeros((_TRIES_AT_ONCE, 1, 2)), steps.cumsum(axis=1)], axis=1)
