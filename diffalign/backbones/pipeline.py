"""What the families share: a loaded pipeline of diffusers, its denoiser and its autoencoder. A family's file says what is its own."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import PipelineQuantizationConfig
from torch import Tensor, nn

from diffalign.backbones import Loading, quiet_loading
from diffalign.backbones.features import HasFeatures
from diffalign.backbones.parts import read_autoencoder, read_denoiser
from diffalign.backbones.process import Flow, Process
from diffalign.backbones.quantised import is_placed, quantisation
from diffalign.backbones.schedulers import scheduler_named
from diffalign.backbones.seeded import generators, latents_of
from diffalign.backbones.weights import (
    adapters_of,
    denoiser_identity,
    encoder_identity,
    fuse_adapter,
    has_lora,
    keep_adapters,
    keep_reference,
    kept_adapters,
    lora_layers,
    read_pipeline,
    save_by_peft,
    takes_lora,
    to_uint8,
)
from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from diffalign.data.modalities.video import Video
from diffalign.tensors import even_edges


class LoadedPipeline(HasFeatures):
    """The part of `Backbone` that is the same for every pipeline.

    PIPELINE   the family's class in diffusers
    DENOISER   its part of the pipeline, and the folder that full fine-tuning writes
    ALIKE      settings of a denoiser that another one in its place must share
    ENCODERS   the parts that make latents and embeds; one that a pipeline goes without is None there
    BESIDE     the small parts that `predict` runs beside the denoiser
    FLOAT32    the parts that stay in float32 whatever dtype is asked for, as the release has them
    """

    PIPELINE: ClassVar[Any]
    DENOISER: ClassVar[str]
    ALIKE: ClassVar[tuple[str, ...]]
    ENCODERS: ClassVar[tuple[str, ...]] = ("vae", "text_encoder")
    BESIDE: ClassVar[tuple[str, ...]] = ()
    FLOAT32: ClassVar[tuple[str, ...]] = ()

    pipeline: Any
    source: str
    process: Process
    token_limit: int
    channels: int | None = None
    has_set_scheduler = False  # whether it is another than the source's, as the family's settings ask

    def __init__(self, pipeline: Any, source: str):
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.source = pipeline, source
        self.denoiser: nn.Module = getattr(pipeline, self.DENOISER)
        for module in (self.denoiser, *self._encoders().values()):
            module.requires_grad_(False).eval()

    def _encoders(self) -> dict[str, nn.Module]:
        found = {name: getattr(self.pipeline, name) for name in self.ENCODERS}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def offload_encoders(self) -> None:
        for name, part in self.pipeline.components.items():
            if isinstance(part, nn.Module) and part is not self.denoiser and name not in self.BESIDE:
                part.to("cpu")

    def token_count(self, prompt: str) -> int:
        return len(self.pipeline.tokenizer(prompt).input_ids)

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        """Mean and factor of the autoencoder's latents, each a number or a tensor (C,): the denoiser takes (latents − mean)·factor."""
        config = self.pipeline.vae.config
        return config.get("shift_factor") or 0.0, config.scaling_factor

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents as the denoiser takes them, of the autoencoder's own."""
        mean, factor = (by_channel(each, latents) for each in self.statistics())
        return (latents - mean) * factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        mean, factor = (by_channel(each, latents) for each in self.statistics())
        return latents / factor + mean

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        return self.scaled(latents_of(vae.encode(media.to(vae.device, vae.dtype)).latent_dist, seeds))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode(self.unscaled(latents.to(vae.device, vae.dtype))).sample.clamp(-1, 1)

    def save(self, folder: Path) -> None:
        if kept_adapters(self.denoiser):
            raise ValueError(
                f"{self.source} has adapters beside weights of {self.denoiser.dtype}, and a diffusers folder has weights alone; "
                f"load it in float32, where adapters become a part of the weights, and save that"
            )
        self.pipeline.save_pretrained(folder)

    def save_trained(self, folder: Path) -> None:
        if has_lora(self.denoiser) and not takes_lora(self.PIPELINE):
            save_by_peft(self.denoiser, folder)
        elif has_lora(self.denoiser):
            layers: dict[str, Any] = {f"{self.DENOISER.removesuffix('_2')}_lora_layers": lora_layers(self.denoiser)}
            self.PIPELINE.save_lora_weights(folder, **layers, safe_serialization=True)
        else:
            getattr(self.pipeline, self.DENOISER).save_pretrained(folder / self.DENOISER)
        if self.has_set_scheduler:
            self.pipeline.scheduler.save_pretrained(folder / "scheduler")

    def keep_reference(self, adapter: str, name: str) -> str:
        return keep_reference(self.pipeline, self.DENOISER, adapter, name, self.source)

    def conditioned(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """`guided` of a model that has its guidance as conditioning; ValueError for a negative prompt, for nothing is subtracted."""
        if any(negative_prompts):
            raise ValueError(
                f"{self.source} has its guidance as conditioning, so nothing is subtracted; negative prompt {negative_prompts[0]!r} "
                f"would do nothing: leave it empty"
            )
        return {"guidance_scale": guidance, "max_sequence_length": self.token_limit}

    def keep_scheduler(self, other: str | None) -> None:
        """ValueError where another scheduler is wanted than the model's own."""
        if other is not None:
            own = type(self.pipeline.scheduler).__name__
            raise ValueError(f"scheduler {other!r} does not know the noise levels of {self.source}, which has its own {own}; leave it out")

    def identity(self) -> str:
        return denoiser_identity(self.denoiser)

    def encoder_identity(self) -> str:
        return encoder_identity(self._encoders(), self.pipeline.vae.dtype)


def by_channel(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number as it is; numbers (C,) to meet latents (N, C, *S), in their dtype and on their device."""
    return value if isinstance(value, int | float) else value.to(like).view(-1, *[1] * (like.ndim - 2))


class ImagePipeline(LoadedPipeline):
    """The part that is the same for every pipeline that makes images."""

    modality = "image"
    rate = None

    @property
    def step(self) -> int:
        """Pixels that a side is a multiple of."""
        return self.pipeline.vae_scale_factor

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(side // self.step * self.step for side in size)

    def time_edges(self, length: int) -> list[float]:
        raise ValueError(f"{self.source} makes images, which have no spans of time; choose an objective for whole samples: diffusion_dpo")

    def media(self, decoded: Tensor) -> list[Image]:
        return [Image.from_pixels(pixels) for pixels in to_uint8(decoded).transpose(0, 2, 3, 1)]

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """The arguments by which the family's pipeline takes its prompts and is guided; ValueError where it cannot be so."""
        return {"guidance_scale": guidance, "negative_prompt": negative_prompts}

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Image]:  # fmt: skip
        if isinstance(self.process, Flow):
            self.keep_scheduler(scheduler)
        height, width = size or self.size
        with scheduler_named(self.pipeline, scheduler):
            images = self.pipeline(
                prompt=list(prompts), height=height, width=width, num_inference_steps=steps,
                generator=generators(prompts, seeds), output_type="np", **self.guided(guidance, [negative_prompt] * len(prompts)),
            ).images  # fmt: skip
        return [Image.from_pixels(pixels) for pixels in np.rint(images * 255).astype(np.uint8)]


class VideoPipeline(LoadedPipeline):
    """The part that is the same for every pipeline of videos with a causal autoencoder, whose first latent is the first frame alone.

    size, rate   (T, H, W) and frames per second that the model was trained at
    step         frames that each later latent stands for, and pixels that height and width are multiples of
    time_patch   latents along time that the denoiser takes together
    """

    modality = "video"

    size: tuple[int, ...]
    rate: float
    step: tuple[int, int, int]
    time_patch: int = 1

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        (frames, *sides), (time, *steps) = size, self.step
        latents = ((frames - 1) // time + 1) // self.time_patch * self.time_patch
        return (max(0, (latents - 1) * time + 1), *(side // step * step for side, step in zip(sides, steps)))

    def patches(self, axes: int) -> tuple[int, ...]:
        return (self.time_patch, *super().patches(axes)[1:])

    def time_edges(self, length: int) -> list[float]:
        """The first latent is the first frame alone, which takes no time; the others share all time evenly."""
        return [0.0, *even_edges(length - 1)] if length > 1 else even_edges(length)

    def media(self, decoded: Tensor) -> list[Video]:
        return [Video.from_frames(frames, self.rate) for frames in to_uint8(decoded).transpose(0, 2, 3, 4, 1)]

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """The arguments by which the family's pipeline is guided, beside its own; ValueError where it cannot be so."""
        return {"guidance_scale": guidance, "negative_prompt": negative_prompts, "max_sequence_length": self.token_limit}

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Video]:  # fmt: skip
        return self.made(prompts, seeds, steps, guidance, negative_prompt, size or self.size, scheduler)

    @torch.no_grad()
    def made(self, prompts: list[str], seeds: list[int], steps: int, guidance: float, negative_prompt: str, size: tuple[int, ...],
             scheduler: str | None, **given: Any) -> list[Video]:  # fmt: skip
        """As `sample`; `given` is what the family's pipeline takes beside, or otherwise."""
        self.keep_scheduler(scheduler)
        frames, height, width = size
        options = {"generator": generators(prompts, seeds), **self.guided(guidance, [negative_prompt] * len(prompts)), **given}
        made: Any = self.pipeline(
            prompt=list(prompts), num_frames=frames, height=height, width=width, num_inference_steps=steps, output_type="np", **options
        )
        return [Video.from_frames(np.rint(video * 255).astype(np.uint8), self.rate) for video in made.frames]


class AudioPipeline(LoadedPipeline):
    """The part that is the same for every pipeline of sounds, whose latents stand side by side in time.

    rate     samples per second
    column   samples that lengths are multiples of
    """

    modality = "audio"

    rate: float
    column: int

    @property
    def size(self) -> tuple[int, ...]:
        """(samples,) that the model was trained at: each family knows its own."""
        raise NotImplementedError

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(samples // self.column * self.column for samples in size)

    def time_edges(self, length: int) -> list[float]:
        return even_edges(length)

    def media(self, decoded: Tensor) -> list[Audio]:
        return [Audio.from_waveform(waveform, round(self.rate)) for waveform in decoded.float().cpu().numpy()]


def load_pipeline(family: type[LoadedPipeline], source: str, loading: Loading, **options: Any) -> Any:
    """The family's pipeline on its device, with what `loading` puts into the denoiser's place or adds to it; see `load_backbone`.

    options   of `from_pretrained`
    """
    quiet_loading()
    quantised = quantisation(loading.quantise, loading.dtype)
    if source.startswith("random:"):
        from diffalign.backbones.random_weights import random_pipeline  # of five families, of which this is one at most

        made = random_pipeline(source.removeprefix("random:"), family.PIPELINE, loading.dtype, **options)
        if quantised is not None:
            _quantise(made, family, loading, quantised)
        return with_loaded(family, made, source, loading)
    if quantised is not None:
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping={family.DENOISER: quantised})
    dtype = {"default": loading.dtype, **dict.fromkeys(family.FLOAT32, torch.float32)} if family.FLOAT32 else loading.dtype
    pipeline = read_pipeline(family.PIPELINE, source, dtype, loading.revision, loading.variant, **options)
    return with_loaded(family, pipeline, source, loading)


def _quantise(pipeline: Any, family: type[LoadedPipeline], loading: Loading, quantised: Any) -> None:
    """Puts a quantised denoiser in the place of a made one: weights are quantised while they are read, so they are written first."""
    with TemporaryDirectory(prefix="diffalign-random-") as folder:
        own = getattr(pipeline, family.DENOISER)
        own.save_pretrained(folder)
        setattr(
            pipeline, family.DENOISER,
            read_denoiser(own, Path(folder), family.DENOISER, loading.dtype, family.ALIKE, quantization_config=quantised),
        )  # fmt: skip


def with_loaded(family: type[LoadedPipeline], pipeline: Any, source: str, loading: Loading) -> Any:
    """A pipeline with the denoiser, the autoencoder and the adapters of `loading`, on its device, or what `predict` runs of it."""
    part, quantised = family.DENOISER, quantisation(loading.quantise, loading.dtype)
    if getattr(pipeline, part, pipeline) is None:  # what has no such part at all is another pipeline, and the family says so
        raise ValueError(f"{source} has no {part} to train; give another model, or remove what asks for it from model.settings")
    if loading.denoiser is not None:
        options = {} if quantised is None else {"quantization_config": quantised}
        own = getattr(pipeline, part)
        setattr(pipeline, part, read_denoiser(own, Path(loading.denoiser), part, loading.dtype, family.ALIKE, **options))
    if loading.quantise is not None or loading.dtype != torch.float32:  # into rounded weights a small update would round away
        keep_adapters(pipeline, part, adapters_of(loading.adapter), source)
    else:
        for place in adapters_of(loading.adapter):
            fuse_adapter(pipeline, part, place, source)
    if loading.vae is not None:
        pipeline.vae = read_autoencoder(pipeline.vae, str(loading.vae))
    if loading.tiled_vae:
        _tile(pipeline.vae, source)
    if not loading.offload_encoders:
        return pipeline.to(loading.device)
    for name in (*family.BESIDE, *(() if is_placed(loading.quantise) else (part,))):
        getattr(pipeline, name).to(loading.device)
    return pipeline


def _tile(vae: Any, source: str) -> None:
    try:
        vae.enable_tiling()
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(f"{source} has an autoencoder ({type(vae).__name__}) that makes no tiles; remove model.tiled_vae") from error
