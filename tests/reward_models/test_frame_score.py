"""frame_score against loops over frames written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from pipelines.pair import Pair
from pipelines.score import Score, declared_dimensions, open_reward
from reward_models import REWARD_MODELS, load_reward
from reward_models.frame_score import FrameScore

PROMPTS = ["a red circle", "two blue squares", "a red circle"]


def noise(frames: int, side: int, seed: int) -> Video:
    return Video.from_frames(np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8), 8)


@pytest.fixture(scope="module")
def videos() -> list[Video]:
    """Of unequal lengths and sizes."""
    return [noise(5, 32, 0), noise(2, 48, 1), noise(7, 32, 2)]


@pytest.mark.parametrize(("reduce", "function"), [("mean", np.mean), ("min", np.min)])
@pytest.mark.parametrize("every", [1, 3])
def test_it_is_a_loop_over_frames(videos: list[Video], every: int, reduce: str, function: Callable) -> None:
    reward = load_reward("frame_score", of="jpeg_size", settings={"quality": 40}, every=every, reduce=reduce)
    inner = load_reward("jpeg_size", quality=40)
    expected = [function([inner([""], [Image.from_pixels(frame)])["score"][0] for frame in video.frames()[::every]]) for video in videos]
    assert len(set(expected)) == 3
    assert reward(PROMPTS, videos) == {"score": pytest.approx(expected, rel=1e-12)}


def test_every_dimension_is_reduced_by_itself() -> None:
    shapes = load_reward("shapes")
    pixels = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    pixels[1, 8:40, 8:40] = (220, 40, 40)
    pixels[2, 8:24, 8:24] = (40, 40, 220)
    reward = load_reward("frame_score", of={"shapes": None}, reduce="min")
    assert reward.dimensions == shapes.dimensions
    frames = [shapes(["a red square"], [Image.from_pixels(frame)]) for frame in pixels]
    expected = {dimension: [min(frame[dimension][0] for frame in frames)] for dimension in shapes.dimensions}
    assert len({value for (value,) in expected.values()}) > 1
    assert reward(["a red square"], [Video.from_frames(pixels, 8)]) == expected


def test_with_clip_score_it_is_clip_score_per_frame(videos: list[Video], tiny_clip: Path) -> None:
    pytest.importorskip("open_clip")
    settings = {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu", "batch": 4}
    clip = load_reward("clip_score", **settings)
    expected = [
        np.mean([clip([prompt], [Image.from_pixels(frame)])["score"][0] for frame in video.frames()])
        for prompt, video in zip(PROMPTS, videos, strict=True)
    ]
    assert max(expected) > 0
    reward = load_reward("frame_score", of={"clip_score": settings})
    np.testing.assert_allclose(reward(PROMPTS, videos)["score"], expected, atol=1e-4)
    assert reward.revision == f"clip_score/{clip.revision}/every-1/mean"


def stand_in(calls: list[tuple[list[str], list[np.ndarray]]], groupwise: bool = False) -> Callable[..., object]:
    """A reward of two dimensions that notes its calls: the first pixel of each picture, and its height."""

    def score(prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        pixels = [image.pixels() for image in media if isinstance(image, Image)]
        calls.append((list(prompts), pixels))
        return {"first": [float(each[0, 0, 0]) for each in pixels], "height": [float(len(each)) for each in pixels]}

    class StandIn:
        name, revision, modalities, dimensions = "stand_in", "7", frozenset({"image"}), ("first", "height")

        def __init__(self) -> None:
            self.groupwise = groupwise

        def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
            return score(prompts, media)

    return StandIn


def test_all_frames_of_a_call_are_one_call_with_the_prompt_of_their_video(videos: list[Video], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], list[np.ndarray]]] = []
    monkeypatch.setattr("reward_models.import_module", lambda module: SimpleNamespace(Sharpness=stand_in(calls)))
    reward = FrameScore("sharpness", every=2)
    scores = reward(["a", "b", "c"], videos)
    ((prompts, pixels),) = calls
    assert prompts == ["a"] * 3 + ["b"] + ["c"] * 4
    for shown, frame in zip(pixels, [frame for video in videos for frame in video.frames()[::2]], strict=True):
        np.testing.assert_array_equal(shown, frame)
    assert scores["height"] == [32.0, 48.0, 32.0]
    assert reward([], []) == {"first": [], "height": []} and len(calls) == 1


def test_a_groupwise_reward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward_models.import_module", lambda module: SimpleNamespace(Sharpness=stand_in([], groupwise=True)))
    with pytest.raises(ValueError, match="'sharpness', which compares the items of a call; give one that scores each picture by itself"):
        FrameScore("sharpness")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "motion"}, "of = 'motion', which scores video, and frames are image; rewards for image: shapes, "),
        ({"of": "frame_score"}, "of = 'frame_score', which scores video"),
        ({"of": "loudness"}, "which scores audio"),
        ({"of": "sharpnes"}, r"unknown reward 'sharpnes' \(did you mean 'sharpness'\?\)"),
        ({"of": {"jpeg_size": {"qualty": 3}}}, r"no setting 'qualty' \(did you mean 'quality'\?\)"),
        ({"of": {}}, "give one reward: a name, or {name: settings}"),
        ({"of": {"sharpness": {}, "contrast": {}}}, "give one reward"),
        ({"of": {"jpeg_size": {}}, "settings": {"quality": 3}}, "leave one of them out"),
        ({"of": "sharpness", "every": 0}, "every = 0; give a whole number of at least 1"),
        ({"of": "sharpness", "every": 1.5}, "every = 1.5"),
        ({"of": "sharpness", "every": True}, "every = True"),
        ({"of": "sharpness", "reduce": "max"}, "reduce = 'max'; choose one of: mean, min"),
        ({}, "needs the setting 'of'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward("frame_score", **settings)


def test_a_config_can_name_it_twice_and_pair_by_its_dimensions() -> None:
    """`reward` is the config's own key, so the image reward stands under `of`."""
    rewards = {"worst": {"reward": "frame_score", "of": "shapes", "reduce": "min"}, "frame_score": {"of": "contrast"}}
    score = Score.model_validate({"rewards": rewards})
    assert declared_dimensions("worst", score.rewards["worst"]) == load_reward("shapes").dimensions
    assert open_reward("worst", score.rewards["worst"]).dimensions == load_reward("shapes").dimensions
    assert open_reward("frame_score", score.rewards["frame_score"]).revision == "contrast/1/every-1/mean"
    Pair.model_validate({"rule": "best_vs_worst", "by": "worst.overall"}).check_scores(score)
    with pytest.raises(
        ValueError, match=r"pair reads 'frame_score.overall', which reward 'frame_score' does not give; .*: frame_score.score$"
    ):
        Pair.model_validate({"rule": "best_vs_worst", "by": "frame_score.overall"}).check_scores(score)


def test_the_table_says_what_it_takes() -> None:
    assert REWARD_MODELS["frame_score"].modalities == {"video"}
