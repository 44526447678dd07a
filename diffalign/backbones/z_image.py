"""Z-Image: a transformer over text and patches of latents in one sequence, a language model as text encoder; rectified flow.

Z-Image team 2025, arXiv:2511.22699.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from diffalign.backbones import Loading
from diffalign.backbones.chat import chat_token_count
from diffalign.backbones.density import logit_normal
from diffalign.backbones.patches import PATCH
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of
from diffalign.backbones.weights import refuse_file

TOKEN_LIMIT = 512


class ZImage(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. The denoiser's time runs from noise to sample, and so does its velocity."""

    PIPELINE = ZImagePipeline
    DENOISER = "transformer"
    PATCH = PATCH
    ALIKE = ("in_channels", "dim", "n_layers", "cap_feat_dim", "all_patch_size")

    def __init__(self, pipeline: ZImagePipeline, source: str):
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler), logit_normal)
        self.token_limit: int = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * PATCH

    @property
    def size(self) -> tuple[int, int]:
        """The pipeline's own."""
        return 1024, 1024

    def head(self, denoiser: nn.Module) -> nn.Module:
        return denoiser.get_submodule(f"all_final_layer.{PATCH}-1.linear")

    def token_count(self, prompt: str) -> int:
        return chat_token_count(self.pipeline.tokenizer, prompt, thinks=True)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}: zeros after a prompt's last token, up to L = `token_limit`."""
        each, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, do_classifier_free_guidance=False, max_sequence_length=self.token_limit
        )
        embeds = torch.stack([pad(own, (0, 0, 0, self.token_limit - len(own))) for own in each])
        lengths = torch.tensor([len(own) for own in each])
        mask = torch.arange(self.token_limit) < lengths[:, None]
        return {"prompt_embeds": embeds, "prompt_mask": mask.long().to(embeds.device)}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        lengths = embeds["prompt_mask"].bool().sum(1).tolist()
        prompts = [own[:length] for own, length in zip(embeds["prompt_embeds"], lengths)]
        found = denoiser(list(noised.unsqueeze(2)), 1 - timestep / self.process.timestep_count, prompts, return_dict=False)[0]
        return -torch.stack(list(found)).squeeze(2)

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """1 is none, as in every family: the pipeline's own scale is one less."""
        return {"guidance_scale": guidance - 1, "negative_prompt": negative_prompts, "max_sequence_length": self.token_limit}


def load(source: str, loading: Loading) -> ZImage:
    """See `load_backbone`. ValueError for one file: diffusers' pipeline takes some, and finds Qwen3 in none."""
    refuse_file(source)
    return ZImage(load_pipeline(ZImage, source, loading), source)
