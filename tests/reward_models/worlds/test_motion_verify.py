"""The verifier of the motion world: exact on renders, also degraded ones, not fooled by corruptions, smooth where truth is."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from motion_corruptions import AS_A_WHOLE, IN_SEGMENT, examples, faded
from scipy import ndimage

from reward_models.worlds.motion import (
    COLOURS,
    DIMENSIONS,
    SHAPES,
    SIZE,
    SPLITS,
    TASKS,
    Path,
    layout,
    parse,
    prompts,
    render,
    render_paths,
    verify,
)
from reward_models.worlds.shapes.geometry import PALETTE

LIGHT = (236.0, 236.0, 236.0)


def blurred(video, seed, blur=0.5, noise=6.0):
    """A Gaussian blur of every frame, in pixels, and noise, of 255."""
    soft = ndimage.gaussian_filter(video.astype(float), (0, blur, blur, 0))
    return np.clip(np.rint(soft + np.random.default_rng(seed).normal(0, noise, video.shape)), 0, 255).astype(np.uint8)


def boxed(video, seed):
    """Every 2x2 pixels replaced by their mean."""
    halved = video.reshape(len(video), SIZE // 2, 2, SIZE // 2, 2, 3).mean(axis=(2, 4))
    return np.rint(halved).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)


def quantised(video, seed):
    """Sixteen levels a channel, as from few bits."""
    return (video // 16 * 16 + 8).astype(np.uint8)


def share_true(count, seed, degrade=None, frames=17):
    """The share of renders, over all splits, that are wholly true, and the tasks they were of."""
    true, tasks = 0.0, Counter()
    for split in SPLITS:
        for index, one in enumerate(prompts(split, count // len(SPLITS), seed)):
            video = render(one.text, index, frames)
            true += verify(one.text, video if degrade is None else degrade(video, index))["overall"]
            tasks[one.task] += 1
    assert set(tasks) == set(TASKS)
    return true / tasks.total()


def test_renders_are_true():
    assert share_true(300, 11) == 1.0


@pytest.mark.long
def test_ten_thousand_renders_are_true():
    assert share_true(10_000, 11) == 1.0


@pytest.mark.parametrize("frames", [9, 13, 33])
def test_renders_of_other_lengths_are_true(frames):
    assert share_true(60, 12, frames=frames) == 1.0


UNEVEN = [(9, 6), (9, 7), (9, 8), (13, 10), (13, 11), (13, 12), (17, 14), (17, 15), (17, 16)]  # rendered, and cut to


@pytest.mark.parametrize(("whole", "frames"), UNEVEN)
def test_renders_cut_within_a_segment_are_true(whole, frames):
    assert share_true(60, 12, lambda video, _: video[:frames], whole) == 1.0


def noise_after(video, frame, seed):
    video = video.copy()
    video[frame:] = np.random.default_rng(seed).integers(0, 256, video[frame:].shape)
    return video


@pytest.mark.parametrize(("whole", "frames"), UNEVEN)
def test_no_clip_is_true_whose_last_frames_are_noise(whole, frames):
    """However many of them follow the last whole segment, and the last one alone."""
    for first in (frames - (frames - 1) % 4, frames - 1):
        assert share_true(60, 12, lambda video, seed, first=first: noise_after(video[:frames], first, seed), whole) == 0.0


def test_a_tail_that_turns_around_is_not_true():
    video = render("a red star rises", 1)
    assert verify("a red star rises", video[:15])["overall"] == verify("a red star rises", video[:16])["overall"] == 1.0
    for back in (2, 3):
        turned = np.concatenate([video[:13], video[11 : 11 - back : -1]])
        assert len(turned) == 13 + back and verify("a red star rises", turned)["overall"] == 0.0


@pytest.mark.parametrize(("degrade", "least"), [(blurred, 0.98), (quantised, 0.98), (boxed, 0.95)], ids=["blurred", "quantised", "boxed"])
def test_degraded_renders_are_true(degrade, least):
    assert share_true(120, 13, degrade) >= least


@pytest.mark.long
@pytest.mark.parametrize(("degrade", "least"), [(blurred, 0.98), (quantised, 0.98), (boxed, 0.95)], ids=["blurred", "quantised", "boxed"])
def test_thousands_of_degraded_renders_are_true(degrade, least):
    assert share_true(3000, 14, degrade) >= least


def assert_whole_corruption_is_never_true(name, count):
    spoiled = 0
    for scene, index, drawn in examples(count, 21):
        video = AS_A_WHOLE[name](scene, drawn, np.random.default_rng(index))
        if video is not None:
            result = verify(scene, video)
            assert result["overall"] == 0.0, (scene, index)
            assert result["score"] < 0.97
            spoiled += 1
    assert spoiled >= count // 8


@pytest.mark.parametrize("name", AS_A_WHOLE)
def test_clips_spoiled_as_a_whole_are_never_true(name):
    assert_whole_corruption_is_never_true(name, 40)


@pytest.mark.long
@pytest.mark.parametrize("name", AS_A_WHOLE)
def test_thousands_of_clips_spoiled_as_a_whole_are_never_true(name):
    assert_whole_corruption_is_never_true(name, 5000)


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("wrong_direction", "direction"),
        ("frozen_segment", "direction"),
        ("wrong_colour", "colour"),
        ("wrong_shape", "shape"),
        ("vanished", "objects"),
        ("teleport", "smoothness"),
        ("wrong_colour", "identity"),
        ("wrong_shape", "identity"),
        ("shape_for_a_frame", "identity"),
        ("blinking", "flicker"),
        ("background_jump", "flicker"),
        ("extra_object", "objects"),
        ("noisy", "fidelity"),
    ],
)
def test_a_corruption_shows_in_its_dimension(name, dimension):
    judged = 0
    for scene, index, drawn in examples(12, 22):
        video = IN_SEGMENT[name](scene, drawn, index % 4, np.random.default_rng(index))
        if video is not None:
            true = verify(scene, render_paths(drawn.paths, drawn.background))
            assert verify(scene, video)[dimension] < true[dimension] - 0.06
            judged += 1
    assert judged >= 10


def adversarial():
    rng = np.random.default_rng(0)
    everywhere = [
        Path(shape, PALETTE[colour], 2.6, np.tile((3 + 5.2 * i, 4 + 8 * j), (17, 1)))
        for j, shape in enumerate(SHAPES)
        for i, colour in enumerate(COLOURS)
    ]
    four = [Path(SHAPES[i], PALETTE[COLOURS[i]], 4.5, np.tile((8 + 16 * (i % 2), 8 + 16 * (i // 2)), (17, 1))) for i in range(4)]
    waves = ndimage.gaussian_filter(rng.uniform(0, 255, (17, SIZE, SIZE, 3)), (1, 3, 3, 0))
    moving = np.stack([np.roll(render_paths(four, LIGHT)[0], frame, axis=1) for frame in range(17)])
    return {
        "blank": np.full((17, SIZE, SIZE, 3), 236, np.uint8),
        "black": np.zeros((17, SIZE, SIZE, 3), np.uint8),
        "red": np.full((17, SIZE, SIZE, 3), PALETTE["red"], np.uint8),
        "noise": rng.integers(0, 256, (17, SIZE, SIZE, 3), dtype=np.uint8),
        "waves": ((waves - waves.min()) / np.ptp(waves) * 255).astype(np.uint8),
        "everything": render_paths(everywhere, LIGHT),
        "four objects": render_paths(four, LIGHT),
        "four objects that move": moving,
        "a new clip every frame": np.concatenate([render(one.text, seed)[:1] for seed, one in enumerate(prompts("train", 17, 3))]),
        "strobe": np.stack([np.full((SIZE, SIZE, 3), 236 * (frame % 2), np.uint8) for frame in range(17)]),
    }


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_clips_score_low_for_every_caption(name):
    video = adversarial()[name]
    for one in prompts("train", 25, 31):
        result = verify(one.text, video)
        assert result["overall"] == 0.0
        assert result["score"] < 0.5
        assert tuple(result) == DIMENSIONS
        assert all(type(value) is float and 0.0 <= value <= 1.0 for value in result.values())
        assert result["score"] == pytest.approx(sum(list(result.values())[:9]) / 9)


def walk(velocity, start=(10.0, 16.0), frames=17):
    return np.array(start) + np.arange(frames)[:, None] * np.array(velocity, dtype=float)


def clip(centres, shape="circle", colour="red", radius=4.5):
    return render_paths([Path(shape, PALETTE[colour], radius, centres)], LIGHT)


def test_speed_falls_smoothly_from_fast_to_slow():
    speeds = np.arange(0.2, 1.01, 0.1)
    fast = [verify("a red circle moves right fast", clip(walk((speed, 0), (8, 16)))) for speed in speeds]
    slow = [verify("a red circle moves right slowly", clip(walk((speed, 0), (8, 16)))) for speed in speeds]
    assert [one["overall"] for one in fast] == [float(speed > 0.65) for speed in speeds]
    assert [one["overall"] for one in slow] == [float(speed < 0.55) for speed in speeds]
    assert all(after["speed"] >= before["speed"] - 0.01 for before, after in pairwise(fast))
    assert all(after["speed"] <= before["speed"] + 0.01 for before, after in pairwise(slow))
    assert all(verify("a red circle moves right", clip(walk((speed, 0), (8, 16))))["overall"] for speed in speeds)


def test_direction_falls_smoothly_as_the_way_turns():
    turns = np.radians([0, 10, 20, 30, 40, 50, 90, 180])
    ways = [walk((0.5 * np.cos(turn), 0.5 * np.sin(turn)), (14 - 4 * np.cos(turn), 12)) for turn in turns]
    results = [verify("a red circle moves right", clip(way)) for way in ways]
    values = [one["direction"] for one in results]
    assert values[:3] == [1.0] * 3
    assert values[-3:] == [0.0] * 3
    assert all(after <= before for before, after in pairwise(values))
    assert [one["overall"] for one in results] == [1.0] * 4 + [0.0] * 4


@pytest.mark.parametrize("frames", [13, 17])
@pytest.mark.parametrize(("off", "overall"), [(-4, 0.0), (-2, 1.0), (-1, 1.0), (0, 1.0), (1, 1.0), (2, 1.0), (4, 0.0)])
def test_the_change_of_motion_may_miss_the_middle_by_two_frames(frames, off, overall):
    change = (frames - 1) // 2 + off
    steps = np.where(np.arange(frames - 1)[:, None] < change, (0.7, 0), (0, 0.7))
    centres = 8.0 + np.concatenate([np.zeros((1, 2)), steps.cumsum(axis=0)])
    result = verify("a red circle moves right then moves down", clip(centres))
    assert result["overall"] == overall
    assert result["direction"] == pytest.approx(1.0, abs=1e-6) if overall else result["direction"] < 0.9


def test_staying_is_not_drifting():
    drifts = [0.0, 0.05, 0.1, 0.2, 0.3]
    results = [verify("a red circle stays", clip(walk((drift, 0)))) for drift in drifts]
    assert [one["overall"] for one in results] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert all(after["direction"] <= before["direction"] for before, after in pairwise(results))


@pytest.mark.parametrize(("own", "other"), list(permutations(SHAPES, 2)))
def test_no_frame_may_be_of_another_shape(own, other):
    for radius, first, frames in ((4.0, 0, 1), (4.0, 6, 1), (5.5, 8, 1), (4.0, 8, 2), (5.5, 10, 2)):
        video = clip(walk((0.6, 0)), own, radius=radius)
        assert verify(f"a red {own} moves right", video)["overall"] == 1.0
        video[first : first + frames] = clip(walk((0.6, 0)), other, radius=radius)[first : first + frames]
        result = verify(f"a red {own} moves right", video)
        assert result["overall"] == 0.0 and result["identity"] < 0.6


def test_identity_falls_smoothly_as_a_frame_turns_into_another_shape():
    true, other = clip(walk((0.6, 0))), clip(walk((0.6, 0)), "square")
    results = []
    for part in np.arange(0, 1.01, 0.1):
        video = true.copy()
        video[6] = np.rint((1 - part) * true[6] + part * other[6])
        results.append(verify("a red circle moves right", video))
    values = [one["identity"] for one in results]
    assert min(values[:6]) > 0.97 and values[-1] < 0.5
    assert all(-0.3 < after - before < 0.01 for before, after in pairwise(values))
    assert [one["overall"] for one in results] == sorted((one["overall"] for one in results), reverse=True)


def test_score_falls_with_the_share_of_frames_that_are_wrong():
    true, other = clip(walk((0.6, 0))), clip(walk((0.6, 0)), colour="blue")
    mixed = [np.concatenate([true[: 17 - wrong], other[17 - wrong :]]) for wrong in range(0, 17, 4)]
    scores = [verify("a red circle moves right", video)["score"] for video in mixed]
    assert scores[0] > 0.99
    assert all(after < before - 0.02 for before, after in pairwise(scores))


def test_score_falls_with_noise_blur_and_dimming():
    true, path = clip(walk((0.6, 0))), Path("circle", PALETTE["red"], 4.5, walk((0.6, 0)))
    noisy = [verify("a red circle moves right", blurred(true, 0, 0.0, noise))["score"] for noise in (0, 10, 20, 40, 80)]
    soft = [verify("a red circle moves right", blurred(true, 0, blur, 0.0))["score"] for blur in (0, 1, 2, 4)]
    faint = [render_paths([faded(path, LIGHT, part)], LIGHT) for part in (1.0, 0.7, 0.55, 0.3, 0.0)]
    dim = [verify("a red circle moves right", video)["score"] for video in faint]
    for values in (noisy, soft, dim):
        assert values[0] > 0.99
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.5


def test_a_caption_and_its_scene_are_judged_alike():
    video = render("a red star rises while a blue circle stays", 3)
    text = "a video of a blue circle not moving as a red star goes up"
    assert verify(text, video) == verify(parse(text), video)
    assert verify("a blue star rises while a red circle stays", video)["overall"] == 0.0


def test_one_of_two_objects_is_half_of_each_dimension():
    drawn = layout("a red star rises while a blue circle moves left", 2)
    result = verify("a red star rises while a blue circle moves left", render_paths(drawn.paths[1:], drawn.background))
    assert all(result[name] == pytest.approx(0.5, abs=0.02) for name in DIMENSIONS[:9])
    assert result["overall"] == 0.0
