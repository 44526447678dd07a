"""What the safeguard reads of a denoiser's last layer, on a UNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_predict import gradients, with_lists_of_nine
from torch import Tensor
from training_runs import make_task

from diffalign.noising import Draw, Noised
from diffalign.stabilisers import build_stabiliser, build_stabilisers, reads_last_layer
from diffalign.tensors import Outputs, mean_squared_error
from diffalign.training.alignment import Networks, forward
from diffalign.training.loop import Visit
from diffalign.training.lora import Lora

VISITS = [Visit(3, 0), Visit(0, 0), Visit(7, 1)]


def outputs_of(task: Any, *, at_once: int | None = None, **changes: Any) -> Outputs:
    batch, noised, timestep = task.draw(VISITS)
    networks = Networks(task.reference)
    batch = replace(batch, **changes)
    return forward(task.backbone, task.modules["denoiser"], networks, batch, noised, timestep, task.needs, at_once, reads_last_layer=True)


@pytest.mark.parametrize("at_once", [None, 2])
@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_it_is_the_gradient_of_each_sample_s_error(lora: Lora | None, at_once: int | None, tiny_pipeline: Path, tiny_road: Path) -> None:
    """By autograd through the network, one error at a time; under LoRA too, where the layer is not trained, and in parts of a forward."""
    task = make_task(tiny_pipeline, tiny_road, lora=lora)
    outputs = outputs_of(task, at_once=at_once)
    layer = task.backbone.last_layer(task.backbone.denoiser)
    layer.requires_grad_(True)
    again = outputs_of(task)
    assert outputs.last_layer_gradient is not None and outputs.last_layer_gradient.shape == (3, 2, 4 * 32 * 9 + 4)
    for group in range(3):
        for sample in range(2):
            own = torch.autograd.grad(again.error[group, sample], [layer.weight, layer.bias], retain_graph=True)  # type: ignore[list-item]
            expected = torch.cat([each.flatten() for each in own])
            torch.testing.assert_close(outputs.last_layer_gradient[group, sample], expected, rtol=1e-3, atol=1e-6)
    assert not outputs.last_layer_gradient.requires_grad
    unasked = forward(task.backbone, task.modules["denoiser"], Networks(task.reference), *task.draw(VISITS), task.needs)
    assert unasked.last_layer_gradient is None and torch.equal(unasked.policy, again.policy)


def test_a_step_of_the_last_layer_cannot_raise_a_winner_s_error(tiny_pipeline: Path, tiny_road: Path) -> None:
    """Diffusion-DPO on one pair whose loser has twice the target, the last layer alone trained: e_w rises, and not behind the safeguard."""

    def rise(stabilisers: list[Any]) -> float:
        task = make_task(tiny_pipeline, tiny_road)
        task.stabilisers, task.reads_last_layer = stabilisers, True
        noising = task.noising

        def further(draw: Draw) -> Noised:
            noised = noising(draw)
            return replace(noised, target=noised.target * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1))

        task.noising = further
        layer = task.backbone.last_layer(task.modules["denoiser"])
        task.modules["denoiser"].requires_grad_(False)
        layer.requires_grad_(True)

        @torch.no_grad()
        def winner_error() -> Tensor:
            outputs = forward(task.backbone, task.modules["denoiser"], Networks(task.reference), *task.draw(VISITS[:1]), task.needs)
            return mean_squared_error(outputs.policy.double(), outputs.target.double())[0, 0]

        before = winner_error()
        task.measure(VISITS[:1]).value.sum().backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.sub_(1e-4 * parameter.grad)  # type: ignore[operator]
        return float(winner_error() - before)

    safeguard = build_stabiliser("winner_safeguard", mu=0.1, space="last_layer")
    assert rise([]) > 1e-4
    assert rise([safeguard]) < -1e-5


@pytest.mark.parametrize("space", ["output", "last_layer"])
def test_lists_of_nine_train_behind_both_stabilisers(space: str, tiny_pipeline: Path, tiny_road: Path) -> None:
    """The safeguard leaves loss and metrics, and changes the gradient of a policy that has left its reference."""
    found = []
    for names in (("list_safeguard", "kl_correction"), ("kl_correction",)):
        task = with_lists_of_nine(make_task(tiny_pipeline, tiny_road, objective="rankdpo"))
        task.groups.scores = {sample: (1.0 / (1 + place),) for row in task.groups.preferences for place, sample in enumerate(row.samples)}
        given = {name: {"space": space} if name == "list_safeguard" else {} for name in names}
        task.stabilisers, task.reads_last_layer = build_stabilisers(given), reads_last_layer(given)
        with torch.no_grad():
            for parameter in task.modules["denoiser"].parameters():
                parameter.mul_(1.01)
        measured = task.measure(VISITS)
        measured.value.sum().backward()
        found.append((measured, gradients(task.modules["denoiser"])))
    (safe, scaled), (free, whole) = found
    torch.testing.assert_close(safe.value, free.value)
    assert safe.numbers.keys() == free.numbers.keys()
    norms = [sum(float(each.square().sum()) for each in own.values()) for own in (scaled, whole)]
    assert norms[0] > 0 and abs(norms[0] - norms[1]) > 0.01 * norms[1]


@pytest.mark.parametrize("objective", ["rankdpo", "capo", "adpo"])
def test_a_stabiliser_is_told_what_lists_are_ranked_by(objective: str, tiny_pipeline: Path, tiny_road: Path) -> None:
    """Two of three judges turn the first one's order around: rankdpo and capo rank by all of them, adpo by the first."""
    task = with_lists_of_nine(make_task(tiny_pipeline, tiny_road, objective=objective))
    samples = {sample for row in task.groups.preferences for sample in row.samples}
    task.groups.scores = {sample: (-float(place), float(place), float(place)) for place, sample in enumerate(sorted(samples))}
    told: list[Outputs] = []
    task.stabilisers = [lambda outputs: told.append(outputs) or outputs]
    task.measure(VISITS)
    (outputs,) = told
    assert outputs.scores is not None and outputs.ranked_by is not None and not outputs.ranked_by.requires_grad
    best = outputs.scores[..., 0 if objective == "adpo" else 1].argmax(1)
    assert outputs.scores.shape == (3, 9, 3) and torch.equal(outputs.ranked_by.argmax(1), best)


def test_samples_of_unequal_length_are_refused(tiny_pipeline: Path, tiny_road: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road)
    with pytest.raises(ValueError, match="of samples of unequal length are not worked out; set the safeguard's space to output"):
        outputs_of(task, lengths=torch.tensor([[8, 4]] * 3))
