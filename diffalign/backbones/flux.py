"""FLUX.1: a transformer with joint attention over patches of latents and text, T5 and CLIP, guidance as conditioning; rectified flow.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.patches import PATCH, packed, unpacked
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of

TOKEN_LIMIT = 512  # of T5, in [dev]; the pipeline takes no more
SCHNELL_TOKENS = 256  # as the release's cli.py has it: max_length=256 if name == "flux-schnell" else 512


class Flux(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. Latents are (N, C, H, W); only the denoiser sees them packed.

    guidance  what training tells a model that has its guidance as conditioning
    tokens    places of T5 that a prompt takes; 0: as released, 512 of a model that has its guidance as conditioning, 256 of another
    """

    PIPELINE = FluxPipeline
    DENOISER = "transformer"
    PATCH = PATCH
    ALIKE = ("in_channels", "joint_attention_dim", "num_layers", "num_single_layers", "guidance_embeds")
    ENCODERS = ("vae", "text_encoder", "text_encoder_2")

    def __init__(self, pipeline: FluxPipeline, source: str, guidance: float = 1.0, tokens: int = 0):
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler))
        most = min(TOKEN_LIMIT, pipeline.tokenizer_2.model_max_length)
        released = TOKEN_LIMIT if pipeline.transformer.config.guidance_embeds else SCHNELL_TOKENS
        if not isinstance(tokens, int) or not 0 <= tokens <= most:
            raise ValueError(f"tokens is {tokens!r}; {source} reads 1 to {most} of a prompt: set model.settings.tokens so, or remove it")
        self.token_limit: int = tokens or min(released, most)
        self.guidance = guidance

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * PATCH

    def token_count(self, prompt: str) -> int:
        """Of T5; CLIP, of which the model sees one vector, reads a prompt's first 77 tokens."""
        return len(self.pipeline.tokenizer_2(prompt).input_ids)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "pooled_embeds": (N, D')}."""
        embeds, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=self.token_limit)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        prompt, (rows, columns) = embeds["prompt_embeds"], (side // PATCH for side in noised.shape[-2:])
        guidance = torch.full((len(noised),), self.guidance, device=noised.device)
        predicted = denoiser(
            hidden_states=packed(noised), timestep=timestep / self.process.timestep_count,
            guidance=guidance if self.pipeline.transformer.config.guidance_embeds else None,
            encoder_hidden_states=prompt, pooled_projections=embeds["pooled_embeds"],
            txt_ids=torch.zeros(prompt.shape[1], 3, dtype=prompt.dtype, device=noised.device),
            img_ids=places(rows, columns).to(noised.device, prompt.dtype), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(predicted, noised)

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        return self.conditioned(guidance, negative_prompts)


def places(rows: int, columns: int) -> Tensor:
    """(rows·columns, 3): 0, row and column of each patch."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1)


def load(source: str, loading: Loading, *, guidance: float = 1.0, tokens: int = 0) -> Flux:
    """See `load_backbone`.

    guidance  of training, see `Flux`; sampling has its own
    tokens    of a prompt, see `Flux`
    """
    return Flux(load_pipeline(Flux, source, loading), source, guidance, tokens)
