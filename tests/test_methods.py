"""Every method's config, as a user runs it: from candidates of a world's bundled model through pairs and latents to trained weights; and
every other config of a bundled model, to its gallery.

Of the tones world's methods a tiny Tango with random weights makes the sounds: the bundled one takes longer.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from no_network import no_network
from tiny_pipelines import save_sd3, save_sdxl
from tiny_timed import save_tiny_tango
from typer.testing import CliRunner

from pipelines import STAGES
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.config_file import bundled_configs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    ),  # diffusers hands tensors to numpy
]

FOLDERS = ("methods", "motion", "tones")
METHODS = sorted(f"{folder}/{path.stem}" for folder in FOLDERS for path in (bundled_configs() / folder).glob("*.yaml"))
OTHERS = sorted(
    path.relative_to(bundled_configs()).with_suffix("").as_posix()
    for path in bundled_configs().rglob("*.yaml")
    if path.parent.name not in FOLDERS and load_config(path).model.source.startswith("bundled:")
)
OF_CLIPS = {"methods/densedpo"}
# Few candidates of few steps, and two optimizer steps of four rows; everything else is as the files say.
TINY = (
    "model.device=cpu", "generate.prompts.count=10", "generate.samples_per_prompt=4", "generate.steps=4", "train.steps=2",
    "train.warmup_steps=1", "train.batch_size=4", "train.micro_batch_size=2", "evaluate=null", "gallery=null",
)  # fmt: skip
# Noise keeps no limit of a judge, and its encoder has few places for words.
OF_NOISE = ("generate.long_prompts=truncate", "encode.long_prompts=truncate", "generate.steps=1", "generate.perturbed.count=6")
LOOSE = "pair.thresholds={tones.score: {minimum_winner: 0.0, maximum_gap: 1.0}, tones.events: {minimum_gap: -1.0}}"
HOLDS_NOT = "pair.by=tones.score"  # nothing holds after one step
OF_CANDIDATES = ("generate", "score")


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what all methods of pictures share."""
    return make_candidates("compare", tmp_path_factory.mktemp("candidates"))


@pytest.fixture(scope="module")
def tango(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"model.source={save_tiny_tango(tmp_path_factory.mktemp('tango'))}"


@pytest.fixture(scope="module")
def sounds(tango: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what all methods of the tones world share."""
    return make_candidates("quickstart_tones", tmp_path_factory.mktemp("sounds"), tango, *OF_NOISE)


def make_candidates(config: str, run: Path, *words: str) -> Path:
    for stage in OF_CANDIDATES:
        call(stage, f"configs/{config}.yaml", *TINY, *words, f"run={run}")
    return run


@pytest.fixture(scope="module")
def teacher(candidates: Path) -> Path:
    """What Diffusion-DPO leaves, for the method that learns from it."""
    call("run", "configs/methods/diffusion_dpo.yaml", *TINY, f"run={candidates}")
    return candidates / "train/final"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_from_its_config(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config, world = load_config(name), name.partition("/")[0]
    shared, extra = {"methods": "candidates", "tones": "sounds"}.get(world), []
    if shared is not None and name not in OF_CLIPS:
        for stage in OF_CANDIDATES:
            (tmp_path / STAGES[stage].folder).symlink_to(request.getfixturevalue(shared) / STAGES[stage].folder)
    if world == "tones":
        extra += [request.getfixturevalue("tango"), *OF_NOISE]
        extra += [LOOSE] if config.pair.thresholds else []
        extra += [HOLDS_NOT] if config.pair.by == "tones.overall" else []
    if config.train.teacher is not None:
        extra += [f"train.teacher={request.getfixturevalue('teacher')}"]
    if config.train.order != "shuffle":
        extra += ["train.order.stages=2"]  # no more than steps
    if config.train.sft_steps:
        extra += ["train.sft_steps=1"]
    with no_network():
        call("run", f"configs/{name}.yaml", *TINY, *extra, f"run={tmp_path}")
    steps = [json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2 and all(math.isfinite(value) for step in steps for value in step.values())
    assert steps[0]["grad_norm"] > 0 and (tmp_path / "train/final").is_dir()


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_a_config_of_a_bundled_model_runs_to_its_gallery(name: str, tmp_path: Path) -> None:
    few = ["evaluate.prompts.count=8", "evaluate.steps=1"]  # a Fréchet distance wants 8
    if load_config(name).model.source != "bundled:shapes":
        few += ["generate.steps=1", "generate.samples_per_prompt=2"]
    if (source := load_config(name).model.source) in ("bundled:motion", "bundled:tones"):
        few += [HOLDS_NOT.replace("tones", source.removeprefix("bundled:"))]
    with no_network():
        call("run", f"configs/{name}.yaml", *TINY[:-2], *few, f"run={tmp_path}")
    first, second = (json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines())
    assert first["grad_norm"] > 0 and all(math.isfinite(value) for value in second.values())
    report = json.loads((tmp_path / "evaluation/report.json").read_text())
    assert report["models"]["aligned"]["scores"] and (tmp_path / "gallery/index.html").is_file()


def test_there_are_other_configs() -> None:
    assert {"quickstart", "quickstart_motion", "quickstart_tones", "shapes_dpo", "lengths/ldpo_motion", "lengths/ldpo_tones"} <= {*OTHERS}


@pytest.fixture(scope="module", params=[save_sdxl, save_sd3], ids=["sdxl", "sd3"])
def real_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A run with the samples of a tiny pipeline with the classes of a real one, and the words that make its methods' runs."""
    folder = tmp_path_factory.mktemp("family")
    backbone = request.param.__name__.removeprefix("save_")
    words = (f"model={{backbone: {backbone}, source: {request.param(folder / 'model')}, device: cpu}}", "generate.size=[16, 16]",
             "generate.scheduler=null", *OF_NOISE[:2], "score.rewards={sharpness: {}}",
             "pair.by=sharpness.score", "train.scores=[sharpness.score]")  # fmt: skip
    return make_candidates("compare", folder / "run", *words), words


@pytest.mark.parametrize("name", ["dro", "inpo", "kto", "smpo", "sparsepo", "tgdpo"])
def test_what_a_method_needs_of_a_model_the_families_of_real_ones_have(
    name: str, real_family: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    """Own samples, inversions, other groups' prompts, a map of positions and a teacher's, over ε and velocity."""
    candidates, words = real_family
    for stage in OF_CANDIDATES:
        (tmp_path / STAGES[stage].folder).symlink_to(candidates / STAGES[stage].folder)
    if name == "tgdpo":
        call("run", "configs/methods/diffusion_dpo.yaml", *TINY, *words, f"run={tmp_path}", "train.learning_rate=1e-3")
        (tmp_path / "train").rename(tmp_path / "teacher")
        words += (f"train.teacher={tmp_path / 'teacher/final'}",)
    with no_network():
        call("run", f"configs/methods/{name}.yaml", *TINY, *words, f"run={tmp_path}")
    steps = [json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2 and all(math.isfinite(value) for step in steps for value in step.values()) and steps[0]["grad_norm"] > 0
