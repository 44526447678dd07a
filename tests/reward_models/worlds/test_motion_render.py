"""The renderer of the motion world: deterministic, keeps its distances and speeds, changes at the middle; and the reader of its clips."""

from itertools import combinations

import numpy as np
import pytest

from reward_models.worlds.motion import (
    COLOURS,
    SHAPES,
    SIZE,
    Path,
    layout,
    motion_magnitude,
    parse,
    prompts,
    read,
    render,
    render_paths,
)
from reward_models.worlds.motion.render import DIRECTIONS
from reward_models.worlds.shapes.geometry import PALETTE, REACH

LIGHT = (236.0, 236.0, 236.0)


def path_at(places, shape="circle", colour=(218.0, 38.0, 42.0), radius=5.0):
    return Path(shape, colour, radius, np.array(places, dtype=float))


def test_a_clip_depends_on_scene_and_seed_alone():
    text = "a red circle rises while a blue star falls"
    first = render(text, 5)
    assert first.dtype == np.uint8
    assert first.shape == (17, SIZE, SIZE, 3)
    assert np.array_equal(first, render("a blue star drops as a red circle goes up", 5))
    assert np.array_equal(first, render(parse(text), 5))
    assert not np.array_equal(first, render(text, 6))


@pytest.mark.parametrize("frames", [5, 13, 17, 33])
def test_layouts_keep_their_distances_and_promises(frames):
    slower = min(1.0, 16 / (frames - 1))
    speeds = {"slowly": (0.25, 0.35), "fast": (0.85, 1.0)}
    for seed, one in enumerate(prompts("train", 120, 1)):
        scene = parse(one.text)
        paths = layout(scene, seed, frames).paths
        for item, path in zip(scene.items, paths, strict=True):
            assert path.shape == item.shape
            assert path.centres.shape == (frames, 2)
            assert 4.0 <= path.radius <= 5.5
            reach = REACH[path.shape] * path.radius
            assert path.centres.min() >= reach + 1 - 1e-9
            assert path.centres.max() <= SIZE - reach - 1 + 1e-9
            steps = np.diff(path.centres, axis=0) / slower
            for motion, of_phase in zip(item.motions, np.split(steps, len(item.motions)), strict=True):
                assert np.allclose(of_phase, of_phase[0])
                speed = float(of_phase[0] @ DIRECTIONS[motion])
                assert np.allclose(of_phase[0], speed * np.array(DIRECTIONS[motion]))
                low, high = speeds.get(item.speed, (0.45, 0.85))
                assert motion == "stay" or low <= speed <= high
        for a, b in combinations(paths, 2):
            apart = np.hypot(*(a.centres - b.centres).T).min()
            assert apart >= REACH[a.shape] * a.radius + REACH[b.shape] * b.radius + 2 - 1e-9


def test_a_clip_by_hand():
    """A square of 0.86 * 5 = 4.3 pixels to each side of (10, 16), one pixel to the right in every frame."""
    video = render_paths([path_at([(10 + frame, 16) for frame in range(5)], "square")], LIGHT)
    for frame in range(5):
        red = (video[frame] == (218, 38, 42)).all(axis=2)
        assert np.flatnonzero(red.any(axis=0)).tolist() == list(range(6 + frame, 14 + frame))
        assert np.flatnonzero(red.any(axis=1)).tolist() == list(range(12, 20))
        assert tuple(video[frame, 0, 0]) == (236, 236, 236)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: render("a dog moves", 0), "unknown word 'dog'"),
        (lambda: render("a red star rises", 0, frames=16), r"16 frames .*4n \+ 1, at least 5"),
        (lambda: render("a red star rises", 0, frames=1), "1 frames are no whole segments"),
        (lambda: render_paths([], LIGHT), "no paths.*give at least one"),
        (lambda: render_paths([path_at([(9, 9)], radius=0)], LIGHT), "radius 0 .*not positive"),
        (lambda: render_paths([path_at([(9, 9)], "blob")], LIGHT), "unknown shape 'blob'.*circle"),
        (lambda: read(np.zeros((17, 64, 64, 3), np.uint8)), r"video is uint8 \(17, 64, 64, 3\); give uint8 \(frames, 32, 32, 3\)"),
        (lambda: read(np.zeros((17, 32, 32, 3))), "video is float64"),
        (lambda: read(np.zeros((4, 32, 32, 3), np.uint8)), "video has 4 frames; give at least 5"),
    ],
)
def test_what_cannot_be_drawn_or_read_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_drawn_is_read(shape, colour):
    places = np.stack([np.linspace(9.3, 21.7, 5), np.linspace(20.2, 14.1, 5)], axis=1)
    reading = read(render_paths([path_at(places, shape, PALETTE[colour], 4.4)], LIGHT))
    (track,) = reading.tracks
    assert (track.likeliest_shape, track.likeliest_colour) == (shape, colour)
    assert abs(track.centre - places).max() < 0.15
    assert abs(track.colour - PALETTE[colour]).max() < 2
    assert track.foreign.max() == reading.stray.max() == reading.roughness.max() == 0.0
    assert reading.found.tolist() == [1] * 5


def test_tracks_keep_to_their_objects_through_a_gap_and_a_leap():
    red = path_at([(8 + frame, 8) for frame in range(9)])
    blue = path_at([(8 + frame, 23) for frame in range(9)], "star", PALETTE["blue"])
    video = render_paths([red, blue], LIGHT)
    video[4] = render_paths([red], LIGHT)[4]
    red.centres[6] = 25, 8
    video[6] = render_paths([red, blue], LIGHT)[6]
    one, other = read(video).tracks
    assert (one.likeliest_colour, other.likeliest_colour) == ("red", "blue")
    assert one.seen.all()
    assert other.seen.tolist() == [frame != 4 for frame in range(9)]
    assert one.centre[6] == pytest.approx((25, 8), abs=0.2)


def test_motion_magnitude_by_hand():
    still = [(16, 16)] * 9
    assert motion_magnitude(render_paths([path_at(still)], LIGHT)) == 0.0
    walk = [(8 + 0.75 * frame, 8) for frame in range(9)]
    assert motion_magnitude(render_paths([path_at(walk)], LIGHT)) == pytest.approx(0.75, abs=0.03)
    both = [path_at(walk), path_at([(16, 24)] * 9, "star", PALETTE["blue"])]
    assert motion_magnitude(render_paths(both, LIGHT)) == pytest.approx(0.375, abs=0.02)
    trembling = [(16 + 0.4 * (frame % 2), 16) for frame in range(9)]
    assert motion_magnitude(render_paths([path_at(trembling)], LIGHT)) < 0.05
    assert motion_magnitude(np.full((9, SIZE, SIZE, 3), 236, np.uint8)) == 0.0
