"""bench step of a config: that what is timed is the config's own training, on made-up data of every kind that configs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageEditPipeline
from tiny_pipelines import save_instruct_pix2pix, save_qwen_image
from typer.testing import CliRunner

from diffalign.backbones import qwen_image_edit
from diffalign.backbones.stable_diffusion import StableDiffusion
from diffalign.training.alignment import AlignmentTask
from diffalign.training.reference import AdapterOff, FrozenCopy, Moving, RestingCopy
from pipelines import bench
from pipelines.bench import Ratio
from pipelines.bench_step import COLUMNS, StepCost, measure_step
from pipelines.cli import app

SMALL = ("model.device=cpu", "encode.size=null", "steps=2", "train.batch_size=2", "train.micro_batch_size=null")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The task, the training's settings and its folder of each measurement."""
    seen: list[Any] = []
    in_turn = bench.in_turn

    def watched(name: str, task: Any, other: Any, training: Any, folder: Path, steps: int) -> Ratio:
        found = in_turn(name, task, other, training, folder, steps)
        seen.append((task, training, [path.relative_to(folder).as_posix() for path in folder.rglob("*")]))
        return found

    monkeypatch.setattr(bench, "in_turn", watched)
    return seen


def test_a_row_of_a_markdown_table() -> None:
    """By hand: 3/2 = 1.5, and 3·2²⁹ bytes are 1.5 GiB."""
    cost = StepCost(("a", "b", "c", "d", "e", "f", "g"), 3.0, 2.0, 3 << 29, "one GPU")
    head, rule, row = str(cost).splitlines()
    assert row == "| a | b | c | d | e | f | g | 3 | 1.500 | 1.5 GiB | one GPU |"
    assert head == f"| {' | '.join(COLUMNS)} |" and rule.count("---") == len(COLUMNS) == row.count("|") - 1


def test_the_training_is_the_config_s_and_nothing_of_it_is_kept(tiny_pipeline: Path, measured: list[Any]) -> None:
    own = ("train.lora={rank: 3}", "train.precision=bf16", "model.dtype=bfloat16", "train.optimizer=adafactor", "train.clip_norm=0.5")
    found = measure_step("sd15_diffusion_dpo", [*SMALL, f"model.source={tiny_pipeline}", *own, "train.micro_batch_size=1"])
    [(task, training, files)] = measured
    assert isinstance(task, AlignmentTask) and isinstance(task.reference, AdapterOff)
    modules = dict(task.backbone.denoiser.named_modules())
    assert any(getattr(module, "gradient_checkpointing", False) for module in modules.values())
    assert {parameter.dtype for parameter in task.backbone.denoiser.parameters() if not parameter.requires_grad} == {torch.bfloat16}
    assert (training.optimizer, training.clip_norm, training.micro_batch_size, training.warmup_steps) == ("adafactor", 0.5, 1, 500)
    assert training.lora.rank == 3 and task.sampling.prompt_dropout == 0.2
    assert sorted(files) == ["metrics.jsonl", "speed.jsonl"]  # no checkpoint, however large the model
    assert found.seconds > 0 and found.floor > 0 and found.peak_bytes > 1 << 20
    assert found.what == (
        "sd15_diffusion_dpo", str(tiny_pipeline), "LoRA of rank 3 on bfloat16, adafactor", "initial", "diffusion_dpo, bf16, checkpointing",
        "16 × 16", "2 = 2 × 1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ((), FrozenCopy, "float32 copy"),
        (
            ("train.precision=bf16", "train.reference_dtype=bfloat16", "train.reference_device=cpu"),
            RestingCopy,
            "bfloat16 copy in main memory",
        ),
        (("train.reference={name: ema, decay: 0.9}",), Moving, "ema"),
        (("train.objective={name: mapo}",), type(None), "none"),
        (("train.reference_errors=ahead",), type(None), "errors made ahead"),
    ],
)
def test_the_reference_is_the_config_s(words: tuple[str, ...], kind: type, said: str, tiny_pipeline: Path, measured: list[Any]) -> None:
    found = measure_step("sd15_diffusion_dpo", [*SMALL, f"model.source={tiny_pipeline}", *words])
    assert isinstance(measured[0][0].reference, kind)
    assert found.what[2:4] == ("all, adamw", said)


