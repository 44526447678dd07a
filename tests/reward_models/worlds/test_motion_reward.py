"""The motion reward model: the reward protocol over the verifier, and videos of other sizes and rates."""

import numpy as np
import pytest
from motion_corruptions import wrong_colour

from diffalign.data.modalities.video import Video
from reward_models import load_reward
from reward_models.worlds.motion import (
    DIMENSIONS,
    Motion,
    layout,
    medium,
    motion_magnitude,
    parse,
    prompts,
    render,
    verify,
    verify_segments,
)
from reward_models.worlds.motion.reward import MAGNITUDE, SEGMENTS, on_grid


def batch(count):
    texts = [one.text for one in prompts("validation", count, 0)]
    return texts, [medium(text, index) for index, text in enumerate(texts)]


def test_the_table_knows_it():
    reward = load_reward("motion")
    assert isinstance(reward, Motion)
    assert (reward.name, reward.dimensions) == ("motion", (*DIMENSIONS, *SEGMENTS, MAGNITUDE))
    assert reward.modalities == {"video"}
    assert not reward.groupwise


def test_a_batch_is_its_items_in_order():
    texts, media = batch(8)
    texts[3], texts[7] = texts[7], texts[3]
    scores = Motion()(texts, media)
    assert tuple(scores) == (*DIMENSIONS, *SEGMENTS, MAGNITUDE)
    for index, (text, one) in enumerate(zip(texts, media, strict=True)):
        expected = verify(text, one.frames())
        expected |= dict(zip(SEGMENTS, verify_segments(text, one.frames()).tolist(), strict=True))
        expected[MAGNITUDE] = motion_magnitude(one.frames())
        assert {name: values[index] for name, values in scores.items()} == expected
        assert all(type(value) is float for value in expected.values())
    assert scores["overall"] == [float(index not in (3, 7)) for index in range(8)]


def test_an_empty_batch():
    assert Motion()([], []) == {name: [] for name in (*DIMENSIONS, *SEGMENTS, MAGNITUDE)}


def test_magnitude_is_of_the_clip_whatever_the_caption_says():
    """A frozen clip has none, and the score of what was asked for does not know it."""
    moving = render("a red star rises", 1)
    clips = [Video.from_frames(each, 8) for each in (moving, np.repeat(moving[:1], len(moving), 0), moving[::-1])]
    scores = Motion()(["a red star rises"] * 3, clips)
    up, frozen, down = scores[MAGNITUDE]
    assert up > 0.3 and frozen == 0.0 and down == pytest.approx(up)
    assert scores["overall"] == [1.0, 0.0, 0.0] and MAGNITUDE not in DIMENSIONS
    assert scores["score"][0] == pytest.approx(np.mean([scores[name][0] for name in DIMENSIONS[:-2]]))


def test_a_shorter_clip_s_segments_stand_for_the_quarters_they_cover():
    text = "a red star rises"
    clip = Video.from_frames(render(text, 1, frames=13), 8)
    first, second, third = verify_segments(text, clip.frames()).tolist()
    scores = Motion()([text], [clip])
    assert [scores[name][0] for name in SEGMENTS] == [first, first, second, third]


@pytest.mark.parametrize(("frames", "quarters"), [(17, (0, 1, 2, 3)), (21, (0, 1, 2, 2, 3)), (33, (0, 0, 1, 1, 2, 2, 3, 3))])
def test_every_half_second_shows_in_the_quarter_in_which_its_middle_lies(frames, quarters):
    text = "a red star rises"
    scene, drawn = parse(text), layout(text, 1, frames)
    true = np.array(verify_segments(text, render(text, 1, frames)))
    for segment, quarter in enumerate(quarters):
        video = wrong_colour(scene, drawn, segment, np.random.default_rng(segment))
        values, scores = verify_segments(text, video), Motion()([text], [Video.from_frames(video, 8)])
        expected = [np.mean([value for value, own in zip(values, quarters, strict=True) if own == place]) for place in range(4)]
        assert [scores[name][0] for name in SEGMENTS] == pytest.approx(expected, abs=1e-12)
        assert scores[SEGMENTS[quarter]][0] < true[np.equal(quarters, quarter)].mean() - 0.2
        assert min(scores[name][0] for place, name in enumerate(SEGMENTS) if place != quarter) > 0.85


@pytest.mark.parametrize(("frames", "quarters"), [(7, (0, 0, 1, 1)), (12, (0, 0, 1, 2)), (16, (0, 1, 2, 3))])
def test_the_last_four_frames_of_an_uneven_clip_are_its_last_half_second(frames, quarters):
    text = "a red star rises"
    clip = render(text, 1)[:frames]
    values = verify_segments(text, clip)
    assert len(values) == max(quarters) + 1
    assert verify_segments(text, clip[-5:])[-1] == pytest.approx(values[-1], abs=0.05)
    scores = Motion()([text], [Video.from_frames(clip, 8)])
    assert [scores[name][0] for name in SEGMENTS] == [values[place] for place in quarters]
    assert scores[MAGNITUDE][0] == pytest.approx(motion_magnitude(render(text, 1)), rel=0.05)


def test_larger_and_faster_videos_come_onto_the_grid():
    true = render("a red star rises then falls", 1)
    large = true.repeat(3, axis=1).repeat(3, axis=2)
    assert np.array_equal(on_grid(large, 8.0), true)
    assert np.array_equal(on_grid(true.repeat(2, axis=0)[:-1], 16.0), true)
    assert np.array_equal(on_grid(true[:16], 8.0), true[:16])
    assert np.array_equal(on_grid(true[::2], 4.0), true[[0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 16, 16]])
    seconds = on_grid(np.arange(61, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8), 30.0)
    assert seconds[:, 0, 0, 0].tolist() == [0, 4, 8, 11, 15, 19, 23, 26, 30, 34, 38, 41, 45, 49, 53, 56, 60]
    assert Motion()(["a red star rises then falls"], [Video.from_frames(large, 8)])["overall"] == [1.0]


@pytest.mark.parametrize("fps", [4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 29.97, 60.0])
def test_the_judge_sees_the_frames_that_a_model_of_its_rate_encodes(fps):
    frames = np.arange(250, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    judged = on_grid(frames, fps)
    encoded = Video.from_frames(frames, fps).tensor(judged.shape[:3], 8.0)
    assert np.array_equal(np.rint((encoded.transpose(1, 2, 3, 0) + 1) * 127.5), judged)


@pytest.mark.parametrize(
    ("frames", "fps", "complaint"),
    [
        (4, 8.0, "4 frames at 8 a second; give at least 5 at 8"),
        (12, 30.0, "12 frames at 30 a second"),
        (0, 8.0, "0 frames"),
        (17, 0.0, "0.0 frames a second; give a positive rate"),
        (17, float("nan"), "nan frames a second"),
    ],
)
def test_videos_that_are_too_short_are_refused(frames, fps, complaint):
    with pytest.raises(ValueError, match=complaint):
        on_grid(np.zeros((frames, 32, 32, 3), np.uint8), fps)


def test_refusals():
    _, media = batch(1)
    with pytest.raises(ValueError, match=r"unknown word 'dog'.*known words: a, and"):
        Motion()(["a dog"], media)
    with pytest.raises(ValueError, match="2 prompts and 1 media"):
        Motion()(["a red star rises", "a red star falls"], media)
    with pytest.raises(ValueError, match="scores video, but item 0 is ndarray"):
        Motion()(["a red star rises"], [media[0].frames()])
