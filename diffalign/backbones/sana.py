"""Sana: a transformer with linear attention over the latents of a deep autoencoder, text by a small language model; rectified flow.

Xie et al. 2024, arXiv:2410.10629.
"""

from __future__ import annotations

from inspect import signature
from math import lcm
from typing import Any

import torch
from diffusers import SanaPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.density import logit_normal
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of

TOKEN_LIMIT = 300
PIXELS = 32  # what the pipeline wants its sides to be multiples of, whatever the autoencoder is


class Sana(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. The autoencoder has no posterior: latents are the same for every seed."""

    PIPELINE = SanaPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "num_layers", "caption_channels", "patch_size")

    def __init__(self, pipeline: SanaPipeline, source: str):
        if pipeline.transformer.config.get("guidance_embeds"):
            raise ValueError(f"{source} has its guidance as conditioning (Sana-Sprint), which is not supported; give Sana")
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler), logit_normal)
        self.token_limit: int = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)
        self._instruction: list[str] = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default

    @property
    def step(self) -> int:
        return lcm(PIXELS, self.pipeline.vae_scale_factor * self.pipeline.transformer.config.patch_size)

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    def token_count(self, prompt: str) -> int:
        """With the last token of the instruction, which stands in the place of the prompt's beginning."""
        return super().token_count(prompt) + 1

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}.

        Prompts stand after the pipeline's own instruction; the empty one stands alone, as guidance has it.
        """
        embeds, mask = self._encoded(prompts, self._instruction)
        if "" in prompts:
            empty, empty_mask = self._encoded([""], None)
            is_empty = torch.tensor([prompt == "" for prompt in prompts], device=embeds.device)
            embeds, mask = torch.where(is_empty[:, None, None], empty, embeds), torch.where(is_empty[:, None], empty_mask, mask)
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    def _encoded(self, prompts: list[str], instruction: list[str] | None) -> tuple[Tensor, Tensor]:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.token_limit,
            complex_human_instruction=instruction,
        )  # fmt: skip
        return embeds, mask

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        return self.scaled(vae.encode(media.to(vae.device, vae.dtype)).latent)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(
            noised, encoder_hidden_states=embeds["prompt_embeds"], encoder_attention_mask=embeds["prompt_mask"],
            timestep=timestep * self.pipeline.transformer.config.timestep_scale, return_dict=False,
        )[0]  # fmt: skip

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """At the size that is asked for, and of the prompt as it is."""
        asked = {"max_sequence_length": self.token_limit, "use_resolution_binning": False, "clean_caption": False}
        return {**super().guided(guidance, negative_prompts), **asked}


def load(source: str, loading: Loading) -> Sana:
    """See `load_backbone`."""
    return Sana(load_pipeline(Sana, source, loading), source)
