"""The benches on a tiny model: that they measure what they say, not how fast it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.backbones.stable_diffusion import StableDiffusion
from pipelines import bench
from pipelines.bench import Bench, run

SMALL = {"batch_size": 2, "steps": 3}


@pytest.mark.parametrize("name", bench.BENCHES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_bench_gives_a_ratio_of_two_times(name: str, lora: bool, tiny_pipeline: Path) -> None:
    found = run(name, Bench(source=str(tiny_pipeline), lora=lora, **SMALL))
    assert found.seconds > 0 and found.against > 0 and found.ratio == found.seconds / found.against
    assert str(found).startswith(found.name) and str(found).endswith(f"ratio {found.ratio:.3f}")


def test_half_precision_is_of_the_denoiser_and_not_of_the_encoders(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halved: dict[str, set[bool]] = {"predict": set(), "encode": set(), "embed": set()}

    def watch(name: str) -> None:
        call = getattr(StableDiffusion, name)

        def watched(self: StableDiffusion, *arguments: Any, **options: Any) -> Any:
            halved[name].add(torch.is_autocast_enabled(self.device.type))
            return call(self, *arguments, **options)

        monkeypatch.setattr(StableDiffusion, name, watched)

    for name in halved:
        watch(name)
    run("encode", Bench(source=str(tiny_pipeline), precision="bf16", **SMALL))
    run("step", Bench(source=str(tiny_pipeline), precision="bf16", **SMALL))
    assert halved == {"predict": {True}, "encode": {False}, "embed": {False}}


def test_both_are_timed_in_turn_without_the_warm_up(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Bench(source=str(tiny_pipeline), batch_size=2, steps=6)
    task, order, now = bench._task(tmp_path, settings, encode_in_step=False), [], [0.0]
    measure = task.measure

    def step(visits: Any) -> Any:
        order.append("step")
        now[0] += 3.0 if order.count("step") > 1 else 1000.0
        return measure(visits)

    def other() -> None:
        order.append("other")
        now[0] += 2.0 if order.count("other") > 2 else 1000.0  # where the run starts, and after its first step

    monkeypatch.setattr(task, "measure", step)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = bench._in_turn("x", task, other, tmp_path / "train", settings)
    assert order == ["other", *["step", "other"] * 6]
    assert (found.seconds, found.against, found.ratio) == (3.0, 2.0, 1.5)


def test_the_floor_leaves_the_model_as_it_was(tiny_pipeline: Path, tmp_path: Path) -> None:
    task = bench._task(tmp_path, Bench(source=str(tiny_pipeline), **SMALL), encode_in_step=False)
    before = {name: parameter.detach().clone() for name, parameter in task.backbone.denoiser.named_parameters()}
    used: list[bool] = []
    task.backbone.denoiser.register_forward_hook(lambda *_: used.append(torch.is_grad_enabled()))
    bench._floor(task, 2)()
    assert used == [True]  # the policy; the reference is a copy of its own
    for name, parameter in task.backbone.denoiser.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])


def test_the_step_beside_is_one_of_adamw(tiny_pipeline: Path, tmp_path: Path) -> None:
    task = bench._task(tmp_path, Bench(source=str(tiny_pipeline), **SMALL), encode_in_step=False)
    parameter = task.backbone.denoiser.get_parameter("conv_out.bias")
    before = parameter.detach().clone()
    bench._step_of(task, 2)()
    # Its first step is the learning rate, whatever the gradient.
    assert (parameter - before).abs().max().item() == pytest.approx(1e-6, rel=0.1)
    assert parameter.grad is None


def test_groups_that_encode_give_what_the_cache_holds(tiny_pipeline: Path, tmp_path: Path) -> None:
    settings = Bench(source=str(tiny_pipeline), **SMALL)
    cached = bench._task(tmp_path, settings, encode_in_step=False).groups
    encoding = bench._task(tmp_path, settings, encode_in_step=True).groups
    assert len(encoding) == len(cached) == 4 and encoding.describe(3) == cached.describe(3)
    one, other = (groups.fetch([3, 1], dropped=[False] * 2, flipped=[False] * 2) for groups in (cached, encoding))
    torch.testing.assert_close(other.latents, one.latents, rtol=1e-5, atol=1e-5)
    assert set(one.embeds) == set(other.embeds)
    for name in one.embeds:
        torch.testing.assert_close(other.embeds[name], one.embeds[name], rtol=1e-5, atol=1e-5)
