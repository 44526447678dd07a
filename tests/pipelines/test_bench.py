"""The benches on a tiny model: that they measure what they say, not how fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.backbones.stable_diffusion import StableDiffusion
from diffalign.objectives import OBJECTIVES, Needs
from diffalign.tensors import Loss, Outputs
from diffalign.training.masks import Mask
from pipelines import bench, bench_objectives
from pipelines.bench import Bench, Ratio, run
from pipelines.bench_objectives import COMBINED, Bare, Cost, Costs, Row, loss_of, measure_objectives, random_outputs

SMALL: dict[str, Any] = {"batch_size": 2, "steps": 3}


@pytest.mark.parametrize("name", ["step", "encode"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_bench_gives_a_ratio_of_two_times(name: str, lora: bool, tiny_pipeline: Path) -> None:
    found = run(name, Bench(source=str(tiny_pipeline), lora=lora, **SMALL))
    assert isinstance(found, Ratio)
    assert found.seconds > 0 and found.against > 0 and found.ratio == found.seconds / found.against
    assert str(found).startswith(found.name) and str(found).endswith(f"ratio {found.ratio:.3f}")


def test_peak_memory_is_said_where_there_is_a_gpu() -> None:
    """By hand: 1.5·2³⁰ bytes."""
    assert str(Ratio("x", 0.3, 0.2, 3 << 29)) == "x: 300.0 ms against 200.0 ms, ratio 1.500, peak memory 1.5 GiB"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_full_size_model_without_a_download_is_measured() -> None:
    """The base's weights alone take 2.57 G × 4 bytes."""
    found = run("step", Bench(source="random:sdxl", backbone="sdxl", lora=True, precision="bf16", batch_size=1, steps=2))
    assert isinstance(found, Ratio) and found.peak_bytes is not None and found.peak_bytes > 4 * 2_567_463_684


@pytest.mark.parametrize("objective", ["dro", "rankdpo", "diffusion_kto", "densedpo"])
def test_objectives_that_make_no_use_of_pairs_are_refused(objective: str, tiny_pipeline: Path) -> None:
    with pytest.raises(ValueError, match=f"of which '{objective}' makes no use; choose one of pairs, such as diffusion_dpo"):
        run("step", Bench(source=str(tiny_pipeline), objective=objective, **SMALL))


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
    found = bench.in_turn("x", task, other, bench._training(settings), tmp_path / "train")
    assert order == ["other", *["step", "other"] * 6]
    assert (found.seconds, found.against, found.ratio) == (3.0, 2.0, 1.5)


def test_the_floor_leaves_the_model_as_it_was(tiny_pipeline: Path, tmp_path: Path) -> None:
    task = bench._task(tmp_path, Bench(source=str(tiny_pipeline), **SMALL), encode_in_step=False)
    before = {name: parameter.detach().clone() for name, parameter in task.backbone.denoiser.named_parameters()}
    used: list[bool] = []
    task.backbone.denoiser.register_forward_hook(lambda *_: used.append(torch.is_grad_enabled()))
    bench.floor_of(task, 2)()
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


def test_every_objective_is_measured_beside_the_model_s_own_step(tiny_pipeline: Path) -> None:
    found = run("objectives", Bench(source=str(tiny_pipeline), **SMALL))
    assert isinstance(found, Costs) and found.shape[0] == 4 and found.bare.step > 0
    assert sorted(cost.name for cost in found.costs) == sorted([*OBJECTIVES, *COMBINED])
    ratios = {cost.name: cost.ratio for cost in found.costs}
    assert list(ratios.values()) == sorted(ratios.values(), reverse=True) and ratios["diffusion_dpo"] == 1
    assert all(cost.seconds > 0 for cost in found.costs)


def test_other_latents_need_the_seconds_of_their_model() -> None:
    found = run("objectives", Bench(latents=(4, 16, 16), bare_seconds=(2.0, 0.5), **SMALL))
    assert isinstance(found, Costs) and found.shape == (4, 4, 16, 16) and found.bare == Bare(2.0, 0.5)
    with pytest.raises(ValueError, match=r"latents \[4, 16, 16\] are not this model's.*bare_seconds=\[2\.0, 0\.5\]"):
        Bench(latents=(4, 16, 16))


@pytest.mark.parametrize(
    ("needs", "seconds"),
    [
        (Needs("pairs", None, None), 3.0),
        (Needs("pairs", "error", None), 4.0),
        (Needs("pairs", "prediction", None, ("teacher",)), 5.0),
        (Needs("labelled", "error", None, ("labels", "mismatched")), 6.0),
    ],
)
def test_the_bare_step_has_the_forwards_that_are_needed(needs: Needs, seconds: float) -> None:
    assert Bare(3.0, 1.0).of(needs) == seconds


@pytest.fixture
def whole_table() -> Iterator[None]:
    """Puts the objectives back in their order, which monkeypatch would not."""
    kept = dict(OBJECTIVES)
    yield
    OBJECTIVES.clear()
    OBJECTIVES.update(kept)


