"""CogVideoX and CogVideoX 1.5: a transformer with joint attention over a video's patches and text, T5, a causal autoencoder; v prediction.

Yang et al. 2024, arXiv:2408.06072.
"""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import VideoPipeline, load_pipeline
from diffalign.backbones.process import Diffusion

FPS, FPS_15 = 8.0, 16.0  # of CogVideoX and of CogVideoX 1.5, which takes latents along time in patches
PIXELS = 8  # what the pipeline wants its sides to be multiples of, whatever the autoencoder and the patches are


class Cogvideox(VideoPipeline):
    """A loaded pipeline: see `Backbone` for the contract. Latents are (N, C, T, H, W); only the denoiser sees their frames first."""

    PIPELINE = CogVideoXPipeline
    DENOISER = "transformer"
    ALIKE = (
        "in_channels",
        "out_channels",
        "num_layers",
        "text_embed_dim",
        "patch_size",
        "patch_size_t",
        "use_rotary_positional_embeddings",
    )

    def __init__(self, pipeline: Any, source: str):
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source, CogVideoXDDIMScheduler)
        config, spatial = pipeline.transformer.config, pipeline.vae_scale_factor_spatial
        self.token_limit = config.max_text_seq_length
        side = lcm(PIXELS, spatial * config.patch_size)
        self.step, self.time_patch = (pipeline.vae_scale_factor_temporal, side, side), config.patch_size_t or 1
        self.size = self.whole((config.sample_frames, config.sample_height * spatial, config.sample_width * spatial))
        self.rate = FPS if config.patch_size_t is None else FPS_15

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}, of the padding after a prompt's last token too, which the model sees."""
        embeds, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.token_limit, device=self.device
        )
        return {"prompt_embeds": embeds}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(timestep=timestep, return_dict=False, **self.inputs(noised, embeds))[0].transpose(1, 2)

    def inputs(self, noised: Tensor, embeds: dict[str, Tensor]) -> dict[str, Any]:
        """What the denoiser takes beside the timestep."""
        return {
            "hidden_states": noised.transpose(1, 2),
            "encoder_hidden_states": embeds["prompt_embeds"],
            "image_rotary_emb": self._rotary(noised),
        }

    def _rotary(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the patches' places; None where the model adds its places to the patches instead."""
        if not self.pipeline.transformer.config.use_rotary_positional_embeddings:
            return None
        frames, *sides = latents.shape[2:]
        height, width = (side * self.pipeline.vae_scale_factor_spatial for side in sides)
        return self.pipeline._prepare_rotary_positional_embeddings(height, width, frames, latents.device)


def load(source: str, loading: Loading) -> Cogvideox:
    """See `load_backbone`."""
    return Cogvideox(load_pipeline(Cogvideox, source, loading), source)
