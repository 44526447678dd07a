"""InstructPix2Pix: Stable Diffusion 1.x that edits an image, whose latents are more channels of the UNet's input; ε or v prediction.

Brooks et al. 2022, arXiv:2211.09800.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.conditions import pictures, pixels
from diffalign.backbones.pipeline import ImagePipeline, load_pipeline
from diffalign.backbones.process import Diffusion
from diffalign.backbones.schedulers import scheduler_named
from diffalign.backbones.seeded import generators
from diffalign.data.modalities import Media
from diffalign.data.modalities.image import Image

IMAGE_GUIDANCE = 1.5  # of the pipeline


class InstructPix2pix(ImagePipeline):
    """A loaded pipeline: see `Conditioned` for the contract.

    image_guidance  of sampling, towards the edited image, where `guidance` is above 1; ValueError below 1
    """

    PIPELINE = StableDiffusionInstructPix2PixPipeline
    DENOISER = "unet"
    ALIKE = ("in_channels", "out_channels", "cross_attention_dim")

    drops_condition = True

    def __init__(self, pipeline: StableDiffusionInstructPix2PixPipeline, source: str, image_guidance: float = IMAGE_GUIDANCE):
        latents, channels = pipeline.vae.config.latent_channels, pipeline.unet.config.in_channels
        if channels != 2 * latents:
            raise ValueError(
                f"{source} has a denoiser of {channels} input channels; this family has {2 * latents}, half of them of the edited image: "
                f"give an InstructPix2Pix, or choose backbone stable_diffusion"
            )
        if image_guidance < 1:
            raise ValueError(f"image_guidance is {image_guidance!r}; give 1 or more, such as {IMAGE_GUIDANCE:g}")
        super().__init__(pipeline, source)
        self.process = Diffusion(pipeline.scheduler, source)
        self.token_limit: int = pipeline.tokenizer.model_max_length
        self.image_guidance = image_guidance

    @property
    def size(self) -> tuple[int, int]:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}."""
        return {"prompt_embeds": self.pipeline._encode_prompt(prompts, self.device, 1, False)}

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...]) -> dict[str, Tensor]:
        """{"condition_latents": (N, C, H, W)}, the mean of the posterior, not scaled; zeros for a dropped one."""
        vae, (height, width) = self.pipeline.vae, size
        shape = (vae.config.latent_channels, height // self.step, width // self.step)
        found = torch.zeros(len(conditions), *shape, device=vae.device, dtype=vae.dtype)
        given = [condition for condition in conditions if condition is not None]
        if given:
            is_given = torch.tensor([condition is not None for condition in conditions])
            found[is_given] = vae.encode(pixels(given, (height, width)).to(found)).latent_dist.mode()
        return {"condition_latents": found}

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        both = torch.cat([noised, embeds["condition_latents"].to(noised)], 1)
        return denoiser(both, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Image]:  # fmt: skip
        height, width = size or self.size
        with scheduler_named(self.pipeline, scheduler):
            images = self.pipeline(
                prompt=list(prompts), image=pictures(conditions, len(prompts), (height, width)), num_inference_steps=steps,
                guidance_scale=guidance, image_guidance_scale=self.image_guidance, negative_prompt=[negative_prompt] * len(prompts),
                generator=generators(prompts, seeds), output_type="np",
            ).images  # fmt: skip
        return [Image.from_pixels(pixels) for pixels in np.rint(images * 255).astype(np.uint8)]


def load(source: str, loading: Loading, *, image_guidance: float = IMAGE_GUIDANCE) -> InstructPix2pix:
    """See `load_backbone`. The safety checker is not loaded: training and scoring need every sample as it is.

    image_guidance  of sampling, see `InstructPix2pix`
    """
    pipeline = load_pipeline(InstructPix2pix, source, loading, safety_checker=None, requires_safety_checker=False)
    return InstructPix2pix(pipeline, source, image_guidance)
