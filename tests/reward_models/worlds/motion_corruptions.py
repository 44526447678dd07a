"""Ways to spoil a true clip of the motion world, each by itself: in one segment, or as a whole.

Each returns the spoiled clip, or None where it does not apply to the scene, or finds no room in the picture.
"""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from reward_models.worlds.motion import COLOURS, SEGMENT, SHAPES, SIZE, Item, Path, compose, layout, parse, prompts, render_paths
from reward_models.worlds.motion.render import DIRECTIONS
from reward_models.worlds.shapes.geometry import PALETTE, REACH


def examples(count, seed, split="train"):
    """(scene, seed, layout) of `count` prompts."""
    for index, one in enumerate(prompts(split, count, seed)):
        scene = parse(one.text)
        yield scene, index, layout(scene, index)


def motion_in(item, segment, segments=4):
    return item.motions[segment * len(item.motions) // segments]


def frames_of(segment):
    return slice(1 + segment * SEGMENT, 1 + (segment + 1) * SEGMENT)


def has_room(paths):
    """Whether all objects stay in the picture and apart."""
    reach = [REACH[path.shape] * path.radius for path in paths]
    inside = all((path.centres > r).all() and (path.centres < SIZE - r).all() for path, r in zip(paths, reach, strict=True))
    apart = (
        np.hypot(*(a.centres - b.centres).T).min() >= ra + rb + 1 for (a, ra), (b, rb) in combinations(zip(paths, reach, strict=True), 2)
    )
    return inside and all(apart)


def with_path(drawn, index, path):
    """The clip with another path for one object, or None where there is no room for it."""
    paths = [path if at == index else one for at, one in enumerate(drawn.paths)]
    return render_paths(paths, drawn.background) if has_room(paths) else None


def spliced(drawn, frames, other):
    """The true clip with these frames of another one."""
    video = render_paths(drawn.paths, drawn.background)
    video[frames] = other[frames]
    return video


def faded(path, background, part):
    return replace(path, colour=tuple(b + part * (c - b) for c, b in zip(path.colour, background, strict=True)))


def repainted(drawn, frames, index, **changes):
    """The true clip with one object changed in these frames."""
    paths = [replace(one, **changes) if at == index else one for at, one in enumerate(drawn.paths)]
    return spliced(drawn, frames, render_paths(paths, drawn.background))


def own_colour(path):
    return min(COLOURS, key=lambda colour: math.dist(PALETTE[colour], path.colour))


def another(names, own, rng):
    return str(rng.choice([name for name in names if name != own]))


# In one segment ------------------------------------------------------------------------------------


def moved_otherwise(scene, drawn, segment, rng, choose):
    """One object moves at the velocity that `choose` gives in the segment, and goes on from there as it should."""
    for index in rng.permutation(len(drawn.paths)):
        steps = np.diff(drawn.paths[index].centres, axis=0)
        inside = slice(segment * SEGMENT, (segment + 1) * SEGMENT)
        for velocity in choose(motion_in(scene.items[index], segment), steps[inside].mean(axis=0), rng):
            steps[inside] = velocity
            start = drawn.paths[index].centres[:1]
            video = with_path(drawn, index, replace(drawn.paths[index], centres=np.concatenate([start, start + steps.cumsum(axis=0)])))
            if video is not None:
                return video
    return None


def _wrong_ways(motion, velocity, rng):
    if motion == "stay":
        return []
    turned = [np.array([-velocity[1], velocity[0]]), -velocity, np.array([velocity[1], -velocity[0]])]
    return [turned[at] for at in rng.permutation(3)]


def _none(motion, velocity, rng):
    return [] if motion == "stay" else [np.zeros(2)]


def _any_way(motion, velocity, rng):
    speed = rng.uniform(0.4, 0.8)
    return [speed * np.array(way) for name, way in DIRECTIONS.items() if name != "stay"] if motion == "stay" else []


wrong_direction = partial(moved_otherwise, choose=_wrong_ways)
frozen_segment = partial(moved_otherwise, choose=_none)
moving_instead = partial(moved_otherwise, choose=_any_way)


def wrong_colour(scene, drawn, segment, rng):
    index = int(rng.integers(len(drawn.paths)))
    return repainted(drawn, frames_of(segment), index, colour=PALETTE[another(COLOURS, own_colour(drawn.paths[index]), rng)])


def wrong_shape(scene, drawn, segment, rng):
    index = int(rng.integers(len(drawn.paths)))
    return repainted(drawn, frames_of(segment), index, shape=another(SHAPES, drawn.paths[index].shape, rng))


def shape_for_a_frame(scene, drawn, segment, rng):
    """One object of another shape in one frame."""
    index, first = int(rng.integers(len(drawn.paths))), 1 + segment * SEGMENT + int(rng.integers(SEGMENT))
    return repainted(drawn, slice(first, first + 1), index, shape=another(SHAPES, drawn.paths[index].shape, rng))


def exchanged_shapes(scene, drawn, segment, rng):
    """Two objects with each other's shapes in one frame."""
    if len({path.shape for path in drawn.paths}) == 1:
        return None
    first = 1 + segment * SEGMENT + int(rng.integers(SEGMENT))
    paths = [replace(one, shape=other.shape) for one, other in zip(drawn.paths, drawn.paths[::-1], strict=True)]
    return spliced(drawn, slice(first, first + 1), render_paths(paths, drawn.background))


def vanished(scene, drawn, segment, rng):
    index = int(rng.integers(len(drawn.paths)))
    return repainted(drawn, frames_of(segment), index, colour=drawn.background)


def blinking(scene, drawn, segment, rng):
    """One object absent, or at most half as strong, in one or two frames."""
    index, first = int(rng.integers(len(drawn.paths))), 1 + segment * SEGMENT + int(rng.integers(3))
    dim = faded(drawn.paths[index], drawn.background, float(rng.choice([0.0, 0.25, 0.5])))
    return repainted(drawn, slice(first, first + int(rng.integers(1, 3))), index, colour=dim.colour)


def background_jump(scene, drawn, segment, rng):
    """The background, not the objects, darker by 15 to 40 of 255 in one or two frames."""
    darker = rng.uniform(15, 40)
    background = tuple(level - darker for level in drawn.background)
    first = 1 + segment * SEGMENT + int(rng.integers(3))
    return spliced(drawn, slice(first, first + int(rng.integers(1, 3))), render_paths(drawn.paths, background))


def teleport(scene, drawn, segment, rng):
    """One object 4 to 9 pixels away in one frame."""
    frame, index = 1 + segment * SEGMENT + int(rng.integers(SEGMENT)), int(rng.integers(len(drawn.paths)))
    for angle in rng.uniform(0, 2 * math.pi, 20):
        centres = drawn.paths[index].centres.copy()
        centres[frame] += rng.uniform(4, 9) * np.array([math.cos(angle), math.sin(angle)])
        video = with_path(drawn, index, replace(drawn.paths[index], centres=centres))
        if video is not None:
            return video
    return None


def guest(drawn, rng):
    """One more object that stays where there is room, or None."""
    frames = len(drawn.paths[0].centres)
    for place in rng.uniform(6, SIZE - 6, (100, 2)):
        one = Path(str(rng.choice(SHAPES)), PALETTE[str(rng.choice(COLOURS))], 4.0, np.tile(place, (frames, 1)))
        if has_room([*drawn.paths, one]):
            return one
    return None


def extra_object(scene, drawn, segment, rng):
    one = guest(drawn, rng)
    return None if one is None else spliced(drawn, frames_of(segment), render_paths([*drawn.paths, one], drawn.background))


def noisy(scene, drawn, segment, rng):
    """Noise of 40 of 255 over everything."""
    video = render_paths(drawn.paths, drawn.background)
    frames = frames_of(segment)
    video[frames] = np.clip(video[frames] + rng.normal(0, 40, video[frames].shape), 0, 255)
    return video


IN_SEGMENT = {
    "wrong_direction": wrong_direction,
    "frozen_segment": frozen_segment,
    "moving_instead": moving_instead,
    "wrong_colour": wrong_colour,
    "wrong_shape": wrong_shape,
    "shape_for_a_frame": shape_for_a_frame,
    "exchanged_shapes": exchanged_shapes,
    "vanished": vanished,
    "blinking": blinking,
    "background_jump": background_jump,
    "teleport": teleport,
    "extra_object": extra_object,
    "noisy": noisy,
}


# As a whole ----------------------------------------------------------------------------------------


def true_clip(drawn):
    return render_paths(drawn.paths, drawn.background)


def frozen(scene, drawn, rng):
    moves = any(motion != "stay" for item in scene.items for motion in item.motions)
    return np.repeat(true_clip(drawn)[:1], len(drawn.paths[0].centres), axis=0) if moves else None


def reversed_clip(scene, drawn, rng):
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "stay": "stay"}
    backwards = [tuple(opposite[motion] for motion in item.motions[::-1]) for item in scene.items]
    return true_clip(drawn)[::-1] if backwards != [item.motions for item in scene.items] else None


