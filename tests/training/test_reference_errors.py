"""The reference's errors made before the first step: the run that a frozen copy gives, bit for bit, without the copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_loop import SMOOTH, assert_close_runs, launch
from training_runs import FAST, know_errors_ahead, make_task, metrics

from diffalign.stabilisers import build_stabiliser
from diffalign.training.alignment import AlignmentTask, Sampling
from diffalign.training.loop import train
from diffalign.training.reference_errors import FOLDER, errors_ahead
from diffalign.training.settings import Settings
from diffalign.training.visits import Visit

MIXED = Sampling(prompt_dropout=0.5, flip=0.5)
STAGES = {"order": {"name": "curriculum", "stages": 3, "cumulative": False}}


@pytest.fixture(autouse=True)
def one_thread():
    """As other processes have it: sums of several threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_but_for_the_distance(live: Path, ahead: Path) -> None:
    """Bit for bit; the distance to the reference is of its prediction, and there is none."""
    expected = [{name: value for name, value in line.items() if name != "distance"} for line in metrics(live)]
    assert metrics(ahead) == expected and expected != metrics(live)
    for path in (live / "final").rglob("*.safetensors"):
        one, two = load_file(path), load_file(ahead / "final" / path.relative_to(live / "final"))
        assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    cost = [[json.loads(line)["forwards"] for line in (run / "speed.jsonl").read_text().splitlines()] for run in (live, ahead)]
    assert cost[0] == cost[1]  # an error that was made ahead is one that the method asks for


def _safeguard(task: AlignmentTask) -> None:
    task.stabilisers = [build_stabiliser("list_safeguard" if task.needs.rows == "lists" else "winner_safeguard")]


def _last_layer(task: AlignmentTask) -> None:
    task.stabilisers, task.reads_last_layer = [build_stabiliser("winner_safeguard", space="last_layer")], True


def _sft_steps(task: AlignmentTask) -> None:
    task.sft_steps = 2