@pytest.mark.usefixtures("whole_table")
def test_costs_are_medians_in_turn_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 rounds the first is slow and not counted. Bare steps 2 and 1: (2 + 3)/(2 + 1), and (1 + 2)/(1 + 1) without a reference.

    The corrected row is of ipo, with its forwards and its seconds here.
    """
    order, now = [], [0.0]
    seconds = {"diffusion_dpo": 1.0, "mapo": 2.0, "ipo": 3.0}

    def take(name: str) -> Any:
        def objective(outputs: Outputs) -> Loss:
            order.append(name)
            now[0] += seconds[name] if order.count(name) > 2 else 1000.0  # once to see what it tracks, and the first round
            return Loss(outputs.error[:, 0])

        return objective

    for name in set(OBJECTIVES) - set(seconds):
        del OBJECTIVES[name]
    monkeypatch.setattr(bench_objectives, "COMBINED", {"corrected": Row("ipo", {"kl_correction": {}})})
    monkeypatch.setattr("diffalign.objectives.objective_function", take)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = measure_objectives((4, 2, 2), (8, 1, 1), pairs=2, steps=6, bare=Bare(1.0, 1.0), device="cpu")
    costs = (Cost("ipo", 3.0, 5 / 3), Cost("corrected", 3.0, 5 / 3), Cost("mapo", 2.0, 1.5), Cost("diffusion_dpo", 1.0, 1.0))
    assert found.costs == costs
    assert order == [*OBJECTIVES, "ipo", *[*OBJECTIVES, "ipo"] * 6]
    assert "over 1.02: ipo, corrected, mapo\n" in str(found) and str(found).endswith("diffusion_dpo      1000.00  1.0000")
    assert "over 1.02: none" in str(Costs((4, 2), Bare(1, 1), found.costs[3:]))


def test_a_learned_mask_reads_features_of_the_model_s_head(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last layer of the UNet takes, at every position; of other latents as many channels as SDXL's."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench_objectives, "measure_objectives", lambda *given: asked.append(given))
    run("objectives", Bench(source=str(tiny_pipeline), **SMALL))
    run("objectives", Bench(latents=(4, 16, 16), bare_seconds=(2.0, 0.5), **SMALL))
    head = bench._task(tmp_path, Bench(source=str(tiny_pipeline), **SMALL), encode_in_step=False).backbone.denoiser.conv_out
    assert asked[0][1] == (head.in_channels, *asked[0][0][1:]) and asked[1][:2] == ((4, 16, 16), (320, 16, 16))


@pytest.mark.parametrize("name", COMBINED)
def test_what_acts_before_an_objective_is_in_its_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another gradient than the objective's alone, where the errors of a group overlap; of a learned mask's weights there is one too."""
    masks: list[Mask] = []

    class Kept(Mask):
        def __init__(self, *given: Any, **named: Any):
            super().__init__(*given, **named)
            masks.append(self)

    monkeypatch.setattr("diffalign.training.masks.Mask", Kept)
    row = COMBINED[name]
    outputs = random_outputs(OBJECTIVES[row.objective], (4, 8, 8), pairs=8, device="cpu")
    outputs = replace(outputs, policy=(outputs.target + 0.1 * outputs.target[:, :1]).requires_grad_())

    def gradient(own: Row) -> torch.Tensor:
        [found] = torch.autograd.grad(loss_of(own, (6, 4, 4), 8, "cpu")(replace(outputs)).value.sum(), outputs.policy)
        return found

    changed, plain = gradient(row), gradient(Row(row.objective))
    assert bool(torch.isfinite(changed).all()) and not torch.allclose(changed, plain)
    bench_objectives._backward_of(loss_of(row, (6, 4, 4), 8, "cpu"), outputs)()
    weights = [mask.weight for mask in masks[1:]]
    assert all(weight is not None and weight.grad is not None and bool((weight.grad != 0).any()) for weight in weights)
    assert len(weights) == row.learns_mask


@pytest.mark.parametrize("name", OBJECTIVES)
def test_random_outputs_feed_every_branch(name: str) -> None:
    """As many samples for every kind of rows, and every field that any objective reads."""
    needs = OBJECTIVES[name]
    outputs = random_outputs(needs, (4, 8, 8), pairs=8, device="cpu")
    assert outputs.policy.shape[0] * outputs.policy.shape[1] == 16 and outputs.policy.requires_grad
    assert all(getattr(outputs, field) is not None for each in needs.reads for field in each.split(" or "))
    assert (outputs.reference is None) == (needs.reference is None)
    bench_objectives._backward_of(watched(name), outputs)()
    assert outputs.policy.grad is None


def watched(name: str) -> Any:
    """The objective, made to fail where no gradient comes back to the prediction."""
    from diffalign.objectives import objective_function

    def checked(outputs: Outputs) -> Loss:
        loss = objective_function(name)(outputs)
        [gradient] = torch.autograd.grad(loss.value.sum(), outputs.policy, retain_graph=True)
        assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
        return loss

    return checked