def of_other_items(scene, rng, change):
    """A true clip of the scene with its items changed."""
    items = tuple(change(item) for item in scene.items)
    return true_clip(layout(compose(items), int(rng.integers(2**31))))


def swapped_phases(scene, drawn, rng):
    return of_other_items(scene, rng, lambda item: replace(item, motions=item.motions[::-1])) if scene.phases == 2 else None


def wrong_speed(scene, drawn, rng):
    other = {"slowly": "fast", "fast": "slowly"}
    return of_other_items(scene, rng, lambda item: replace(item, speed=other[item.speed])) if scene.task == "speed" else None


def swapped_roles(scene, drawn, rng):
    """Each of two objects does what the other should."""
    if len(scene.items) == 1 or scene.items[0].motions == scene.items[1].motions:
        return None
    first, second = scene.items
    items = (Item(first.shape, first.colour, second.motions), Item(second.shape, second.colour, first.motions))
    return true_clip(layout(compose(items), int(rng.integers(2**31))))


def shape_across_a_boundary(scene, drawn, rng):
    """One object of another shape in the last frame of a segment and the first of the next."""
    index, last = int(rng.integers(len(drawn.paths))), SEGMENT * int(rng.integers(1, 4))
    return repainted(drawn, slice(last, last + 2), index, shape=another(SHAPES, drawn.paths[index].shape, rng))


