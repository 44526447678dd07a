"""Tango, and the bundled miniature of the tones world: a UNet over latents of log-mel spectrograms, T5 text conditioning, a vocoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor, nn

from diffalign.backbones import Loading, quiet_loading
from diffalign.backbones.mel import Mel, vocode
from diffalign.backbones.pipeline import AudioPipeline, load_pipeline, with_loaded
from diffalign.backbones.process import Diffusion
from diffalign.backbones.schedulers import scheduler_named
from diffalign.backbones.seeded import generators, latents_of
from diffalign.backbones.tango_release import how_to_fetch, is_release, read_parts
from diffalign.data.modalities.audio import Audio
from diffalign.model_source import source_path

TOKEN_LIMIT = 512


class TangoPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Text to audio, of the parts that Tango has (Ghosal et al. 2023, arXiv:2304.13731), each of them a class of diffusers or transformers.

    vae      an AutoencoderKL of one channel, over (frames, bins) of log-mel spectrograms
    vocoder  log-mel (N, frames, bins) → waveform, such as SpeechT5HifiGan; None: Griffin–Lim
    mel      the settings of `Mel`; seconds  of a sample, unless told
    """

    _optional_components: ClassVar = ["vocoder"]
    model_cpu_offload_seq = "text_encoder->unet->vae->vocoder"

    def __init__(self, vae: Any, text_encoder: Any, tokenizer: Any, unet: UNet2DConditionModel, scheduler: Any, vocoder: Any = None,
                 mel: dict[str, Any] | None = None, seconds: float = 10.24):  # fmt: skip
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, vocoder=vocoder)
        self.register_to_config(mel=mel or {}, seconds=seconds)

    @cached_property
    def mel(self) -> Mel:
        return Mel(**self.config.mel)

    @property
    def vae_scale_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeds (N, L, D), zeros after a prompt's last token, and their mask (N, L): 1 for a token, 0 after the last."""
        limit = token_limit_of(self.tokenizer)
        tokens = self.tokenizer(list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        ids, mask = (tokens[name].to(self.text_encoder.device) for name in ("input_ids", "attention_mask"))
        embeds = self.text_encoder(ids, attention_mask=mask)[0]
        return embeds * mask[..., None].to(embeds), mask.to(embeds)

    @torch.no_grad()
    def vocode(self, log_mel: Tensor) -> Tensor:
        """(N, 1, samples) in [−1, 1] of (N, 1, frames, bins), hop samples for each frame."""
        if self.vocoder is None:
            return self.mel.waveform(log_mel)
        # HiFi-GAN's transposed convolutions of an odd rate give a few samples more.
        return vocode(self.vocoder, log_mel)[..., : log_mel.shape[2] * self.mel.hop]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(N, 1, samples) of scaled latents (N, C, frames, bins)."""
        vae = self.vae
        return self.vocode(vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample)

    @torch.no_grad()
    def __call__(self, prompt: Sequence[str], *, negative_prompt: Sequence[str] | None = None, num_inference_steps: int = 100,
                 guidance_scale: float = 3.0, samples: int | None = None,
                 generator: Sequence[torch.Generator] | None = None) -> np.ndarray:  # fmt: skip
        """float32 (N, samples) in [−1, 1]; samples: a multiple of what one column of latents stands for."""
        count, device = len(prompt), self.unet.device
        length = round(self.config.seconds * self.mel.sample_rate_hz) if samples is None else samples
        factor = self.vae_scale_factor
        shape = (self.unet.config.in_channels, length // self.mel.hop // factor, self.mel.bins // factor)
        draws = [None] * count if generator is None else generator
        latents = torch.stack([torch.randn(shape, generator=each) for each in draws]).to(device, self.unet.dtype)
        embeds, mask = self.encode_prompt(prompt)
        guided = guidance_scale != 1
        if guided:
            without, without_mask = self.encode_prompt([""] * count if negative_prompt is None else negative_prompt)
            embeds, mask = torch.cat([without, embeds]), torch.cat([without_mask, mask])
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        for timestep in self.progress_bar(self.scheduler.timesteps):
            given = self.scheduler.scale_model_input(torch.cat([latents, latents]) if guided else latents, timestep)
            predicted = self.unet(given, timestep, encoder_hidden_states=embeds, encoder_attention_mask=mask, return_dict=False)[0]
            if guided:
                without, predicted = predicted.chunk(2)
                predicted = without + guidance_scale * (predicted - without)
            latents = self.scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return self.decode(latents).squeeze(1).cpu().numpy()


def token_limit_of(tokenizer: Any) -> int:
    """Its own, where it has one: T5's are made without."""
    return min(TOKEN_LIMIT, tokenizer.model_max_length)


class Tango(AudioPipeline):
    """A loaded pipeline: see `Backbone` for the contract. Media are mono, one channel of samples."""

    PIPELINE = TangoPipeline
    DENOISER = "unet"
    ALIKE = ("in_channels", "out_channels", "cross_attention_dim")

    def __init__(self, pipeline: TangoPipeline, source: str):
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit = token_limit_of(pipeline.tokenizer)
        self.rate = float(pipeline.mel.sample_rate_hz)
        self.column = pipeline.mel.hop * pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)  # samples
        # A tile is as long as its own sounds: the autoencoder's sample_size, of which diffusers makes squares, is that of something else.
        part = 4 * pipeline.vae_scale_factor  # a quarter overlaps the next tile, and is whole latents
        frames = max(self.size[0] // pipeline.mel.hop, pipeline.mel.bins)
        pipeline.vae.tile_sample_min_size = (frames + part - 1) // part * part
        pipeline.vae.tile_latent_min_size = pipeline.vae.tile_sample_min_size // pipeline.vae_scale_factor

    @property
    def size(self) -> tuple[int, ...]:
        return self.whole((round(self.pipeline.config.seconds * self.rate),))

    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}, see `TangoPipeline.encode_prompt`."""
        embeds, mask = self.pipeline.encode_prompt(prompts)
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        mel = self.pipeline.mel.of(media.to(vae.device)).to(vae.dtype)
        return self.scaled(latents_of(vae.encode(mel).latent_dist, seeds))

    def decode(self, latents: Tensor) -> Tensor:
        return self.pipeline.decode(latents)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(
            noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], encoder_attention_mask=embeds["prompt_mask"], return_dict=False
        )[0]

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Audio]:  # fmt: skip
        with scheduler_named(self.pipeline, scheduler):
            waveforms = self.pipeline(
                prompts, negative_prompt=[negative_prompt] * len(prompts), num_inference_steps=steps, guidance_scale=guidance,
                samples=(size or self.size)[0], generator=generators(prompts, seeds),
            )  # fmt: skip
        return [Audio.from_waveform(waveform[None], round(self.rate)) for waveform in waveforms]


def load(source: str, loading: Loading, *, text_encoder: str = "") -> Tango:
    """See `load_backbone`: a folder or hub id of what `TangoPipeline` saved, or a folder as Tango is released, see `tango_release`.

    text_encoder  of a release: folder or hub id of its tokenizer and config; empty: the hub's that the release names
    """
    is_named = source.endswith(".safetensors") or source.startswith("random:")
    path = None if is_named else source_path(source)
    if path is None or not is_release(path):
        fetch = "" if is_named or path is not None else f"; {how_to_fetch(source)}"
        if text_encoder:
            raise ValueError(
                f"{source} brings its text encoder, and text_encoder is {text_encoder!r}; remove it from model.settings{fetch}"
            )
        try:
            return Tango(load_pipeline(Tango, source, loading), source)
        except FileNotFoundError as error:
            if not fetch or repr(source) not in str(error):  # which is of what is put in the place of a part
                raise
            raise FileNotFoundError(f"{error}{fetch}") from error
    if loading.quantise is not None:
        raise ValueError(f"{source} is a release of Tango, which is not quantised; load it, save() it, and give that folder")
    if loading.variant is not None:
        raise ValueError(f"{source} is a release of Tango, which has no variant {loading.variant!r}; remove model.variant")
    quiet_loading()
    pipeline = TangoPipeline(**read_parts(path, loading.dtype, text_encoder or None))
    return Tango(with_loaded(Tango, pipeline, source, loading), source)
