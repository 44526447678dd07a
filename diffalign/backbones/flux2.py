"""FLUX.2 [klein]: a transformer with joint attention over patches of latents and text, a language model as text encoder; rectified flow.

Black Forest Labs 2026, https://github.com/black-forest-labs/flux2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import Flux2KleinPipeline
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffalign.backbones import Loading
from diffalign.backbones.chat import chat_token_count
from diffalign.backbones.patches import PATCH
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of

TOKEN_LIMIT = 512


class Flux2(ImagePipeline):
    """A loaded pipeline: see `Backbone` for the contract. A latent is a square of the autoencoder's, by the statistics that it brings.

    guidance  what training tells a model that has its guidance as conditioning; None for one that has not
    """

    PIPELINE: ClassVar[Any] = Flux2KleinPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "joint_attention_dim", "num_layers", "num_single_layers", "guidance_embeds")

    def __init__(self, pipeline: Any, source: str, guidance: float | None = None):
        if pipeline.transformer.config.guidance_embeds and guidance is None:
            raise ValueError(f"{source} has its guidance as conditioning; choose backbone flux2_dev, or give FLUX.2 [klein]")
        if guidance is not None and not pipeline.transformer.config.guidance_embeds:
            raise ValueError(f"{source} has no guidance as conditioning; choose backbone flux2, or give FLUX.2 [dev]")
        super().__init__(pipeline, source)
        self.process, self.guidance = Flow(shift_of(pipeline.scheduler)), guidance
        self.token_limit: int = min(TOKEN_LIMIT, self.words().model_max_length)

    def words(self) -> Any:
        """The tokenizer of text."""
        return self.pipeline.tokenizer

    @property
    def step(self) -> int:
        return self.pipeline.vae_scale_factor * PATCH

    def token_count(self, prompt: str) -> int:
        return chat_token_count(self.pipeline.tokenizer, prompt, thinks=False)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self.token_limit)
        return {"prompt_embeds": embeds}

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        """Of each channel of the squares."""
        vae = self.pipeline.vae
        return vae.bn.running_mean, (vae.bn.running_var + vae.config.batch_norm_eps).rsqrt()

    def scaled(self, latents: Tensor) -> Tensor:
        return super().scaled(pixel_unshuffle(latents, PATCH))

    def unscaled(self, latents: Tensor) -> Tensor:
        return pixel_shuffle(super().unscaled(latents), PATCH)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        prompt, (rows, columns) = embeds["prompt_embeds"], noised.shape[-2:]
        text, picture = places(1, 1, prompt.shape[1]), places(rows, columns, 1)
        told = None if self.guidance is None else torch.full((len(noised),), self.guidance, device=noised.device)
        predicted = denoiser(
            hidden_states=noised.flatten(2).transpose(1, 2), timestep=timestep / self.process.timestep_count, guidance=told,
            encoder_hidden_states=prompt, txt_ids=text.to(noised.device), img_ids=picture.to(noised.device), return_dict=False,
        )[0]  # fmt: skip
        return predicted.transpose(1, 2).unflatten(2, (rows, columns))

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        """ValueError for a negative prompt: the pipeline subtracts the empty one, or nothing where the model is distilled."""
        if any(negative_prompts):
            raise ValueError(f"the pipeline of {self.source} takes no negative prompt, and got {negative_prompts[0]!r}; leave it empty")
        return {"guidance_scale": guidance, "max_sequence_length": self.token_limit}


def places(rows: int, columns: int, tokens: int) -> Tensor:
    """(rows·columns·tokens, 4): 0, row, column and place in the text, of each token."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns), torch.arange(tokens))


def load(source: str, loading: Loading) -> Flux2:
    """See `load_backbone`."""
    return Flux2(load_pipeline(Flux2, source, loading), source)
