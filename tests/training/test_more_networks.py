"""What a step runs beside policy and reference: a teacher, another group's prompt, and a mask of positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import FAST, assert_same_run, make_task, metrics, rows_of, weights

from diffalign.data.latents import LatentCache
from diffalign.data.records import read_preferences
from diffalign.objectives import OBJECTIVES
from diffalign.tensors import Outputs
from diffalign.training.alignment import AlignmentTask, Networks, forward
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import Visit, train
from diffalign.training.lora import Lora
from diffalign.training.masks import Mask, features_of
from diffalign.training.randomness import generator
from diffalign.training.reference_cache import ReferenceCache
from diffalign.training.settings import Settings
from diffalign.training.teacher_map import TeacherMap

VISITS = [Visit(group, draw) for group, draw in ((3, 0), (0, 0), (7, 1), (3, 2))]


def outputs_of(task: AlignmentTask, visits: list[Visit]) -> Outputs:
    batch, noised, timestep = task.draw(visits)
    networks = Networks(task.reference, task.teacher, task.mask)
    return forward(task.backbone, task.modules["denoiser"], networks, batch, noised, timestep, task.needs)


def test_a_teacher_predicts_on_what_the_policy_sees(tiny_pipeline: Path, tiny_road: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road, objective="tgdpo")
    batch, noised, timestep = task.draw(VISITS)
    found = outputs_of(task, VISITS)
    assert found.teacher is not None and not found.teacher.requires_grad
    assert not torch.equal(found.teacher, found.policy)
    for row, sample in ((0, 0), (2, 1)):
        with task.teacher.use() as denoiser:  # type: ignore[union-attr]
            embeds = {name: value[row : row + 1] for name, value in batch.embeds.items()}
            alone = task.backbone.predict(denoiser, noised.sample[row, sample : sample + 1], timestep[row : row + 1], embeds)
        torch.testing.assert_close(found.teacher[row, sample], alone[0], rtol=1e-5, atol=1e-5)


def test_a_teacher_s_map_is_a_mean_over_draws_made_once_and_alone(
    tiny_pipeline: Path, tiny_road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tiny_pipeline, tiny_road, objective="tgdpo")
    process, prediction = task.backbone.process, task.backbone.predict
    low, high = 0.3, 1.0

    def make() -> TeacherMap:
        assert task.teacher is not None and task.reference is not None
        return TeacherMap(task.backbone, task.teacher, task.reference, draws=3, timesteps=(low, high), at_once=None, seed=7)

    batch, _, _ = task.draw(VISITS)
    maps, asked = make(), []
    predict = task.backbone.predict
    monkeypatch.setattr(task.backbone, "predict", lambda denoiser, x, *more: asked.append(len(x)) or predict(denoiser, x, *more))
    found = maps(batch)
    assert found.shape == (4, 2, 1, 8, 8) and asked == [2] * 3 * 3 * 2  # three groups, three draws, two networks
    assert torch.equal(maps(batch), found) and len(asked) == 18 and maps.kept == 3 * 2 * 64  # remembered
    monkeypatch.setattr("diffalign.training.teacher_map.KEPT", 2 * 64)
    few = make()
    assert torch.equal(few(batch), found) and len(few.found) == 1
    alone, _, _ = task.draw(VISITS[2:3])
    assert torch.equal(make()(alone)[0], found[2])  # to the bit
    cached = make()
    cached.cache = ReferenceCache(tmp_path, "base")
    assert torch.equal(cached(alone)[0], found[2]) and len(list(tmp_path.iterdir())) == 3  # what the reference predicts
    # By a plain loop, of one sample.
    row, sample, total = 1, 1, torch.zeros(8, 8)
    embeds = {name: value[row : row + 1] for name, value in batch.embeds.items()}
    for draw in range(3):
        source = generator(7, "teacher", draw)
        timestep = process.timestep(low + (high - low) * (draw + torch.rand(1, generator=source)) / 3)
        latents, epsilon = batch.latents[row, sample][None], torch.randn(4, 8, 8, generator=source)[None]
        x, target = process.noise(latents, epsilon, timestep), process.target(latents, epsilon, timestep)
        for reference, sign in ((task.teacher, 1), (task.reference, -1)):
            with reference.use() as denoiser:  # type: ignore[union-attr]
                total += sign * (prediction(denoiser, x, timestep, embeds) - target)[0].square().mean(0) / 3
    torch.testing.assert_close(found[row, sample, 0], total, rtol=1e-4, atol=1e-6)


def test_mismatched_predictions_are_under_the_prompt_of_another_group_whatever_the_batch(tiny_pipeline: Path, tiny_road: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road, objective="kto")
    with torch.no_grad():
        for parameter in task.modules["denoiser"].parameters():
            parameter.mul_(1.01)
    found = outputs_of(task, VISITS)
    assert found.mismatched is not None and found.mismatched.shape == (4, 2, 2, 4, 8, 8) and not found.mismatched.requires_grad
    own, reference = found.mismatched.unbind(2)
    assert not torch.equal(own, reference)
    assert not torch.equal(own, found.policy) and not torch.equal(reference, found.reference)
    # Under that other prompt as its own, a group's prediction is the mismatched one.
    others = [task.groups._other_prompt(visit.group) for visit in VISITS]
    assert all(task.groups.preferences[visit.group].prompt != other for visit, other in zip(VISITS, others))
    for visit, other in zip(VISITS, others):
        task.groups.preferences[visit.group] = replace(task.groups.preferences[visit.group], prompt=other)
    task.groups.mismatched = False
    swapped = outputs_of(task, VISITS)
    torch.testing.assert_close(swapped.policy, own)
    torch.testing.assert_close(swapped.reference, reference)
    alone = outputs_of(make_task(tiny_pipeline, tiny_road, objective="kto"), VISITS[:1])
    torch.testing.assert_close(alone.mismatched[:, :, 1], reference[:1], rtol=1e-5, atol=1e-5)  # type: ignore[index]


def test_a_set_of_one_prompt_has_no_mismatched_prompts(tiny_road: Path) -> None:
    rows = [replace(row, prompt="a red circle") for row in read_preferences(tiny_road / "preferences")]
    with pytest.raises(ValueError, match="the set has one prompt"):
        CachedGroups(LatentCache(tiny_road / "latents"), rows_of(rows, OBJECTIVES["kto"]), "labelled", mismatched=True)


def test_features_are_what_the_last_layer_turns_into_the_prediction(tiny_pipeline: Path, tiny_road: Path) -> None:
    task = make_task(tiny_pipeline, tiny_road, objective="sparsepo", lora=Lora(rank=2))
    backbone = task.backbone
    batch, noised, timestep = task.draw(VISITS)
    with task.reference.use() as denoiser, features_of(backbone, denoiser, (8, 8)) as features:  # type: ignore[union-attr]
        prediction = backbone.predict(denoiser, noised.sample[:, 0], timestep, batch.embeds)
        [found] = features
    assert found.shape == (4, 32, 8, 8)
    torch.testing.assert_close(backbone.last_layer(backbone.denoiser)(found), prediction)
    backbone.predict(backbone.denoiser, noised.sample[:, 0], timestep, batch.embeds)
    assert len(features) == 1  # the hook is gone


def test_an_activation_mask_keeps_the_positions_above_the_mean_of_their_sample() -> None:
    features = torch.zeros(2, 3, 2, 2)
    features[0, :, 0, 0], features[0, 1, 0, 1] = 2.0, -3.0  # mean absolute activations 2, 1, 0, 0; mean ¾, deviation 0.957
    features[1] = 5 * features[0]
    mask = Mask("activation")(features)
    deviation = (((2 - 0.75) ** 2 + 0.25**2 + 2 * 0.75**2) / 3) ** 0.5
    expected = torch.tensor([[[1.25, 0.25], [0.0, 0.0]]]) / deviation
    torch.testing.assert_close(mask, torch.stack([expected, expected]))
    assert torch.equal(Mask("activation", offset=10.0)(torch.ones(1, 3, 5)), torch.full((1, 1, 5), 10.0))  # all alike: all weigh the same


def test_a_learned_mask_starts_at_one_and_is_trained_beside_the_policy(tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    def task_with_mask() -> AlignmentTask:
        task = make_task(tiny_pipeline, tiny_road, objective="sparsepo")
        task.mask = task.modules["mask"] = Mask("learned", channels=32)
        return task

    task = task_with_mask()
    assert torch.equal(task.mask(torch.randn(2, 32, 8, 8)), torch.ones(2, 1, 8, 8))  # type: ignore[misc]
    train(task, Settings(**FAST), tmp_path / "whole")
    assert task.mask.weight.abs().max() > 0  # type: ignore[union-attr,operator]
    assert (task.mask(torch.randn(2, 32, 8, 8)) >= 0).all()  # type: ignore[misc]
    killed = task_with_mask()
    train(killed, Settings(**FAST), tmp_path / "killed", stop_after=4)
    train(task_with_mask(), Settings(**FAST), tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("objective", ["tgdpo", "sparsepo", "kto"])
def test_accumulation_changes_nothing(objective: str, tiny_pipeline: Path, tiny_road: Path, tmp_path: Path) -> None:
    found = []
    for micro in (4, 1):
        task = make_task(tiny_pipeline, tiny_road, objective=objective)
        train(task, Settings(**{**FAST, "learning_rate": 1e-4}, micro_batch_size=micro), tmp_path / str(micro))
        found.append((weights(task), [line["loss"] for line in metrics(tmp_path / str(micro))]))
    (whole, losses), (parts, others) = found
    assert losses == pytest.approx(others, rel=1e-3)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)
