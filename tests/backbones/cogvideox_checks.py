"""How the questions of video_checks are put to the families of CogVideoX."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import CogVideoXDDIMScheduler
from tiny_pipelines import T5_TOKENS
from torch import Tensor
from video_checks import FRAMES_PER_LATENT, VideoFamilyChecks


class CogvideoxChecks(VideoFamilyChecks):
    rate, step = 8.0, (FRAMES_PER_LATENT, 8, 8)
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS}
    NOISING: ClassVar[Any] = CogVideoXDDIMScheduler

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """Of frames first."""
        return latents.permute(0, 2, 1, 3, 4)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds}
