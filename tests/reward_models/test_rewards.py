"""What every reward in the table is asked: the contract of reward_models.contract.Reward."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from diffalign.data.modalities.image import Image
from reward_models import REWARD_MODELS, load_reward, reward_class, settings_of
from reward_models.contract import Reward
from reward_models.pixels import PixelReward
from reward_models.worlds.motion import render as render_motion

NAMES = list(REWARD_MODELS)
PROMPTS = ["a red circle", "two blue squares", "a green star", "a red circle", "three yellow triangles"]
MOTION_PROMPTS = [
    "a red circle rises",
    "a blue square falls fast",
    "a green star stays",
    "a red circle rises",
    "a cyan star falls then stays",
]


@pytest.fixture(scope="module")
def rewards(tiny_clip: Path) -> dict[str, Reward]:
    """Every reward of the table, each with the smallest settings it works with."""
    needed = {"clip_score": {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"}}
    return {name: load_reward(name, **needed.get(name, {})) for name in NAMES}


class Video:
    """A video of the least that a reward asks of one."""

    fps = 8.0

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def frames(self) -> np.ndarray:
        return self.pixels

    def identity(self) -> str:
        return sha256(self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Sample:
    """Five prompts that a reward understands, and a medium of its modality for each."""

    prompts: list[str]
    media: list[Any]


def sample(name: str) -> Sample:
    noise = np.random.default_rng(0)
    if "video" in REWARD_MODELS[name].modalities:
        clips = [render_motion(prompt, index, frames=9) // (index + 1) for index, prompt in enumerate(MOTION_PROMPTS)]
        return Sample(MOTION_PROMPTS, [Video(clip) for clip in clips])
    return Sample(PROMPTS, [Image.from_pixels(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) // (index + 1)) for index in range(5)])


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(rewards, name) -> None:
    reward = rewards[name]
    assert reward.name == name
    assert isinstance(reward.revision, str) and reward.revision
    assert reward.modalities == REWARD_MODELS[name].modalities
    assert reward.dimensions and len(set(reward.dimensions)) == len(reward.dimensions)
    assert all(dimension.isidentifier() for dimension in reward.dimensions), (
        "a dimension is a Parquet column, addressed as reward.dimension"
    )
    assert isinstance(reward.groupwise, bool)


@pytest.mark.parametrize("name", NAMES)
def test_gives_one_finite_float_per_item_and_dimension(rewards, name) -> None:
    given = sample(name)
    scores = rewards[name](given.prompts, given.media)
    assert tuple(scores) == rewards[name].dimensions
    for values in scores.values():
        assert len(values) == len(given.media)
        assert all(type(value) is float and math.isfinite(value) for value in values)
    json.dumps(scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_singles(rewards, name) -> None:
    reward = rewards[name]
    if reward.groupwise:
        pytest.skip("a groupwise reward compares the items of a call")
    given = sample(name)
    together = reward(given.prompts, given.media)
    for index, (prompt, item) in enumerate(zip(given.prompts, given.media, strict=True)):
        for dimension, values in reward([prompt], [item]).items():
            assert values[0] == pytest.approx(together[dimension][index], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_does_not_depend_on_the_order(rewards, name) -> None:
    given = sample(name)
    order = list(range(len(given.prompts)))
    random.Random(0).shuffle(order)
    forward = rewards[name](given.prompts, given.media)
    shuffled = rewards[name]([given.prompts[index] for index in order], [given.media[index] for index in order])
    for dimension, values in shuffled.items():
        assert values == pytest.approx([forward[dimension][index] for index in order], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(cast("type", reward_class(name)), PixelReward)])
def test_a_statistic_of_the_pixels_ignores_the_prompt(rewards, name) -> None:
    given = sample(name)
    assert rewards[name](given.prompts, given.media) == rewards[name]([""] * len(given.media), given.media)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_media_alone(rewards, name) -> None:
    given = sample(name)
    before = [item.identity() for item in given.media]
    rewards[name](given.prompts, given.media)
    assert [item.identity() for item in given.media] == before


@pytest.mark.parametrize("name", NAMES)
def test_no_items_give_no_scores(rewards, name) -> None:
    assert rewards[name]([], []) == {dimension: [] for dimension in rewards[name].dimensions}


class Audio:
    """A handle of a modality that no image reward can look at."""

    def encoded(self) -> bytes:
        return b""

    def identity(self) -> str:
        return ""

    def to_row(self) -> dict:
        return {}


@pytest.mark.parametrize("name", [name for name in NAMES if "audio" not in REWARD_MODELS[name].modalities])
def test_refuses_another_modality_and_lists_what_fits(rewards, name, monkeypatch) -> None:
    from diffalign.data.modalities import MODALITIES

    monkeypatch.setitem(MODALITIES, "audio", "Audio")
    given = sample(name)
    (scored,) = REWARD_MODELS[name].modalities
    fitting = ", ".join(other for other in NAMES if "audio" in REWARD_MODELS[other].modalities) or "none yet"
    with pytest.raises(ValueError, match=rf"'{name}' scores {scored}, but item 1 is audio; rewards for audio: {fitting}"):
        rewards[name](given.prompts[:2], [given.media[0], Audio()])
    with pytest.raises(ValueError, match="item 0 is ndarray"):
        rewards[name](given.prompts[:1], [np.zeros((9, 32, 32, 3), np.uint8)])


@pytest.mark.parametrize("name", NAMES)
def test_refuses_unequal_lengths(rewards, name) -> None:
    given = sample(name)
    with pytest.raises(ValueError, match=f"'{name}' got 1 prompts and 5 media; give one prompt for each item"):
        rewards[name](given.prompts[:1], given.media)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_an_error_that_lists_the_known(name) -> None:
    known = ", ".join(settings_of(name)) or "none"
    with pytest.raises(ValueError, match=f"reward '{name}' has no setting 'sharpen'.*; it takes: {known}"):
        load_reward(name, sharpen=1)


def test_an_unknown_reward_is_an_error_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown reward 'clipscore' \(did you mean 'clip_score'\?\); choose one of: shapes, .*clip_score"
    ):
        load_reward("clipscore")
    with pytest.raises(ValueError, match=r"unknown reward '../../x'; choose one of"):
        load_reward("../../x")


@pytest.mark.parametrize("name", [name for name in NAMES if REWARD_MODELS[name].extra])
def test_a_missing_extra_is_named(name, monkeypatch) -> None:
    extra = REWARD_MODELS[name].extra
    library = {"clip": "open_clip"}[extra]
    for module in [module for module in sys.modules if module.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"reward '{name}' needs {library}, which is not installed: pip install 'diffalign\[{extra}\]'"
    ):
        load_reward(name, **{"checkpoint": "random"} if name == "clip_score" else {})


def test_the_table_imports_nothing_heavy() -> None:
    """`diffalign rewards` lists the table: it must not wait for torch, numpy or open_clip."""
    code = "import sys, reward_models; print([m for m in ('torch', 'numpy', 'PIL', 'open_clip', 'pyarrow') if m in sys.modules])"
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")
