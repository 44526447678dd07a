"""The alignment task: preference groups, a noising, a policy and its reference, and an objective on their errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.backbones import Backbone
from diffalign.noising import Draw, Noised
from diffalign.objectives import OBJECTIVES, Needs, build_objective
from diffalign.tensors import Loss, Outputs
from diffalign.training import diagnostics
from diffalign.training.groups import CachedGroups, GroupBatch
from diffalign.training.last_layer import last_layer_gradients
from diffalign.training.loop import Measured
from diffalign.training.masks import features_of
from diffalign.training.own_samples import Buffer, Records
from diffalign.training.predict import predict_own, unwrapped
from diffalign.training.randomness import generator
from diffalign.training.reference import Moving, OnPolicy, Reference
from diffalign.training.reference_cache import ReferenceCache
from diffalign.training.teacher_map import TeacherMap
from diffalign.training.visits import Visit, by_shape, every_draw
from diffalign.training.work import Work

RUNNING = "running/"  # of metrics that objectives track
START = "at the reference: "  # of numbers that only the first step has, for its check


@dataclass(frozen=True)
class Sampling:
    """What is drawn per group, and shared by all its samples.

    prompt_dropout   share P of visits whose prompt is replaced by the empty one; of a family that drops conditions too, P of them go
                     without theirs, P/2 without both: Brooks et al. 2022, arXiv:2211.09800, section 3.2.1
    flip             share of visits whose samples are all mirrored (latents of mirrored images must be in the cache)
    timesteps        (low, high) in [0, 1] of the scheduler's own range
    """

    prompt_dropout: float = 0.0
    flip: float = 0.0
    timesteps: tuple[float, float] = (0.0, 1.0)

    def drops(self, uniform: Tensor) -> tuple[list[bool], list[bool]]:
        """Whose prompt, and whose condition, goes: of numbers in [0, 1)."""
        share = self.prompt_dropout
        return (uniform < share).tolist(), ((share / 2 <= uniform) & (uniform < 3 * share / 2)).tolist()


@dataclass(frozen=True)
class Networks:
    """What a step runs beside the policy, each may be None.

    reference, teacher  frozen denoisers
    mask                weights of positions
    cache               of what the reference predicts
    """

    reference: Reference | None = None
    teacher: Reference | None = None
    mask: nn.Module | None = None
    cache: ReferenceCache | None = None


def forward(backbone: Backbone, policy: nn.Module, networks: Networks, batch: GroupBatch, noised: Noised, timestep: Tensor,
            needs: Needs, at_once: int | None = None, work: Work | None = None, reads_last_layer: bool = False) -> Outputs:  # fmt: skip
    """What the policy, and each other network that the objective needs, predicts on all B·K samples; added to `work`.

    at_once  samples in a forward; None: all
    reads_last_layer  whether a stabiliser reads the gradients of the policy's last layer. ValueError for samples that differ in length
    """
    work = Work() if work is None else work
    count, size = noised.sample.shape[1], tuple(noised.sample.shape[3:])
    flat, every = noised.sample.flatten(0, 1), timestep.repeat_interleave(count)
    lengths = None if batch.lengths is None else batch.lengths.flatten()

    def predict(denoiser: nn.Module, prompts: dict[str, Tensor], cache: ReferenceCache | None = None) -> Tensor:
        embeds = {name: value.repeat_interleave(count, 0) for name, value in prompts.items()}
        made = partial(predict_own, backbone, denoiser, flat, every, embeds, lengths, at_once)
        work.forwards += len(flat)
        return (made() if cache is None else cache.recall(made, flat, every, prompts, lengths)).view_as(noised.sample)

    frozen = teacher = mask = mismatched = None
    if needs.reference is not None:
        if networks.reference is None:
            raise ValueError("this objective measures drift from a reference, and there is none; give LoRA or a frozen copy")
        with networks.reference.use() as denoiser, features_of(backbone, denoiser, size, wanted=networks.mask is not None) as features:
            frozen = predict(denoiser, batch.embeds, networks.cache if networks.mask is None else None)  # a mask needs the forward itself
        if networks.mask is not None:
            mask = backbone.by_position(networks.mask(torch.cat(features)), size).unflatten(0, noised.sample.shape[:2])
    if networks.teacher is not None:
        with networks.teacher.use() as denoiser:
            teacher = predict(denoiser, batch.embeds)
    if batch.mismatched is not None and networks.reference is not None:
        with torch.no_grad():
            own_mismatched = predict(policy, batch.mismatched)
        with networks.reference.use() as denoiser:
            mismatched = torch.stack([own_mismatched, predict(denoiser, batch.mismatched, networks.cache)], 2)
    if reads_last_layer and lengths is not None:
        raise ValueError("the last layer's gradients of samples of unequal length are not worked out; set the safeguard's space to output")
    work.backwards += len(flat)
    with features_of(backbone, backbone.denoiser, size, wanted=reads_last_layer) as features:
        own = predict(policy, batch.embeds)
    gradients = None
    if reads_last_layer:
        gap = 2 * (own.detach().to(noised.target) - noised.target).flatten(0, 1) / own[0, 0].numel()
        layer = backbone.last_layer(backbone.denoiser)
        gradients = last_layer_gradients(layer, torch.cat(features), gap).unflatten(0, noised.sample.shape[:2])
    return Outputs(
        own, noised.target, timestep, reference=frozen, teacher=teacher, mismatched=mismatched, mask=mask,
        fraction=timestep / backbone.process.timestep_count, snr=backbone.process.signal_to_noise(timestep).to(flat.device),
        scores=batch.scores, labels=batch.labels, win_probability=batch.win_probability, segment_labels=batch.segment_labels,
        segment_shares=batch.segment_shares, lengths=batch.lengths, longest=batch.longest,
        last_layer_gradient=gradients,
    )  # fmt: skip


def columns(value: Tensor) -> list[tuple[str, Tensor]]:
    """(B,) under the name "", or the columns of (B, N) by number."""
    return [("", value)] if value.ndim == 1 else [(str(index), column) for index, column in enumerate(value.unbind(1))]


class AlignmentTask:
    """What `loop.train` trains for alignment: see `Task`.

    groups      the rows the objective needs, over the latent cache
    reference   None for objectives without one; teacher, mask  for objectives that read them; teacher_map  in the place of the teacher's
                prediction; cache  of a reference that stays as it is (see `Networks`)
    own_samples the policy's own, for objectives whose groups have one at index 1
    sft_steps   the first steps train on the denoising error of index 0 instead (Tango 2, arXiv:2404.09956). Draws are those
                of the objective, for which an inversion runs all samples and the reference; where frozen, that is the same afterwards
    stabilisers  act on Outputs before the objective, in their order; reads_last_layer  whether one of them reads the last layer's gradients
    samples_per_forward  of those of a micro-batch, at most so many run at once; None: all
    draws       of timestep, noise, dropout and flip for each visit of a group: rows of one batch, whose mean loss is the group's
    known_error  visits, one for each draw, → (B, K) error of the reference, which was made before the first step: the reference is not run
    write_weights(denoiser, folder)  saves the policy as users load it
    """

    def __init__(self, backbone: Backbone, groups: CachedGroups, objective: Callable[[Outputs], Loss], needs: Needs,
                 noising: Callable[[Draw], Noised], reference: Reference | None, *,
                 teacher: Reference | None = None, teacher_map: TeacherMap | None = None, mask: nn.Module | None = None,
                 cache: ReferenceCache | None = None,
                 own_samples: Buffer | None = None, samples_per_forward: int | None = None, draws: int = 1,
                 stabilisers: Sequence[Callable[[Outputs], Outputs]] = (), reads_last_layer: bool = False,
                 sampling: Sampling, sft_steps: int = 0, seed: int, identity: dict[str, Any],
                 write_weights: Callable[[nn.Module, Path], None], starts_at_reference: bool = True):  # fmt: skip
        self.modules: dict[str, nn.Module] = {"denoiser": backbone.denoiser}
        self.backbone, self.groups, self.objective, self.needs = backbone, groups, objective, needs
        self.noising, self.reference, self.sampling, self.seed = noising, reference, sampling, seed
        self.teacher_map = teacher_map
        self.teacher, self.mask, self.cache, self.own_samples, self.stabilisers = teacher, mask, cache, own_samples, stabilisers
        self.reads_last_layer = reads_last_layer
        if mask is not None and any(parameter.requires_grad for parameter in mask.parameters()):
            self.modules["mask"] = mask
        self.sft_steps, self.samples_per_forward, self.draws = sft_steps, samples_per_forward, draws
        self.identity, self.write_weights, self.starts_at_reference = identity, write_weights, starts_at_reference
        self.known_error: Callable[[Sequence[Visit]], Tensor] | None = None
        self.group_count, self.difficulty = len(groups), groups.difficulty
        self.has_started, self.step = False, 0
        self.running: dict[str, Tensor] = {}
        self.work = Work() if own_samples is None else own_samples.work  # since the last call of `measure` began

    def draw(self, visits: Sequence[Visit], reference: Reference | None = None) -> tuple[GroupBatch, Noised, Tensor]:
        """The batch, x_t with its target, and the timesteps of visits to groups of one shape: a function of (seed, group, draw), one draw
        per group.

        With own samples a visit draws one of their records, and with it group, prompt and timestep.
        All on the denoiser's device: an inversion runs a network, `reference` in the place of the task's where it is given.
        """
        to = next(self.backbone.denoiser.parameters()).device
        generators, uniform = self._numbers(visits)
        own = self._own(uniform)
        if own is None:
            groups, (dropped, unconditioned) = [visit.group for visit in visits], self.sampling.drops(uniform[:, 1])
        else:
            groups, dropped, unconditioned = own.group.tolist(), own.is_dropped.tolist(), None
        flipped = (uniform[:, 2] < self.sampling.flip).tolist()
        batch = self.groups.fetch(groups, dropped=dropped, flipped=flipped, unconditioned=unconditioned).to(to)
        low, high = self.sampling.timesteps
        number, size = low + (high - low) * uniform[:, 0], tuple(batch.latents.shape[3:])
        timestep = self.backbone.process.timestep(number, size).to(to) if own is None else own.timestep
        networks, visited = self._networks(batch, reference or self.reference), None if own is None else own.noised
        draw = Draw(self.backbone.process, batch.latents.float(), timestep, generators, networks, visited)
        noised = self.noising(draw)
        count, *shape = batch.latents.shape[1:]
        if noised.sample.shape != (len(timestep), count + (own is not None), *shape):
            raise ValueError(
                f"noising returned {tuple(noised.sample.shape)} for latents {tuple(batch.latents.shape)}; one x_t per sample, one t each"
            )
        return batch if own is None else replace(batch, scores=None, labels=None), noised, timestep  # those are of index 0 alone

    def _numbers(self, visits: Sequence[Visit]) -> tuple[list[torch.Generator], Tensor]:
        """A generator for each visit, and the first numbers in [0, 1) of each, (B, 3): for timestep, prompt dropout and flip."""
        # The first draw of several is the one that a run of single draws has.
        keys = [(visit.group, visit.draw, visit.repeat) if visit.repeat else (visit.group, visit.draw) for visit in visits]
        generators = [generator(self.seed, "group", *key) for key in keys]
        return generators, torch.stack([torch.rand(3, generator=one) for one in generators])

    def _own(self, uniform: Tensor) -> Records | None:
        """What the number that would draw a visit's timestep draws of this step's own samples."""
        if self.own_samples is None:
            return None
        return self.own_samples.at(self.step, OnPolicy(self.backbone.denoiser).use).drawn(uniform[:, 0])

    def _networks(self, batch: GroupBatch, reference: Reference | None) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
        """Policy and reference as a noising may run them: evaluation mode, no gradient, each sample under its group's prompt."""
        count = batch.latents.shape[1]

        def run(use: Callable[[], AbstractContextManager[nn.Module]], cache: ReferenceCache | None = None) -> Callable[..., Tensor]:
            def predict(x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
                embeds = {name: value[rows // count] for name, value in batch.embeds.items()}
                lengths = None if batch.lengths is None else batch.lengths.flatten()[rows]
                self.work.forwards += len(x)
                with use() as denoiser:
                    made = partial(predict_own, self.backbone, denoiser, x, timestep, embeds, lengths, self.samples_per_forward)
                    return made() if cache is None else cache.recall(made, x, timestep, embeds, lengths)

            return predict

        networks = {"policy": run(OnPolicy(self.backbone.denoiser).use)}
        return networks if reference is None else networks | {"reference": run(reference.use, self.cache)}

    def measure(self, visits: list[Visit]) -> Measured:
        """Of the visits in their order; groups of one shape go through the networks together."""
        self.work.forwards = self.work.backwards = 0
        places = by_shape(visits, self.groups.shape)
        parts = [self._measure([visits[place] for place in each], is_first=not index) for index, each in enumerate(places)]
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([place for each in places for place in each]).argsort()

        def joined(values: Sequence[Tensor]) -> Tensor:
            of_groups = torch.cat([*values]).unflatten(0, (len(order), -1))  # the draws of a group stay side by side
            return of_groups[order.to(values[0].device)].flatten()

        numbers = {name: joined([part.numbers[name] for part in parts]) for name in parts[0].numbers}
        return Measured(joined([part.value for part in parts]), joined([part.weight for part in parts]), numbers, parts[-1].work)

    def _measure(self, visits: list[Visit], *, is_first: bool) -> Measured:
        """Of visits to groups of one shape.

        is_first  of the step's parts: its forward alone goes through DDP, which sends buffers around in each, and the processes may have
                  different numbers of parts. The gradients are shared once all are summed, as ever.
        """
        rows = every_draw(visits, self.draws)
        batch, noised, timestep = self.draw(rows)
        trained = {name: module if is_first else unwrapped(module) for name, module in self.modules.items()}
        if self.step < self.sft_steps:
            return self._supervised(trained["denoiser"], batch, noised, timestep)
        teacher = self.teacher if self.teacher_map is None else None
        networks = Networks(self.reference, teacher, trained.get("mask", self.mask), self.cache)
        at_once, policy = self.samples_per_forward, trained["denoiser"]
        known = None if self.known_error is None else self.known_error(rows).to(timestep.device)
        needs = self.needs if known is None else replace(self.needs, reference=None)
        self.work.forwards += 0 if known is None else known.numel()
        drift = None if self.teacher_map is None else self.teacher_map(batch)  # before the policy has its activations
        outputs = forward(self.backbone, policy, networks, batch, noised, timestep, needs, at_once, self.work, self.reads_last_layer)
        outputs = replace(outputs, running=self.running, known_reference_error=known, known_teacher_drift=drift)
        with torch.autocast(timestep.device.type, enabled=False):
            if self.stabilisers and self.needs.rows == "lists":
                with torch.no_grad():
                    outputs = replace(outputs, ranking=self.objective(outputs).ranking)
            for stabiliser in self.stabilisers:
                outputs = stabiliser(outputs)
            loss = self.objective(outputs)
            at_reference = self._at_reference(outputs)
        if loss.value.shape != timestep.shape:
            raise ValueError(
                f"the objective returned a loss of shape {tuple(loss.value.shape)} for {len(timestep)} groups; it must stay unreduced"
            )
        tracked = {f"{RUNNING}{name}/{column}": values for name, value in loss.tracked.items() for column, values in columns(value)}
        return self._measured(loss, batch, diagnostics.numbers(outputs, loss) | at_reference | tracked)

    def _measured(self, loss: Loss, batch: GroupBatch, numbers: dict[str, Tensor]) -> Measured:
        """Of rows that are `draws` of each group in turn."""
        return Measured(loss.value.unflatten(0, (-1, self.draws)).mean(1), batch.weight[:: self.draws], numbers, replace(self.work))

    def _supervised(self, policy: nn.Module, batch: GroupBatch, noised: Noised, timestep: Tensor) -> Measured:
        """What SFT measures on the preferred samples of the same draw."""
        lengths = None if batch.lengths is None else batch.lengths[:, :1]
        first = replace(batch, latents=batch.latents[:, :1], lengths=lengths, scores=None, labels=None, mismatched=None)
        noised = replace(noised, sample=noised.sample[:, :1], target=noised.target[:, :1])
        at_once = self.samples_per_forward
        outputs = forward(self.backbone, policy, Networks(), first, noised, timestep, OBJECTIVES["sft"], at_once, self.work)
        with torch.autocast(timestep.device.type, enabled=False):
            loss = build_objective("sft")(outputs)
        return self._measured(loss, batch, diagnostics.numbers(outputs, loss))

    @torch.no_grad()
    def _at_reference(self, outputs: Outputs) -> dict[str, Tensor]:
        """Before the first update: loss, margin, of single samples |logit|, with the reference in the policy's place."""
        if self.has_started or not self.starts_at_reference or (at_reference := diagnostics.at_reference(outputs)) is None:
            return {}
        loss = self.objective(at_reference)
        found = {START + "loss": loss.value} | ({} if loss.margin is None else {START + "margin": loss.margin})
        if loss.reward is not None and outputs.labels is not None:
            found[START + "logit"] = loss.reward.abs().amax(1)
        return found

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        start = {name.removeprefix(START): float(numbers.pop(name).mean()) for name in list(numbers) if name.startswith(START)}
        metrics = diagnostics.summarise(numbers, self.backbone.process.timestep_count)
        if start:
            diagnostics.check_start(
                metrics["loss"], metrics.get("rewards/margins"), start["loss"], start.get("margin"),
                metrics.get("largest_logit"), start.get("logit"),
            )  # fmt: skip
        return metrics

    @property
    def state(self) -> dict[str, Tensor]:
        own = self.reference.weights if isinstance(self.reference, Moving) else {}
        return {f"reference.{name}": value for name, value in own.items()}

    def update(self, step: int) -> None:
        if isinstance(self.reference, Moving):
            self.reference.follow(step)

    def follow(self, step: int, metrics: dict[str, float]) -> None:
        """What was tracked becomes what the next step reads: from the metrics alone, so a resumed run has the same."""
        self.has_started, self.step = True, step
        to = next(self.backbone.denoiser.parameters()).device
        found: dict[str, dict[str, float]] = {}
        for key, value in metrics.items():
            if key.startswith(RUNNING):
                name, column = key.removeprefix(RUNNING).rsplit("/", 1)
                found.setdefault(name, {})[column] = value
        self.running = {
            name: torch.tensor(list(values.values()) if "0" in values else values[""], device=to) for name, values in found.items()
        }

    def warnings(self, history: list[dict[str, float]]) -> dict[str, str]:
        said = diagnostics.warnings(history, winners_fall=self.needs.winners_fall, draws=self.draws)
        moves = isinstance(self.reference, OnPolicy | Moving)
        return {kind: sentence for kind, sentence in said.items() if not (moves and kind in diagnostics.OF_A_FIXED_REFERENCE)}

    def describe(self, visit: Visit) -> str:
        own = self._own(self._numbers([visit])[1])
        return self.groups.describe(visit.group if own is None else int(own.group))

    def buffer(self) -> dict[str, Tensor]:
        return {} if self.own_samples is None else self.own_samples.kept(self.step)

    def refill(self, buffer: dict[str, Tensor]) -> None:
        if self.own_samples is not None:
            self.own_samples.refill(self.step, buffer)

    def write(self, folder: Path) -> None:
        self.write_weights(self.backbone.denoiser, folder)
        (folder / "reference.json").write_text(json.dumps(self.identity, indent=1))