def missing_object(scene, drawn, rng):
    index = int(rng.integers(len(drawn.paths)))
    return render_paths([faded(one, drawn.background, 0.0) if at == index else one for at, one in enumerate(drawn.paths)], drawn.background)


def guest_throughout(scene, drawn, rng):
    one = guest(drawn, rng)
    return None if one is None else render_paths([*drawn.paths, one], drawn.background)


def blank(scene, drawn, rng):
    return np.broadcast_to(np.rint(drawn.background).astype(np.uint8), true_clip(drawn).shape).copy()


def noise(scene, drawn, rng):
    return rng.integers(0, 256, true_clip(drawn).shape, dtype=np.uint8)


def static_noise(scene, drawn, rng):
    """The same noise of 30 of 255 behind and over everything in every frame."""
    video = true_clip(drawn)
    return np.clip(video + rng.normal(0, 30, video.shape[1:]), 0, 255).astype(np.uint8)


AS_A_WHOLE = {
    "frozen": frozen,
    "reversed_clip": reversed_clip,
    "swapped_phases": swapped_phases,
    "wrong_speed": wrong_speed,
    "swapped_roles": swapped_roles,
    "shape_across_a_boundary": shape_across_a_boundary,
    "missing_object": missing_object,
    "guest_throughout": guest_throughout,
    "blank": blank,
    "noise": noise,
    "static_noise": static_noise,
}
