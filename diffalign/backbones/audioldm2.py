"""AudioLDM 2: a UNet over latents of log-mel spectrograms that attends to T5's states and to states that a GPT-2 continues the text with.

Liu et al. 2023, arXiv:2308.05734. GPT-2 reads what CLAP and T5 make of a prompt, projected, and goes on by a few states (8 in the release).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from diffusers import AudioLDM2Pipeline
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import GPT2LMHeadModel, GPT2Model

from diffalign.backbones import Loading
from diffalign.backbones.mel import PEAK, Mel, vocode
from diffalign.backbones.pipeline import AudioPipeline, load_pipeline
from diffalign.backbones.process import Diffusion
from diffalign.backbones.schedulers import scheduler_named
from diffalign.backbones.seeded import generators, latents_of
from diffalign.data.modalities.audio import Audio

TOKEN_LIMIT = 512  # of T5; CLAP, of which the model sees one vector, reads as many
STATES = 8  # that GPT-2 makes, where its config does not say


class Audioldm2(AudioPipeline):
    """A loaded pipeline: see `Backbone` for the contract. Media are mono, one channel of samples.

    GPT-2 has absolute places and goes on after the padding of a batch: each prompt is encoded alone, so it does not depend on the others.
    """

    PIPELINE = AudioLDM2Pipeline
    DENOISER = "unet"
    ALIKE = ("in_channels", "out_channels", "cross_attention_dim", "block_out_channels")
    ENCODERS = ("vae", "text_encoder", "text_encoder_2", "projection_model", "language_model")

    def __init__(self, pipeline: AudioLDM2Pipeline, source: str):
        if pipeline.text_encoder_2.config.model_type == "vits":
            raise ValueError(f"{source} reads a transcription aloud (its second text encoder is a VITS), which is not supported; give a "
                             f"model of sounds, such as cvssp/audioldm2")  # fmt: skip
        if isinstance(pipeline.language_model, GPT2Model):
            pipeline.register_modules(language_model=with_head(pipeline.language_model))
        super().__init__(pipeline, source)
        pipeline.vocoder.requires_grad_(False).eval()
        self._refuse_checkpointing()
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit = min(TOKEN_LIMIT, pipeline.tokenizer_2.model_max_length)
        vocoder = pipeline.vocoder.config
        self.rate = float(vocoder.sampling_rate)
        self.mel = Mel(
            vocoder.sampling_rate, hop=prod(vocoder.upsample_rates), bins=vocoder.model_in_dim, highest_hz=self.rate / 2, peak=PEAK
        )  # fmt: skip
        self.column = self.mel.hop * pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)

    @property
    def size(self) -> tuple[int, ...]:
        return self.whole((self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor * self.mel.hop,))

    def _refuse_checkpointing(self) -> None:
        """diffusers (0.37 to 0.42) hands its attention the arguments one place off there: the mask of the text meets the latents."""

        def refuse(*arguments: Any) -> None:
            raise ValueError(f"{self.source}: diffusers computes this UNet wrongly with it; set train.gradient_checkpointing=false")

        self.pipeline.unet.enable_gradient_checkpointing = refuse

    def token_count(self, prompt: str) -> int:
        """Of T5."""
        return len(self.pipeline.tokenizer_2(prompt).input_ids)

    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L), "generated_embeds": (N, states, D')}, of T5 and of GPT-2.

        Zeros after a prompt's last token, up to L = `token_limit`.
        """
        text, mask, generated = _joined([self._encoded(prompt, None) for prompt in prompts], self.token_limit)
        return {"prompt_embeds": text, "prompt_mask": mask, "generated_embeds": generated}

    @torch.no_grad()
    def _encoded(self, prompt: str, negative_prompt: str | None) -> tuple[Tensor, Tensor, Tensor]:
        """States of T5, their mask and states of GPT-2, one row each, or two where there is a negative prompt: its own come first."""
        states = getattr(self.pipeline.language_model.config, "max_new_tokens", None) or STATES
        guided = negative_prompt is not None
        return self.pipeline.encode_prompt(
            [prompt], self.device, 1, guided, negative_prompt=[negative_prompt] if guided else None, max_new_tokens=states
        )

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        return self.scaled(latents_of(vae.encode(self.mel.of(media.to(vae.device)).to(vae.dtype)).latent_dist, seeds))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vocode(self.pipeline.vocoder, vae.decode(self.unscaled(latents.to(vae.device, vae.dtype))).sample)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """The text no longer than the longest prompt's: what stands after it changes nothing."""
        text, mask = embeds["prompt_embeds"], embeds["prompt_mask"].bool()
        longest = int(mask.sum(1).max())
        return denoiser(
            noised, timestep, encoder_hidden_states=embeds["generated_embeds"], encoder_hidden_states_1=text[:, :longest],
            encoder_attention_mask_1=mask[:, :longest], return_dict=False,
        )[0]  # fmt: skip

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Audio]:  # fmt: skip
        """The pipeline's of each prompt alone. It would pad a batch's prompts, which moves what GPT-2 makes of the shorter ones."""
        draws, (samples,) = generators(prompts, seeds), size or self.size
        factor, guided = self.pipeline.vae_scale_factor, guidance > 1
        each = [self._encoded(prompt, negative_prompt if guided else None) for prompt in prompts]
        text, mask, generated = _joined(each, max(mask.shape[1] for _, mask, _ in each))
        shape = (self.pipeline.unet.config.in_channels, samples // self.mel.hop // factor, self.mel.bins // factor)
        noise = torch.stack([torch.randn(shape, generator=draw, dtype=text.dtype) for draw in draws])
        given = {"prompt_embeds": text, "attention_mask": mask, "generated_prompt_embeds": generated}
        rows: dict[str, Tensor] = given
        if guided:
            rows = {name: value[1::2] for name, value in given.items()} | {f"negative_{name}": value[::2] for name, value in given.items()}
        with scheduler_named(self.pipeline, scheduler):
            made: Any = self.pipeline(
                num_inference_steps=steps, guidance_scale=guidance, generator=draws, latents=noise, output_type="latent", **rows
            )
        return self.media(self.decode(made.audios))


def _joined(encoded: list[tuple[Tensor, Tensor, Tensor]], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of several prompts, their text filled up to `length` with zeros."""
    text = torch.cat([pad(own[:, :length], (0, 0, 0, max(0, length - own.shape[1]))) for own, _, _ in encoded])
    mask = torch.cat([pad(own[:, :length], (0, max(0, length - own.shape[1]))) for _, own, _ in encoded])
    return text * mask[..., None].to(text), mask, torch.cat([generated for _, _, generated in encoded])


def with_head(model: GPT2Model) -> GPT2LMHeadModel:
    """GPT-2 with the head that its words are scored by. The first releases are saved without, and transformers continues none of those."""
    with torch.device("meta"):
        whole = GPT2LMHeadModel(model.config)
    whole.transformer = model
    whole.lm_head.weight = model.wte.weight
    return whole.eval()


def load(source: str, loading: Loading) -> Audioldm2:
    """See `load_backbone`."""
    return Audioldm2(load_pipeline(Audioldm2, source, loading), source)
