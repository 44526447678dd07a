"""Qwen-Image: a transformer with joint attention over patches of latents and text, a vision-language model as text encoder; rectified flow.

Wu et al. 2025, arXiv:2508.02324.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import QwenImagePipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from diffalign.backbones import Loading
from diffalign.backbones.density import logit_normal
from diffalign.backbones.patches import PATCH, packed, unpacked
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of
from diffalign.backbones.seeded import latents_of

TOKEN_LIMIT = 512


class QwenImage(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. Its autoencoder is one of videos; an image is a video of one frame there."""

    PIPELINE: ClassVar[Any] = QwenImagePipeline
    DENOISER = "transformer"
    PATCH = PATCH
    ALIKE = ("in_channels", "out_channels", "num_layers", "joint_attention_dim")

    def __init__(self, pipeline: Any, source: str):
        if pipeline.transformer.config.guidance_embeds:
            raise ValueError(f"{source} has its guidance as conditioning, which is not supported; give Qwen-Image")
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler), logit_normal)
        self.token_limit: int = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * PATCH

    def token_count(self, prompt: str) -> int:
        """Of what the denoiser sees: the prompt and the end of the template around it."""
        whole = self.pipeline.prompt_template_encode.format(prompt)
        return len(self.pipeline.tokenizer(whole).input_ids) - self.pipeline.prompt_template_encode_start_idx

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L)}: zeros after a prompt's last token, up to L = `token_limit`."""
        embeds, mask = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self.token_limit)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device) if mask is None else mask
        missing = self.token_limit - embeds.shape[1]
        return {"prompt_embeds": pad(embeds, (0, 0, 0, missing)), "prompt_mask": pad(mask, (0, missing))}

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        config = self.pipeline.vae.config
        return torch.tensor(config.latents_mean), 1 / torch.tensor(config.latents_std)

    @torch.no_grad()
    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode(media.to(vae.device, vae.dtype).unsqueeze(2)).latent_dist
        return self.scaled(latents_of(posterior, seeds).squeeze(2))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        own = self.unscaled(latents.to(vae.device, vae.dtype))
        return vae.decode(own.unsqueeze(2)).sample.squeeze(2).clamp(-1, 1)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """The text no longer than the longest prompt's: what stands after it changes nothing."""
        mask = embeds["prompt_mask"].bool()
        longest, seen = int(mask.sum(1).max()), self.seen(noised, embeds)
        tokens = [packed(latents) for latents in seen]
        predicted = denoiser(
            hidden_states=torch.cat(tokens, 1), timestep=timestep / self.process.timestep_count,
            encoder_hidden_states=embeds["prompt_embeds"][:, :longest], encoder_hidden_states_mask=mask[:, :longest],
            img_shapes=[[(1, *(side // PATCH for side in latents.shape[-2:])) for latents in seen]] * len(noised), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(predicted[:, : tokens[0].shape[1]], noised)

    def seen(self, noised: Tensor, embeds: dict[str, Tensor]) -> list[Tensor]:
        """The latents of each picture whose tokens the denoiser takes, that which it denoises first."""
        return [noised]

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """Guided predictions have the norm of those with the prompt, token by token, as the pipeline has it."""
        negative = negative_prompts if guidance > 1 else None
        return {"true_cfg_scale": guidance, "negative_prompt": negative, "max_sequence_length": self.token_limit}


def load(source: str, loading: Loading) -> QwenImage:
    """See `load_backbone`."""
    return QwenImage(load_pipeline(QwenImage, source, loading), source)
