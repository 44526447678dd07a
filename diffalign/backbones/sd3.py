"""Stable Diffusion 3 and 3.5: a transformer with joint attention over latents and text, two CLIP text encoders and T5; rectified flow.

Esser et al. 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.density import logit_normal
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of

TOKEN_LIMIT = 256  # of T5; the other encoders read a prompt's first 77


class Sd3(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract."""

    PIPELINE = StableDiffusion3Pipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "joint_attention_dim", "num_layers", "patch_size")
    ENCODERS = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")

    def __init__(self, pipeline: StableDiffusion3Pipeline, source: str):
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler), logit_normal)
        self._tokenizer = pipeline.tokenizer if pipeline.text_encoder_3 is None else pipeline.tokenizer_3
        self.token_limit: int = min(TOKEN_LIMIT, self._tokenizer.model_max_length)

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * self.pipeline.patch_size

    def token_count(self, prompt: str) -> int:
        """Of T5, or of CLIP where there is no T5."""
        return len(self._tokenizer(prompt).input_ids)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "pooled_embeds": (N, D')}: the places of CLIP, then those of T5 (zeros without)."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=self.token_limit
        )
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(
            hidden_states=noised, timestep=timestep, encoder_hidden_states=embeds["prompt_embeds"],
            pooled_projections=embeds["pooled_embeds"], return_dict=False,
        )[0]  # fmt: skip

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        return {**super().guided(guidance, negative_prompts), "max_sequence_length": self.token_limit}


def load(source: str, loading: Loading, *, t5: bool = True) -> Sd3:
    """See `load_backbone`.

    t5  false: without the largest text encoder, in whose place the pipeline has zeros
    """
    left_out = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    return Sd3(load_pipeline(Sd3, source, loading, **left_out), source)
