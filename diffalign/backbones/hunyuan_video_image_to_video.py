"""HunyuanVideo from a first frame: its latents stand in the first place in time, at timestep 0, and it is read with the prompt too.

Kong et al. 2024, arXiv:2412.03603; https://github.com/Tencent-Hunyuan/HunyuanVideo-I2V.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.conditions import all_given, pictures, pixels
from diffalign.backbones.density import logit_normal
from diffalign.backbones.hunyuan_video import TOKEN_LIMIT, HunyuanVideo
from diffalign.backbones.pipeline import load_pipeline
from diffalign.backbones.process import FlowFromFirst, shift_of, without_first
from diffalign.data.modalities import Media
from diffalign.data.modalities.video import Video

END = 4  # tokens of the template after a prompt that the pipeline cuts out
INTERLEAVE = 4  # of the picture's tokens the pipeline keeps each fourth, of a model of this kind


class HunyuanVideoImageToVideo(HunyuanVideo):
    """A loaded pipeline: see `Conditioned` for the contract. The model is that whose first place in time is given, of 16 channels.

    guidance  what training tells a model that has its guidance as conditioning
    """

    PIPELINE = HunyuanVideoImageToVideoPipeline
    ALIKE = (*HunyuanVideo.ALIKE, "image_condition_type")

    drops_condition = False

    def __init__(self, pipeline: Any, source: str, guidance: float = 1.0):
        kind = pipeline.transformer.config.image_condition_type
        if kind != "token_replace":
            raise ValueError(
                f"{source} has image_condition_type {kind!r}; this family has 'token_replace': give HunyuanVideo-I2V, not that of 33 "
                f"channels, or choose backbone hunyuan_video"
            )
        super().__init__(pipeline, source, guidance)
        self.process = FlowFromFirst(shift_of(pipeline.scheduler), logit_normal)
        self.token_limit = TOKEN_LIMIT - END

    def token_count(self, prompt: str) -> int:
        """Of what the denoiser sees of the text: the prompt and what is left of the template after it."""
        whole = DEFAULT_PROMPT_TEMPLATE["template"].format(prompt)
        return len(self.pipeline.tokenizer(whole).input_ids) - DEFAULT_PROMPT_TEMPLATE["crop_start"] - END

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"pooled_embeds": (N, D')}, of CLIP, which reads the prompt alone."""
        return {"pooled_embeds": self.pipeline._get_clip_prompt_embeds(prompts, device=self.device)}

    @torch.no_grad()
    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...], prompts: Sequence[str] = ()) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D), "prompt_mask": (N, L), "condition_latents": (N, C, 1, H, W)}, of the mean of the posterior, scaled.

        The mask is 0 after a prompt's last token. ValueError for None.
        """
        _, height, width = size
        given = all_given(conditions, f"{self.source} always has its first frame (backbone hunyuan_video has none)")
        images = pictures(given, len(prompts), (height, width))
        # One by one: of several prompts the pipeline finds the end of none that is cut.
        read = [self._read(prompt, image) for prompt, image in zip(prompts, images, strict=True)]
        embeds, mask = (torch.cat(each) for each in zip(*read, strict=True))
        latents = self.encode(pixels(given, (height, width)).unsqueeze(2), seeds=None)
        return {"prompt_embeds": embeds, "prompt_mask": mask, "condition_latents": latents}

    def _read(self, prompt: str, image: Any) -> tuple[Tensor, Tensor]:
        return self.pipeline._get_llama_prompt_embeds(
            image, [prompt], DEFAULT_PROMPT_TEMPLATE, device=self.device, max_sequence_length=TOKEN_LIMIT, image_embed_interleave=INTERLEAVE
        )

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """0 in the first place in time, whatever stands there in x_t."""
        whole = torch.cat([embeds["condition_latents"].to(noised), noised[:, :, 1:]], 2)
        return without_first(super().predict(denoiser, whole, timestep, embeds))

    def guided(self, guidance: float, negative_prompts: list[str]) -> dict[str, Any]:
        return {**super().guided(guidance, negative_prompts), "max_sequence_length": TOKEN_LIMIT}

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> list[Video]:  # fmt: skip
        """A call for each prompt, as they are read."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
        frames, height, width = size or self.size
        made: list[Video] = []
        for prompt, seed, image in zip(prompts, seeds, pictures(conditions, len(prompts), (height, width)), strict=True):
            made += self.made([prompt], [seed], steps, guidance, negative_prompt, (frames, height, width), scheduler, image=image)
        return made


def load(source: str, loading: Loading, *, guidance: float = 1.0) -> HunyuanVideoImageToVideo:
    """See `load_backbone`.

    guidance  of training, see `HunyuanVideoImageToVideo`; sampling has its own
    """
    return HunyuanVideoImageToVideo(load_pipeline(HunyuanVideoImageToVideo, source, loading), source, guidance)
