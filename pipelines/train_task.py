"""The alignment task of a config: model, reference, objective and rows, put together for the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.train import section_of, teacher_folder

if TYPE_CHECKING:
    from diffalign.backbones import Backbone
    from diffalign.training.alignment import AlignmentTask
    from diffalign.training.groups import CachedGroups
    from pipelines.config import Config


def build_task(config: Config, preferences: Path, latents: Path, loaded: Backbone | None = None) -> AlignmentTask:
    """The alignment task of a config, over a preference set and its latent cache.

    loaded  the config's model, its encoders offloaded, where that is at hand
    """
    import torch

    from diffalign.backbones import family_of
    from diffalign.data.latents import LatentCache, read_cache_description
    from diffalign.data.records import read_preferences, score_columns
    from diffalign.noising import load_noising
    from diffalign.objectives import OBJECTIVES, build_objective
    from diffalign.stabilisers import build_stabilisers, reads_last_layer
    from diffalign.training.alignment import AlignmentTask, Sampling
    from diffalign.training.groups import CachedGroups
    from diffalign.training.lora import add_lora, unfreeze
    from diffalign.training.masks import Mask, channels_into
    from diffalign.training.own_samples import AT_ONCE, Buffer
    from diffalign.training.randomness import seed_of
    from diffalign.training.reference import REFERENCE_ADAPTER, LateCopy, Reference, build_reference, frozen_copy
    from diffalign.training.reference_cache import ReferenceCache
    from diffalign.training.teacher_map import TeacherMap
    from pipelines.evaluate import ancestors_of, load_aligned
    from pipelines.model import load_model

    section = section_of(config)
    seed = config.seed if section.seed is None else section.seed
    needs = OBJECTIVES[section.objective["name"]]
    rows = list(read_preferences(preferences))
    samples, scores = [sample for row in rows for sample in row.samples], None
    if section.scores:
        scores = score_columns(config.run / "scores", section.scores, samples, standardise=section.standardise_scores)

    def edges(length: int) -> list[float]:  # when batches are made, the backbone is there
        return backbone.time_edges(length)

    groups = CachedGroups(
        LatentCache(latents), rows, needs.rows, triples=needs.triples, reads=needs.reads,
        mismatched="mismatched" in needs.reads, lengths=needs.lengths, scores=scores,
        time_edges=edges,
    )  # fmt: skip
    if "scores" in needs.reads:
        _check_scores(section.objective, groups)
    if section.lora is None and config.model.dtype != "float32":
        raise ValueError(
            f"full fine-tuning keeps float32 weights, model.dtype is {config.model.dtype!r}; "
            f"set model.dtype=float32 and train.precision=bf16"
        )
    if section.precision == "fp32" and config.model.dtype != "float32":
        raise ValueError(
            f"model.dtype {config.model.dtype!r} with train.precision 'fp32': half-precision weights cannot take float32 inputs; "
            f"set train.precision=bf16, or model.dtype=float32"
        )
    backbone = loaded or load_model(config.model, offload_encoders=True)  # what they make is in the cache, the dropped prompt too
    base = backbone.identity()
    _check_encoder(read_cache_description(latents).encoder, backbone.encoder_identity(), latents, config.model.source)
    family = family_of(config.model.backbone)
    if section.lora is not None:
        add_lora(backbone.denoiser, section.lora, seed_of(seed, "lora"), family.lora_targets, family.unreached)
    else:
        unfreeze(backbone.denoiser, family.unreached)
    kept = None if section.reference.adapter is None else backbone.keep_reference(section.reference.adapter, REFERENCE_ADAPTER)
    dtype, rests_on_cpu = getattr(torch, section.reference_dtype), section.reference_device == "cpu"
    reference: Reference | None = None
    cache = None
    if section.reference_cache is not None and needs.reference is not None and section.reference.name in ("initial", "adapter"):
        held = section.reference_dtype if section.lora is None else config.model.dtype
        # A prediction is of its batch, whose size rounds it: a batch in parts is another one.
        parts = "" if section.samples_per_forward is None else f" {section.samples_per_forward}"
        weights = f"{config.model.fingerprint()} {base} {held} {section.precision}{parts}{'' if kept is None else f' {kept}'}"
        cache = ReferenceCache(section.reference_cache.expanduser(), weights)

    def copy_of_base() -> Reference:
        """Of the model loaded once more, on the CPU; ValueError where its denoiser has changed since."""
        again = load_model(config.model.model_copy(update={"device": "cpu"}))
        if again.identity() != base:
            raise ValueError(
                f"the denoiser of {config.model.source!r} has changed since this run began ({base} then, {again.identity()} now), and "
                f"train.reference_cache lacks predictions of it; put it back, or train again with --redo"
            )
        return frozen_copy(again.denoiser, dtype, rests_on_cpu=rests_on_cpu, device=next(backbone.denoiser.parameters()).device)

    if cache is not None and section.lora is None and section.mask is None:  # a mask needs more than the prediction
        reference = LateCopy(copy_of_base)
    elif needs.reference is not None and section.reference_errors == "live":
        reference = build_reference(backbone.denoiser, section.reference, section, dtype, rests_on_cpu=rests_on_cpu)
    last_layer = reads_last_layer(section.stabilisers)
    if last_layer:
        backbone.last_layer(backbone.denoiser)  # there, or an error before anything is trained
    if section.gradient_checkpointing:
        backbone.denoiser.enable_gradient_checkpointing()
    teacher = teacher_map = mask = None
    if section.teacher is not None:
        checkpoint = load_aligned(config, [teacher_folder(section.teacher)], base, offload_encoders=True)
        teacher = frozen_copy(checkpoint.denoiser, dtype, rests_on_cpu=rests_on_cpu)
        if section.teacher_draws > 1 and reference is not None:
            teacher_map = TeacherMap(
                backbone, teacher, reference, draws=section.teacher_draws, timesteps=section.timesteps,
                at_once=section.samples_per_forward, seed=seed, cache=cache,
            )  # fmt: skip
    if section.mask is not None:
        device = next(backbone.denoiser.parameters()).device
        mask = Mask(**section.mask.model_dump(), channels=channels_into(backbone.head(backbone.denoiser))).to(device)
    own_samples = None
    if section.own_samples is not None:
        if section.flip and groups.cache.conditioned:
            raise ValueError(
                f"train.flip is {section.flip:g}, and own samples are made beside what came with their prompts as it is, not mirrored; "
                f"set train.flip=0"
            )
        own_samples = Buffer(
            section.own_samples, backbone, groups, prompt_dropout=section.prompt_dropout, timesteps=section.timesteps, seed=seed,
            at_once=min(AT_ONCE, section.samples_per_forward or AT_ONCE),
        )  # fmt: skip
    identity: dict[str, Any] = {
        "kind": "full" if section.lora is None else "lora",
        "base": base,
        "source": config.model.source,
        "adapter": config.model.adapter,
    }
    if section.samples_per_forward is not None and section.lora is not None and section.lora.dropout > 0:
        identity["samples per forward"] = section.samples_per_forward  # as "groups per forward" of diffalign.training.loop
    if kept is not None:
        identity["reference adapter"] = kept
    ancestors = ancestors_of(config.model)
    if ancestors:
        identity["ancestors"] = ancestors
    return AlignmentTask(
        backbone, groups, build_objective(**section.objective), needs, load_noising(**section.noising), reference,
        teacher=teacher, teacher_map=teacher_map, mask=mask, cache=cache, own_samples=own_samples,
        samples_per_forward=section.samples_per_forward,
        draws=section.draws, stabilisers=build_stabilisers(section.stabilisers), reads_last_layer=last_layer,
        sampling=Sampling(section.prompt_dropout, section.flip, section.timesteps), sft_steps=section.sft_steps, seed=seed,
        identity=identity,
        write_weights=lambda denoiser, folder: backbone.save_trained(folder),
        # A rounded copy starts beside the policy, another adapter away from it.
        starts_at_reference=kept is None and (section.lora is not None or section.reference_dtype == "float32"),
    )  # fmt: skip


def _check_scores(objective: Mapping[str, Any], groups: CachedGroups) -> None:
    """ValueError where an objective, asked itself, does not take the scores of some rows: too few or too many, or out of its range."""
    import torch

    from diffalign.objectives import build_objective
    from diffalign.tensors import Outputs

    for scores in groups.every_score().split(1 << 16):
        nothing, each = torch.zeros(*scores.shape[:2], 1, 1), torch.ones(len(scores))
        build_objective(**objective)(Outputs(nothing, nothing, each, snr=each, reference=nothing, scores=scores))


def _check_encoder(cached: str, own: str, latents: Path, source: str) -> None:
    """A denoiser that goes on from the one that encoded may have another name; its autoencoder and text encoder may not differ."""
    if cached.partition(":")[0] == own.partition(":")[0] and cached != own:
        raise ValueError(
            f"the latents in {latents} were made by another autoencoder or text encoder ({cached}) than {source!r} has ({own}); "
            f"encode them with this model: diffalign encode CONFIG --redo"
        )
