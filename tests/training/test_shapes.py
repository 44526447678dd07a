"""Groups of several shapes in one set: a forward for each shape of a batch, and the batch's gradient as if each group were alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_loop import SMOOTH, assert_close_runs, launch
from torch import Tensor
from training_runs import FAST, INITIAL, assert_same_run, know_errors_ahead, make_task, metrics

from diffalign.data.latents import LatentCache, write_latents_shard
from diffalign.data.records import Preference
from diffalign.training.alignment import AlignmentTask, Sampling
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import Visit, train
from diffalign.training.reference import ReferenceSettings
from diffalign.training.settings import Settings

VISITS = [Visit(group, draw) for group, draw in ((7, 0), (1, 2), (0, 1), (9, 0), (2, 0))]  # wide, square, square, wide, square
DROPS = Sampling(prompt_dropout=0.4, flip=0.5)


@pytest.fixture(scope="module")
def mixed_road(tiny_road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny road, with wider latents for the last seven of its twelve pairs."""
    folder = shutil.copytree(tiny_road, tmp_path_factory.mktemp("mixed") / "road")
    wide = torch.randn(14, 4, 8, 12, generator=torch.Generator().manual_seed(2))
    write_latents_shard(folder / "latents", 1, [f"g{index // 2}-{index % 2}" for index in range(10, 24)], wide, wide.flip(-1))
    return folder


