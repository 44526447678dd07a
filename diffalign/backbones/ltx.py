"""LTX-Video: a transformer over every latent of a video, T5, an autoencoder of 32×32×8 pixels to a latent; rectified flow.

HaCohen et al. 2024, arXiv:2501.00103. Timesteps are logit-normal about a mean that grows with the count of latents, as the makers' trainer
(https://github.com/Lightricks/LTX-Video-Trainer) draws them.
"""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
from diffusers import LTXPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.density import logit_normal
from diffalign.backbones.pipeline import VideoPipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_by_size

SIZE, FPS = (161, 512, 704), 25.0  # of the pipeline
TOKEN_LIMIT = 128
PIXELS = 32  # what the pipeline wants its sides to be multiples of, whatever the autoencoder is


class Ltx(VideoPipeline):
    """A loaded pipeline: see `Backbone` for the contract. Latents are (N, C, T, H, W); only the denoiser sees them as a sequence.

    fps  the rate of the videos that are read and made, which places their latents in time; ValueError for none up to 1000
    """

    PIPELINE = LTXPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "num_layers", "cross_attention_dim", "caption_channels")

    def __init__(self, pipeline: LTXPipeline, source: str, fps: float = FPS):
        transformer, vae = pipeline.transformer.config, pipeline.vae
        if (transformer.patch_size, transformer.patch_size_t) != (1, 1):
            raise ValueError(
                f"{source} has patches of several latents, which is not supported; give LTX-Video, whose patches are single ones"
            )
        if any(vae.config.decoder_inject_noise):
            raise ValueError(
                f"{source} decodes with noise that no seed holds; give a version whose decoder_inject_noise is false throughout"
            )
        if not 0 < fps <= 1000:
            raise ValueError(f"fps is {fps!r}; give frames per second above 0 and up to 1000, such as {FPS:g}")
        super().__init__(pipeline, source)
        self.process = Flow(shift_by_size(pipeline.scheduler), logit_normal)
        self.token_limit = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)
        self.size, self.rate = SIZE, float(fps)
        side = lcm(PIXELS, vae.spatial_compression_ratio)
        self.step = (vae.temporal_compression_ratio, side, side)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}: 1 up to a prompt's last token, 0 after it."""
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.token_limit, device=self.device
        )
        return {"prompt_embeds": embeds, "prompt_mask": mask.long()}

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        vae = self.pipeline.vae
        return vae.latents_mean, vae.config.scaling_factor / vae.latents_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """At timestep 0 where the autoencoder takes one, as the pipeline has it."""
        vae = self.pipeline.vae
        own = self.unscaled(latents.to(vae.device, vae.dtype))
        timestep = own.new_zeros(len(own)) if vae.config.timestep_conditioning else None
        return vae.decode(own, timestep).sample.clamp(-1, 1)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        frames, rows, columns = noised.shape[2:]
        vae = self.pipeline.vae
        predicted = denoiser(
            hidden_states=noised.flatten(2).transpose(1, 2), timestep=timestep, encoder_hidden_states=embeds["prompt_embeds"],
            encoder_attention_mask=embeds["prompt_mask"], num_frames=frames, height=rows, width=columns,
            rope_interpolation_scale=(vae.temporal_compression_ratio / self.rate, *[vae.spatial_compression_ratio] * 2), return_dict=False,
        )[0]  # fmt: skip
        return predicted.transpose(1, 2).unflatten(2, noised.shape[2:])

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        return {**super().guided(guidance, negative_prompts), "frame_rate": self.rate}


def load(source: str, loading: Loading, *, fps: float = FPS) -> Ltx:
    """See `load_backbone`.

    fps  frames per second, see `Ltx`
    """
    return Ltx(load_pipeline(Ltx, source, loading), source, fps)
