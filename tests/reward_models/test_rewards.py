"""What every reward in the table is asked: the contract of reward_models.contract.Reward."""

from __future__ import annotations

import ast
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fake_endpoint import Server, brighter, rating

from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from reward_models import REWARD_MODELS, dimensions_of, load_reward, reward_class, settings_of
from reward_models.contract import Reward
from reward_models.frames import FrameReward
from reward_models.pixels import PixelReward
from reward_models.waveforms import WaveformReward
from reward_models.worlds.motion import render as render_motion

NAMES = list(REWARD_MODELS)
PROMPTS = {
    "image": ["a red circle", "two blue squares", "a green star", "a red circle", "three yellow triangles"],
    "video": ["a red circle rises", "a blue square falls fast", "a green star stays", "a red circle rises", "a cyan star falls then stays"],
    "audio": ["a low beep", "noise, then a buzz", "a rising chirp", "a low beep", "a high buzz while a click repeats"],
}


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    """An endpoint that prefers the brighter pictures."""
    server = Server()
    server.answers = [brighter]
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def rater_url() -> Iterator[str]:
    """An endpoint that rates what it is shown from 1 to 5, by how bright it is."""
    server = Server()
    server.answers = [rating]
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def needed(
    tiny_clip: Path,
    tiny_clap: Path,
    tiny_audiobox: Path,
    tiny_pictures: Path,
    tiny_llava: Path,
    tiny_qwen: Path,
    judge_url: str,
    rater_url: str,
) -> dict[str, dict[str, Any]]:
    """The smallest settings that a reward works with, where it needs some."""
    return {
        "clip_score": {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"},
        "frame_score": {"of": {"clip_score": {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"}}, "every": 4},
        "vlm_segments": {"endpoint": {"url": judge_url, "model": "brighter"}},
        "vlm_judge": {"endpoint": {"url": rater_url, "model": "rating"}},
        "unified_reward": {"endpoint": {"url": rater_url, "model": "rating"}},
        "implicit": {"checkpoint": "bundled:motion", "model": {"backbone": "wan", "source": "bundled:motion"}, "draws": 1},
        "ensemble": {"of": ["movement", "flicker"], "weights": {"movement.score": 2, "flicker.score": -1}},
        "vqa_score": {"checkpoint": str(tiny_llava), "answers": ["word1", "word2"], "device": "cpu"},
        "clap_score": {"checkpoint": str(tiny_clap), "device": "cpu"},
        "audiobox_aesthetics": {"checkpoint": str(tiny_audiobox / "model.safetensors"), "device": "cpu"},
        "pick_score": {"checkpoint": str(tiny_pictures / "clip"), "processor": str(tiny_pictures / "clip"), "device": "cpu"},
        "hps_v2": {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"},
        "hps_v2_1": {"checkpoint": "random", "architecture": str(tiny_clip), "device": "cpu"},
        "hps_v3": {"checkpoint": str(tiny_qwen / "hps/HPSv3.safetensors"), "base": str(tiny_qwen / "hps/base"), "device": "cpu"},
        "video_reward": {"checkpoint": str(tiny_qwen / "video/model.pth"), "base": str(tiny_qwen / "video/base"), "device": "cpu"},
        "aesthetic": {"checkpoint": str(tiny_pictures / "aesthetic.pth"), "clip": str(tiny_pictures / "clip"), "device": "cpu"},
        "siglip_score": {"checkpoint": str(tiny_pictures / "siglip"), "device": "cpu"},
        "dino_similarity": {"checkpoint": str(tiny_pictures / "dino"), "device": "cpu"},
        "image_reward": {
            "checkpoint": str(tiny_pictures / "image_reward" / "ImageReward.pt"),
            "tokenizer": str(tiny_pictures / "image_reward"),
            "device": "cpu",
        },
    }


@pytest.fixture(scope="module")
def rewards(needed: dict[str, dict[str, Any]]) -> dict[str, Reward]:
    """Every reward of the table."""
    return {name: load_reward(name, **needed.get(name, {})) for name in NAMES}


def images() -> list[Image]:
    noise = np.random.default_rng(0)
    return [Image.from_pixels(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) // (index + 1)) for index in range(5)]


def sounds() -> list[Audio]:
    noise = np.random.default_rng(0)
    return [Audio.from_waveform(noise.uniform(-1, 1, (1 + index % 2, 12_000)) / (index + 1), 16_000) for index in range(5)]


def videos() -> list[Video]:
    """One of noise; one with an object that does what another prompt says."""
    noise = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), dtype=np.uint8)
    clips = [render_motion(prompt, index) for index, prompt in enumerate(PROMPTS["video"][1:])]
    return [Video.from_frames(frames, 8) for frames in (noise, *clips)]


MEDIA = {"image": images(), "video": videos(), "audio": sounds()}


def asked(name: str) -> tuple[list[str], list]:
    """Five prompts and five media of a modality that a reward can look at."""
    modality = max(REWARD_MODELS[name].modalities)  # a judge of all of them is asked about videos
    return PROMPTS[modality], MEDIA[modality]


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
def test_its_settings_say_its_dimensions(rewards, needed, name) -> None:
    """So that `pair` can refuse a name before anything is loaded."""
    assert dimensions_of(name, needed.get(name, {})) == rewards[name].dimensions


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("vlm_segments", {"segments": 2}, ("segment_1", "segment_2", "score")),
        ("vlm_judge", {"criteria": ["mood"]}, ("mood", "score")),
        ("unified_reward", {"answer": "rank"}, ("score",)),
        ("frame_score", {"of": "dino_similarity"}, ("mean", "nearest")),
        ("frame_score", {"of": {"unified_reward": {"answer": "final"}}}, ("score",)),
        (
            "ensemble",
            {"of": {"a": {"reward": "vlm_judge", "criteria": ["mood"]}, "rms": None}},
            ("score", "a_mood", "a_score", "rms_score"),
        ),
    ],
)
def test_dimensions_follow_from_settings(name: str, settings: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert dimensions_of(name, settings) == expected


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("frame_score", {}, "reward 'frame_score' needs the setting 'of'"),
        ("frame_score", {"of": {"sharpness": {"ofs": 1}}}, "reward 'sharpness' has no setting 'ofs'"),
        ("vlm_segments", {"segments": 0}, "segments = 0; give a whole number of at least 1"),
        ("ensemble", {"of": "rms"}, "of = 'rms'; give rewards"),
    ],
)
def test_settings_without_dimensions_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dimensions_of(name, settings)


@pytest.mark.parametrize("name", NAMES)
def test_gives_one_finite_float_per_item_and_dimension(rewards, name) -> None:
    prompts, media = asked(name)
    scores = rewards[name](prompts, media)
    assert tuple(scores) == rewards[name].dimensions
    for values in scores.values():
        assert len(values) == len(media)
        assert all(type(value) is float and math.isfinite(value) for value in values)
    json.dumps(scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_singles(rewards, name) -> None:
    prompts, media = asked(name)
    reward = rewards[name]
    if reward.groupwise:
        pytest.skip("a groupwise reward compares the items of a call")
    together = reward(prompts, media)
    for index, (prompt, item) in enumerate(zip(prompts, media, strict=True)):
        for dimension, values in reward([prompt], [item]).items():
            assert values[0] == pytest.approx(together[dimension][index], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_does_not_depend_on_the_order(rewards, name) -> None:
    prompts, media = asked(name)
    order = list(range(len(prompts)))
    random.Random(0).shuffle(order)
    forward = rewards[name](prompts, media)
    shuffled = rewards[name]([prompts[index] for index in order], [media[index] for index in order])
    for dimension, values in shuffled.items():
        assert values == pytest.approx([forward[dimension][index] for index in order], rel=1e-4, abs=1e-5)


STATISTICS = PixelReward | FrameReward | WaveformReward


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(cast("type", reward_class(name)), STATISTICS)])
def test_a_statistic_of_pixels_or_samples_ignores_the_prompt(rewards, name) -> None:
    prompts, media = asked(name)
    assert rewards[name](prompts, media) == rewards[name]([""] * len(media), media)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_media_alone(rewards, name) -> None:
    prompts, media = asked(name)
    before = [item.identity() for item in media]
    rewards[name](prompts, media)
    assert [item.identity() for item in media] == before


@pytest.mark.parametrize("name", NAMES)
def test_no_items_give_no_scores(rewards, name) -> None:
    assert rewards[name]([], []) == {dimension: [] for dimension in rewards[name].dimensions}


@pytest.mark.parametrize("name", NAMES)
def test_refuses_another_modality_and_lists_what_fits(rewards, name) -> None:
    prompts, media = asked(name)
    with pytest.raises(ValueError, match="item 0 is ndarray; rewards for ndarray: none yet"):
        rewards[name](prompts[:1], [np.zeros(5)])
    own = ", ".join(sorted(REWARD_MODELS[name].modalities))
    other = next((modality for modality in MEDIA if modality not in REWARD_MODELS[name].modalities), None)
    if other is None:
        return
    fitting = ", ".join(one for one in NAMES if other in REWARD_MODELS[one].modalities)
    with pytest.raises(ValueError, match=rf"'{name}' scores {own}, but item 1 is {other}; rewards for {other}: {fitting}$"):
        rewards[name](prompts[:2], [media[0], MEDIA[other][0]])


@pytest.mark.parametrize("name", NAMES)
def test_refuses_unequal_lengths(rewards, name) -> None:
    prompts, media = asked(name)
    with pytest.raises(ValueError, match=f"'{name}' got 1 prompts and 5 media; give one prompt for each item"):
        rewards[name](prompts[:1], media)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_an_error_that_lists_the_known(name) -> None:
    known = ", ".join(settings_of(name)) or "none"
    with pytest.raises(ValueError, match=f"reward '{name}' has no setting 'sharpen'.*; it takes: {known}"):
        load_reward(name, sharpen=1)


def test_an_unknown_reward_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown reward 'clipscore' \(did you mean 'clip_score'\?\); choose one of: shapes, "):
        load_reward("clipscore")
    with pytest.raises(ValueError, match=r"unknown reward '../../x'; choose one of"):
        load_reward("../../x")


@pytest.mark.parametrize("name", [name for name in NAMES if REWARD_MODELS[name].extra])
def test_a_missing_extra_is_named(name, monkeypatch) -> None:
    extra = REWARD_MODELS[name].extra
    library = "torchvision" if name in ("hps_v3", "video_reward") else {"clip": "open_clip", "audio": "torchaudio"}[extra]
    for module in [module for module in sys.modules if module.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"reward '{name}' needs {library}, which is not installed: pip install 'diffalign\[{extra}\]'"
    ):
        load_reward(name, checkpoint="random")


def test_a_checkpoint_that_needs_torchvision_says_what_to_install(tiny_qwen: Path) -> None:
    """transformers names it as no module; a checkpoint that needs none, or an endpoint, goes without the extra."""
    code = """
import sys

sys.modules["torchvision"] = None  # transformers finds none
from reward_models import load_reward

for name in ("vqa_score", "unified_reward", "vlm_judge", "vlm_segments"):
    try:
        load_reward(name, checkpoint=sys.argv[1], device="cpu")
    except ModuleNotFoundError as error:
        print(error)
"""
    root, base = Path(__file__).parents[2], str(tiny_qwen / "hps" / "base")
    done = subprocess.run([sys.executable, "-c", code, base], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    needs = f"got checkpoint = {base!r}, whose AutoProcessor needs torchvision, which is not installed: pip install 'diffalign[clip]'"
    names = ("vqa_score", "unified_reward", "vlm_judge", "vlm_segments")
    assert done.stdout.splitlines() == [f"{name} {needs}" for name in names], done.stderr[-2000:]


def test_the_table_imports_nothing_heavy() -> None:
    """`diffalign rewards` lists the table: it must not wait for torch, numpy or open_clip."""
    code = "import sys, reward_models; print([m for m in ('torch', 'numpy', 'PIL', 'open_clip', 'pyarrow') if m in sys.modules])"
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")


# What the releases import: their arithmetic is written out here, or done by the libraries that pyproject.toml names.
RELEASES = (
    "ImageReward", "aesthetic_predictor_v2_5", "aesthetics_predictor", "audiobox_aesthetics", "clip", "dinov2", "fairseq", "hpsv2",
    "hpsv3", "laion_clap", "lavis", "llava", "qwen_vl_utils", "simple_aesthetics_predictor", "t2v_metrics", "trl", "videoalign",
)  # fmt: skip


def test_no_reward_imports_what_its_release_is_made_of() -> None:
    """Neither at the top of a module nor inside a function, where heavy imports stand."""
    root = Path(__file__).parents[2]
    code = f"""
import importlib, pkgutil, sys

for name in {RELEASES!r}:
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError

import reward_models

for module in pkgutil.walk_packages(reward_models.__path__, "reward_models."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in (root / "reward_models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(RELEASES), path
