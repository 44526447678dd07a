"""Stable Audio Open: a transformer over latents of stereo waveforms at 44.1 kHz, T5, the sound's seconds as conditioning; v prediction.

Evans et al. 2024, arXiv:2407.14358; the conditioning on seconds is that of arXiv:2402.04825. The release (stable-audio-tools, objective
"v") trains on the angle process, see `Angle`: x_t = cos(πt/2)·x_0 + sin(πt/2)·ε with t uniform in (0, 1), as the denoiser takes it.
Its scheduler in diffusers, CosineDPMSolverMultistepScheduler, is written in EDM's terms and says the same: with σ = tan(πt/2) and
σ_data = 1 the input is scaled by 1/√(σ² + 1) = cos(πt/2), the timestep is 2/π·atan σ, and what is denoised is cos(πt/2)·x_t − sin(πt/2)·v.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableAudioPipeline
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.utils import is_torchsde_available
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import AudioPipeline, load_pipeline
from diffalign.backbones.process import Angle
from diffalign.backbones.seeded import generators
from diffalign.data.modalities.audio import Audio


class StableAudio(AudioPipeline):
    """A loaded pipeline: see `Backbone` for the contract. A sound is denoised at its own length, of which its latents tell the seconds.

    The release was trained on whole windows alone (1024 latents, 47.6 s), with silence after a shorter sound; so is `size`.
    """

    PIPELINE = StableAudioPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "num_layers", "cross_attention_dim", "sample_size")
    ENCODERS = ("vae", "text_encoder", "projection_model")
    BESIDE = ("projection_model",)  # of a sound's seconds
    PATCH = 1

    def __init__(self, pipeline: StableAudioPipeline, source: str):
        super().__init__(pipeline, source)
        config = pipeline.scheduler.config
        found = (config.get("prediction_type"), config.get("sigma_data"))
        if type(pipeline.scheduler).__name__ != "CosineDPMSolverMultistepScheduler" or found != ("v_prediction", 1.0):
            said = f"{type(pipeline.scheduler).__name__} with prediction_type and sigma_data {found}"
            raise ValueError(f"{source}: scheduler is {said}; this family has CosineDPMSolverMultistepScheduler, 'v_prediction' and 1.0")
        self.process = Angle()
        self.token_limit: int = pipeline.tokenizer.model_max_length
        self.rate = float(pipeline.vae.config.sampling_rate)
        self.column = pipeline.vae.hop_length
        self.channels = int(pipeline.vae.config.audio_channels)

    @property
    def size(self) -> tuple[int, ...]:
        return (self.pipeline.transformer.config.sample_size * self.column,)

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """At most the window of the model."""
        return super().whole(tuple(min(samples, *self.size) for samples in size))

    def laid_out(self, features: Tensor, size: tuple[int, ...]) -> Tensor:
        """Without the token of the timestep and the seconds, which stands first."""
        return super().laid_out(features[:, 1:], size)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}, zeros after a prompt's last token; for "" zeros alone, which meant no prompt in its training."""
        embeds = self.pipeline.encode_prompt(prompts, self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds * torch.tensor([bool(prompt) for prompt in prompts]).to(embeds)[:, None, None]}

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        """Latents are taken as they are."""
        return 0.0, 1.0

    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        """Mono is the same in both channels; ValueError for another number of them than one or the model's own."""
        if media.shape[1] not in (1, self.channels):
            raise ValueError(f"{self.source} takes sounds of {self.channels} channels, or mono; got {media.shape[1]}")
        return super().encode(media.expand(-1, self.channels, -1), seeds=seeds)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        text, positions = embeds["prompt_embeds"], noised.shape[-1]
        start, end = self._seconds(len(noised), positions)
        is_given = text.ne(0).any(-1).any(-1)[:, None, None].to(start)  # without a prompt the seconds stay in the global states alone
        rotary = get_1d_rotary_pos_embed(self.pipeline.rotary_embed_dim, positions + 1, use_real=True, repeat_interleave_real=False)
        return denoiser(
            noised, timestep / self.process.timestep_count,
            encoder_hidden_states=torch.cat([text, (start * is_given).to(text), (end * is_given).to(text)], 1),
            global_hidden_states=torch.cat([start, end], 2), rotary_embedding=rotary, return_dict=False,
        )[0]  # fmt: skip

    @torch.no_grad()
    def _seconds(self, count: int, positions: int) -> tuple[Tensor, Tensor]:
        """The states of where a sound of that many latents begins, at 0, and of where it ends, each (N, 1, D)."""
        return self.pipeline.encode_duration(0.0, positions * self.column / self.rate, self.device, False, count)

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Audio]:  # fmt: skip
        """The pipeline's, with noise as long as `size` says: it would make the whole window and cut it."""
        if scheduler is not None:
            raise ValueError(f"scheduler {scheduler!r} takes no continuous time; {self.source} samples with its own: leave it out")
        draws, (samples,) = generators(prompts, seeds), size or self.size
        shape, dtype = (self.pipeline.transformer.config.in_channels, samples // self.column), self.pipeline.transformer.dtype
        noise = torch.stack([torch.randn(shape, generator=draw, dtype=dtype) for draw in draws])
        guided: dict[str, Any] = {"negative_prompt": [negative_prompt] * len(prompts)} if negative_prompt and guidance > 1 else {}
        latents = self.pipeline(
            prompt=list(prompts), audio_end_in_s=samples / self.rate, num_inference_steps=steps, guidance_scale=guidance,
            generator=draws, latents=noise, output_type="latent", **guided,
        ).audios  # fmt: skip
        return self.media(self.decode(latents))


def load(source: str, loading: Loading) -> StableAudio:
    """See `load_backbone`. ValueError where torchsde is not installed."""
    if not is_torchsde_available():
        raise ValueError("the scheduler of Stable Audio draws its noise with torchsde: pip install 'diffalign[stable_audio]'")
    return StableAudio(load_pipeline(StableAudio, source, loading), source)
