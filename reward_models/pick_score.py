"""PickScore: which of two pictures people on Pick-a-Pic would prefer for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.encoders import PictureTextEncoder

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

RELEASED = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # whose image processor and tokenizer the release uses


class PickScore:
    """exp(logit_scale)·cos(picture, prompt), about 16 to 26: Kirstain et al. 2023, arXiv:2305.01569.

    The softmax of two scores of one prompt is the probability that people prefer either; across prompts scores do not compare. Prompts are
    cut at 77 tokens.

    checkpoint  a hub id, or a folder that transformers saved, of any CLIP model
    processor   a hub id or folder with image processor and tokenizer
    revision    of a checkpoint that is a hub id
    device, dtype, batch   "auto" is CUDA where there is one; of the weights ("auto": as stored); pictures per forward
    """

    name = "pick_score"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str = RELEASED, *, processor: str = PROCESSOR, revision: str | None = None, device: str = "auto",
        dtype: str = "float32", batch: int = 16,
    ) -> None:  # fmt: skip
        self.clip = PictureTextEncoder(
            self.name, checkpoint, processor=processor, revision=revision, device=device, dtype=dtype, batch=batch
        )
        self.scale = float(self.clip.model.logit_scale.detach().float().exp())
        self.revision = "/".join(self.clip.digests)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}."""
        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        return {"score": (self.scale * self.clip.cosines(prompts, cast("Sequence[Image]", media))).tolist()}