def measured(task: AlignmentTask, visits: list[Visit]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Losses, numbers, and the gradient of the losses' mean."""
    denoiser = task.modules["denoiser"]
    denoiser.zero_grad()
    found = task.measure(visits)
    found.value.mean().backward()
    gradient = {name: each.grad.clone() for name, each in denoiser.named_parameters() if each.grad is not None}
    return found.value.detach(), found.numbers, gradient


@pytest.mark.parametrize("objective", ["diffusion_dpo", "rankdpo", "kto", "sparsepo"])
@pytest.mark.parametrize("reference", [INITIAL, ReferenceSettings(name="ema", decay=0.9)], ids=["initial", "ema"])
def test_a_batch_of_two_shapes_is_its_groups(objective: str, reference: ReferenceSettings, tiny_pipeline: Path, mixed_road: Path) -> None:
    """Loss and numbers in the order of the visits, and the gradient as the mean of those of each group alone."""
    task = make_task(tiny_pipeline, mixed_road, objective=objective, sampling=DROPS, reference=reference)
    denoiser = task.modules["denoiser"]
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(1.02)
    seen: list[tuple[int, ...]] = []
    denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    value, numbers, gradient = measured(task, VISITS)
    assert {shape[0] for shape in seen} == {4, 6} and {shape[3] for shape in seen} == {8, 12}
    assert task.measure(VISITS).work.backwards == 2 * len(VISITS)
    alone = [measured(task, [visit]) for visit in VISITS]
    torch.testing.assert_close(value, torch.cat([one[0] for one in alone]), rtol=1e-4, atol=1e-5)
    for name, each in numbers.items():
        torch.testing.assert_close(each, torch.cat([one[1][name] for one in alone]), rtol=1e-3, atol=1e-4, equal_nan=True)
    assert gradient
    for name, each in gradient.items():
        mean = torch.stack([one[2][name] for one in alone]).mean(0)
        torch.testing.assert_close(each, mean, rtol=1e-3, atol=1e-3 * float(mean.abs().max()) + 1e-7)


def test_the_draws_of_a_group_stay_its_own_among_two_shapes(tiny_pipeline: Path, mixed_road: Path) -> None:
    task = make_task(tiny_pipeline, mixed_road, sampling=DROPS, draws=2)
    with torch.no_grad():
        for parameter in task.modules["denoiser"].parameters():
            parameter.mul_(1.02)
    value, numbers, _ = measured(task, VISITS)
    alone = [measured(task, [visit]) for visit in VISITS]
    torch.testing.assert_close(value, torch.cat([one[0] for one in alone]), rtol=1e-4, atol=1e-5)
    assert len(numbers["timestep"]) == 2 * len(value) and torch.equal(numbers["timestep"], torch.cat([one[1]["timestep"] for one in alone]))


def test_the_draw_of_a_group_does_not_depend_on_what_shapes_are_beside_it(tiny_pipeline: Path, mixed_road: Path) -> None:
    task = make_task(tiny_pipeline, mixed_road, sampling=DROPS)
    both = task.draw([Visit(7, 0), Visit(9, 0)])[1].sample
    assert torch.equal(both[1:], task.draw([Visit(9, 0)])[1].sample) and both.shape == (2, 2, 4, 8, 12)


def test_a_set_of_one_shape_is_one_forward(tiny_pipeline: Path, tiny_road: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what the whole batch gives at once."""
    task = make_task(tiny_pipeline, tiny_road)
    calls: list[int] = []
    once = task._measure
    monkeypatch.setattr(task, "_measure", lambda visits, is_first: calls.append(len(visits)) or once(visits, is_first=is_first))
    value, _, gradient = measured(task, VISITS)
    assert calls == [5]
    task.modules["denoiser"].zero_grad()
    found = once(VISITS, is_first=True)
    found.value.mean().backward()
    assert torch.equal(found.value.detach(), value)
    for name, parameter in task.modules["denoiser"].named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, gradient[name])


def test_errors_made_ahead_are_of_each_group_among_two_shapes(tiny_pipeline: Path, mixed_road: Path, tmp_path: Path) -> None:
    """The run of a frozen copy, bit for bit."""
    for name in ("live", "ahead"):
        task = make_task(tiny_pipeline, mixed_road, sampling=DROPS, draws=2)
        if name == "ahead":
            know_errors_ahead(task, Settings(**FAST), tmp_path / name)
        train(task, Settings(**FAST), tmp_path / name)
    live = [{name: value for name, value in line.items() if name != "distance"} for line in metrics(tmp_path / "live")]
    assert metrics(tmp_path / "ahead") == live


def test_a_resumed_run_of_two_shapes_is_the_run(tiny_pipeline: Path, mixed_road: Path, tmp_path: Path) -> None:
    settings = Settings(**FAST)
    train(make_task(tiny_pipeline, mixed_road), settings, tmp_path / "whole")
    for _ in range(3):
        train(make_task(tiny_pipeline, mixed_road), settings, tmp_path / "parts", stop_after=2)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_micro_batches_of_two_shapes_are_the_batch(tiny_pipeline: Path, mixed_road: Path, tmp_path: Path) -> None:
    for micro in (None, 2):
        train(make_task(tiny_pipeline, mixed_road), Settings(**SMOOTH, micro_batch_size=micro), tmp_path / str(micro))
    assert_close_runs(tmp_path / "None", tmp_path / "2")


@pytest.mark.integration
@pytest.mark.parametrize("at_once", [None, 2])
def test_two_processes_with_different_numbers_of_shapes_are_one(
    at_once: int | None, tiny_pipeline: Path, mixed_road: Path, tmp_path: Path
) -> None:
    """Also of a denoiser with a buffer, which DDP sends around in each of its forwards."""
    settings = SMOOTH | {"micro_batch_size": 2}
    launch(2, tiny_pipeline, mixed_road, tmp_path / "two", settings=settings, samples_per_forward=at_once, buffer=True)
    train(make_task(tiny_pipeline, mixed_road), Settings(**SMOOTH), tmp_path / "one")
    assert_close_runs(tmp_path / "one", tmp_path / "two")


def test_two_shapes_in_a_group_are_refused(mixed_road: Path) -> None:
    rows = [Preference("a", "a red circle", ("g0-0", "g1-0")), Preference("b", "a red circle", ("g0-0", "g7-0"))]
    with pytest.raises(
        ValueError, match=r"different shapes in 1 of 2 groups, the first: b .*\(4, 8, 8\), \(4, 8, 12\).*pair\.same_size: true"
    ):
        CachedGroups(LatentCache(mixed_road / "latents"), rows, "pairs")


def test_own_samples_are_of_one_shape(tiny_pipeline: Path, mixed_road: Path) -> None:
    with pytest.raises(ValueError, match=r"own samples are of one shape.*encode\.size"):
        make_task(tiny_pipeline, mixed_road, objective="dro")
