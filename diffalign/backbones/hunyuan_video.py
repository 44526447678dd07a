"""HunyuanVideo: a transformer with joint attention over patches and text, Llama and CLIP, guidance as conditioning; rectified flow.

Kong et al. 2024, arXiv:2412.03603.
"""

from __future__ import annotations

from math import lcm
from typing import Any, ClassVar

import torch
from diffusers import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.density import logit_normal
from diffalign.backbones.pipeline import VideoPipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of

SIZE, FPS = (129, 720, 1280), 24.0  # of the report
TOKEN_LIMIT = 256  # of Llama, after the template's beginning; CLIP, of which the model sees one vector, reads a prompt's first 77
PIXELS = 16  # what the pipeline wants its sides to be multiples of, whatever the autoencoder and the patches are


class HunyuanVideo(VideoPipeline):
    """A loaded pipeline: see `Backbone` for the contract.

    guidance  what training tells a model that has its guidance as conditioning
    """

    PIPELINE: ClassVar[Any] = HunyuanVideoPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "num_layers", "num_single_layers", "text_embed_dim", "patch_size", "guidance_embeds")
    ENCODERS = ("vae", "text_encoder", "text_encoder_2")

    def __init__(self, pipeline: Any, source: str, guidance: float = 1.0):
        super().__init__(pipeline, source)
        config = pipeline.transformer.config
        self.process = Flow(shift_of(pipeline.scheduler), logit_normal)
        self.token_limit, self.guidance, self.is_told = TOKEN_LIMIT, guidance, config.guidance_embeds
        side = lcm(PIXELS, pipeline.vae_scale_factor_spatial * config.patch_size)
        self.size, self.rate = SIZE, FPS
        self.step, self.time_patch = (pipeline.vae_scale_factor_temporal, side, side), config.patch_size_t

    def token_count(self, prompt: str) -> int:
        """Of what the denoiser sees: the prompt and the end of the template around it."""
        whole = DEFAULT_PROMPT_TEMPLATE["template"].format(prompt)
        return len(self.pipeline.tokenizer(whole).input_ids) - DEFAULT_PROMPT_TEMPLATE["crop_start"]

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L), "pooled_embeds": (N, D')}: the mask is 0 after a prompt's last token."""
        embeds, pooled, mask = self.pipeline.encode_prompt(prompts, device=self.device, max_sequence_length=self.token_limit)
        return {"prompt_embeds": embeds, "prompt_mask": mask, "pooled_embeds": pooled}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        guidance = torch.full((len(noised),), 1000 * self.guidance, device=noised.device)
        return denoiser(
            hidden_states=noised, timestep=timestep, encoder_hidden_states=embeds["prompt_embeds"],
            encoder_attention_mask=embeds["prompt_mask"], pooled_projections=embeds["pooled_embeds"],
            guidance=guidance if self.is_told else None, return_dict=False,
        )[0]  # fmt: skip

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        if self.is_told:
            return self.conditioned(guidance, negative_prompts)
        return {"true_cfg_scale": guidance, "negative_prompt": negative_prompts, "max_sequence_length": self.token_limit}


def load(source: str, loading: Loading, *, guidance: float = 1.0) -> HunyuanVideo:
    """See `load_backbone`.

    guidance  of training, see `HunyuanVideo`; sampling has its own
    """
    return HunyuanVideo(load_pipeline(HunyuanVideo, source, loading), source, guidance)