KINDS = {
    "lists of four with scores": ("methods/rankdpo", "pair={rule: ranked_list, by: shapes.score}", "train.objective=rankdpo"),
    "two scores of the run": ("methods/modpo",),
    "labelled": ("methods/diffusion_kto",),
    "own samples": ("methods/dro", "train.own_samples.size=2"),
    "stages": ("methods/curriculum_dpo",),
    "supervised at first": ("methods/tango2",),
    "draws of a group": ("methods/diffusion_dpo", "train.draws=2"),
    "an inversion in half precision": ("methods/inpo", "train.precision=bf16", "train.lora={rank: 2}", "model.dtype=bfloat16"),
    "mirrored": ("methods/diffusion_dpo", "train.flip=0.5"),
}


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_every_kind_of_rows_is_made_up(words: tuple[str, ...], tiny_pipeline: Path, measured: list[Any]) -> None:
    found = measure_step(words[0], [*SMALL, f"model.source={tiny_pipeline}", *words[1:]])
    assert found.seconds > 0 and measured[0][1].sft_steps == 0


def test_segments_of_a_video_are_made_up() -> None:
    found = measure_step("compare_spans", [*SMALL, "encode.size=[5, 32, 32]"])
    assert found.what[5] == "32 × 32 × 5"


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
def test_conditions_are_made_up(tmp_path: Path) -> None:
    model = save_instruct_pix2pix(tmp_path / "model")
    words = ("train.prompt_dropout=0.9", "train.flip=0.5")  # of prompts and of conditions
    found = measure_step("instruct_pix2pix_diffusion_dpo", [*SMALL, f"model.source={model}", *words])
    assert found.seconds > 0


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_conditions_that_are_read_with_the_prompt_are_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen_image_edit, "AREA", 32 * 32)  # of what is edited, whatever the size of the result
    model = save_qwen_image(tmp_path / "model", kind=QwenImageEditPipeline)
    words = ("encode.size=[16, 16]", "train.prompt_dropout=0.9", "train.lora.rank=2", "model.dtype=float32", "train.precision=fp32")
    found = measure_step("qwen_image_edit_flow_dpo", [*SMALL, f"model.source={model}", *words])
    assert found.seconds > 0


def test_the_floor_has_the_parts_that_the_step_has(tiny_pipeline: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """4 pairs, 2 a forward, of which 3 samples at once: 8 samples through the reference and 8 through the policy, in 3 + 1 each time."""
    calls: list[tuple[int, bool]] = []
    predict, in_turn = StableDiffusion.predict, bench.in_turn

    def watched(self: StableDiffusion, denoiser: Any, noised: Any, *others: Any) -> Any:
        calls.append((len(noised), torch.is_grad_enabled()))
        return predict(self, denoiser, noised, *others)

    def one_floor(name: str, task: Any, other: Any, training: Any, folder: Path, steps: int) -> Ratio:
        calls.clear()
        other()
        seen.extend(calls)
        return in_turn(name, task, other, training, folder, steps)

    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(StableDiffusion, "predict", watched)
    monkeypatch.setattr(bench, "in_turn", one_floor)
    sizes = ("train.batch_size=4", "train.micro_batch_size=2", "train.samples_per_forward=3")
    found = measure_step("sd15_diffusion_dpo", [*SMALL, f"model.source={tiny_pipeline}", *sizes])
    assert seen == [(3, False), (1, False), (3, True), (1, True)] * 2
    assert found.what[-1] == "4 = 2 × 2, 3 samples at once"


def test_the_command_takes_a_config(tiny_pipeline: Path) -> None:
    words = ["bench", "step", "sd15_diffusion_dpo", *SMALL, f"model.source={tiny_pipeline}"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0 and told.output.splitlines()[0].startswith("| config | model | trained |")
    threads = torch.get_num_threads()
    assert f"| CPU, {threads} threads |" in told.output.splitlines()[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sd15_diffusion_dpo", "steps=1"), "steps: got 1; input should be greater than or equal to 2"),
        (("sd15_diffusion_dpo", "step=4"), "unknown key 'step'"),
        (("sd15_diffusion_dpo", "train=null"), "the config has no section train"),
        (("no_such_config",), "no config 'no_such_config'"),
    ],
)
def test_what_the_command_cannot_measure_is_said(words: tuple[str, ...], told: str) -> None:
    found = CliRunner().invoke(app, ["bench", "step", *words])
    assert found.exit_code == 1 and told in found.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_full_size_config_without_a_download_is_measured() -> None:
    """The denoiser's weights and their reference's alone take 860 M × (4 + 4) bytes, their gradients and moments 860 M × 12."""
    words = ("model.source=random:sd15", "steps=2", "train.batch_size=2", "train.micro_batch_size=1")
    assert measure_step("sd15_diffusion_dpo", words).peak_bytes > 20 * 859_520_964