def _gradient_checkpointing(task: AlignmentTask) -> None:
    task.modules["denoiser"].enable_gradient_checkpointing()  # type: ignore[operator]


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[AlignmentTask], None] | None]] = {
    "plain": ({}, {}, None),
    "parts of a forward": ({"samples_per_forward": 3}, {}, None),
    "two draws": ({"draws": 2}, {}, None),
    "accumulation": ({}, {"micro_batch_size": 2}, None),
    "all of them": ({"samples_per_forward": 3, "draws": 2, "sampling": MIXED, "noising": "independent"}, {"micro_batch_size": 2}, None),
    "bf16": ({"sampling": MIXED}, {"precision": "bf16"}, _gradient_checkpointing),
    "stages": ({}, STAGES, None),
    "sft first": ({"draws": 2}, {}, _sft_steps),
    "lists": ({"objective": "rankdpo"}, {}, _safeguard),
    "single samples": ({"objective": "diffusion_kto"}, {}, None),
    "running means": ({"objective": "bco"}, {}, _safeguard),
    "last layer": ({}, {}, _last_layer),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_run_is_that_of_a_frozen_copy(variant: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    options, changes, change = VARIANTS[variant]
    settings = Settings(**FAST | changes)
    for name in ("live", "ahead"):
        task = make_task(tiny_pipeline, tiny_road, **options)
        if change is not None:
            change(task)
        if name == "ahead":
            know_errors_ahead(task, settings, tmp_path / name)
        train(task, settings, tmp_path / name)
    assert_same_but_for_the_distance(tmp_path / "live", tmp_path / "ahead")


def test_an_error_is_four_bytes(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    table = errors_ahead(make_task(tiny_pipeline, tiny_road, draws=2), Settings(**FAST), tmp_path, {})
    assert table.errors.shape == (6 * 4 * 2, 2) and table.errors.dtype == torch.float32
    assert len(table.errors.unique()) == table.errors.numel() and table.errors.min() > 0
    assert sum(file.stat().st_size for file in (tmp_path / FOLDER).iterdir()) < 4 * table.errors.numel() + 6 * 200  # a header for each part
    assert torch.equal(table.of([Visit(0, 0, 1, 3), Visit(0, 0, 0, 5)]), table.errors[[7, 10]])


class Killed(Exception):
    pass


def test_a_pass_that_was_killed_goes_on_where_it_was(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """And a part that was cut short, or made of something else, is made again."""
    settings, forwards = Settings(**FAST), 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    def kill_at(step: int) -> Callable[[int], None]:
        left = step

        def advance(steps: int) -> None:
            nonlocal left
            left -= steps
            if not left:
                raise Killed

        return advance

    def made(folder: Path, made_of: dict[str, Any], kill: int = 0) -> torch.Tensor:
        nonlocal forwards
        task, forwards = make_task(tiny_pipeline, tiny_road), 0
        task.modules["denoiser"].register_forward_hook(count)
        return errors_ahead(task, settings, folder, made_of, advance=kill_at(kill)).errors

    whole = made(tmp_path / "whole", {})
    assert forwards == 6
    with pytest.raises(Killed):
        made(tmp_path / "parts", {}, kill=4)
    assert len(list((tmp_path / "parts" / FOLDER).iterdir())) == 3
    file = tmp_path / "parts" / FOLDER / "steps_000001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(made(tmp_path / "parts", {}), whole) and forwards == 4
    assert torch.equal(made(tmp_path / "parts", {}), whole) and forwards == 0
    assert torch.equal(made(tmp_path / "parts", {"inputs": "others"}), whole) and forwards == 6


@pytest.mark.parametrize("loss", ["part", "all", "end of a part"])
def test_a_run_resumes_with_its_errors_and_not_without(loss: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    settings = Settings(**FAST)

    def run(folder: Path, stop_after: int | None = None) -> None:
        task = make_task(tiny_pipeline, tiny_road)
        know_errors_ahead(task, settings, folder)
        train(task, settings, folder, stop_after=stop_after)

    run(tmp_path / "whole")
    run(tmp_path / "parts", 3)
    folder = tmp_path / "parts" / FOLDER
    kept = shutil.copytree(folder, tmp_path / "kept")
    if loss == "all":
        shutil.rmtree(folder)
    elif loss == "part":
        (folder / "steps_000004.safetensors").unlink()
    else:
        (folder / "steps_000004.safetensors").write_bytes((folder / "steps_000004.safetensors").read_bytes()[:-2])
    count, first = (6, "steps_000000") if loss == "all" else (1, "steps_000004")
    with pytest.raises(ValueError, match=rf"{count} of 6 files of .*{FOLDER} are lost.*first: {first}.*put them back, or .* --redo"):
        run(tmp_path / "parts")
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    run(tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_errors_of_another_reference_are_noticed_before_the_first_update(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    for objective in ("diffusion_dpo", "ipo", "diffusion_kto", "rankdpo"):
        task = make_task(tiny_pipeline, tiny_road, objective=objective, beta=5000.0)
        table = errors_ahead(task, Settings(**FAST), tmp_path / objective, {})
        task.reference, task.known_error = None, lambda visits, table=table: table.of(visits).flip(0)
        with pytest.raises(ValueError, match="the reference is not the starting policy"):
            train(task, Settings(**FAST), tmp_path / objective)


def test_without_its_errors_a_task_without_reference_is_refused(tiny_pipeline: Path, tiny_road: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road)
    task.reference = None
    with pytest.raises(ValueError, match="there is none"):
        task.measure([Visit(0, 0)])


@pytest.mark.integration
def test_two_processes_make_the_errors_of_one_and_go_on_as_one(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    """The same micro-batches, the same bits; what two began in the pass or in training, one finishes, and the other way round."""
    settings = SMOOTH | {"micro_batch_size": 2}

    def one(folder: Path, ahead: bool = True, stop_after: int | None = None) -> None:
        task = make_task(tiny_pipeline, tiny_road, draws=2)
        if ahead:
            know_errors_ahead(task, Settings(**settings), folder)
        train(task, Settings(**settings), folder, stop_after=stop_after)

    def two(folder: Path, **options: Any) -> None:
        launch(2, tiny_pipeline, tiny_road, folder, settings=settings, draws=2, ahead=True, **options)

    one(tmp_path / "live", ahead=False)
    one(tmp_path / "one")
    assert_same_but_for_the_distance(tmp_path / "live", tmp_path / "one")
    files = sorted((tmp_path / "one" / FOLDER).iterdir())
    for name, rest in (("parts of one", two), ("training of one", two), ("training of two", one)):
        folder = tmp_path / name
        if name == "parts of one":
            (folder / FOLDER).mkdir(parents=True)
            for file in files[::2]:
                shutil.copy(file, folder / FOLDER)
        else:
            (one if name == "training of one" else two)(folder, stop_after=2)
        rest(folder)
        assert all((folder / FOLDER / file.name).read_bytes() == file.read_bytes() for file in files)
        assert_close_runs(tmp_path / "one", folder)
