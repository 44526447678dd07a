"""LAION's aesthetic predictor, version 2: how people rate the looks of a picture, whatever it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from diffalign.data.modalities import Media
from reward_models.clip_transform import clip_pixels
from reward_models.contract import check_call
from reward_models.encoders import PictureEncoder, Preprocess
from reward_models.linear_head import linear_head
from reward_models.weights import file_digest, fill, tensors_of, weights_file

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

CLIP = "openai/clip-vit-large-patch14"
DOWNLOAD = "curl -LO https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth"


class Aesthetic:
    """1 to 10, mostly 5 to 7, after Schuhmann et al. 2022 (LAION-5B), arXiv:2210.08402: a linear head over unit CLIP embeddings.

    Five linear layers without anything between them, of the projected embedding of OpenAI's ViT-L/14, scaled to length 1. No prompt.

    checkpoint  the head: the released sac+logos+ava1-l14-linearMSE.pth, or its tensors as .safetensors
    clip        a hub id, or a folder that transformers saved, of the CLIP under the head
    revision    of a `clip` that is a hub id
    device, dtype, batch   "auto" is CUDA where there is one; of CLIP's weights; pictures per forward
    """

    name = "aesthetic"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self,
        checkpoint: str,
        *,
        clip: str = CLIP,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch: int = 16,
    ) -> None:
        from transformers import CLIPModel

        path = weights_file(self.name, checkpoint, DOWNLOAD)
        tensors = tensors_of(self.name, path)
        self.clip = PictureEncoder(
            self.name, CLIPModel, clip, embed=lambda model, inputs: model.get_image_features(**inputs),
            preprocess=clip_preprocess, revision=revision, device=device, dtype=dtype, batch=batch,
        )  # fmt: skip
        head = linear_head(self.clip.model.config.projection_dim)
        fill(self.name, head, tensors, path)
        self.layers = head["layers"].to(self.clip.device)
        self.revision = "/".join([*self.clip.digests, file_digest(path)])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}. Prompts are ignored."""
        import torch

        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        with torch.inference_mode():
            return {"score": self.layers(self.clip.embeddings(cast("Sequence[Image]", media))).squeeze(1).tolist()}


def clip_preprocess(model: Any) -> tuple[Preprocess, Any]:
    """OpenAI's transform at the size of the model's pictures."""
    size = int(model.config.vision_config.image_size)
    return lambda images: {"pixel_values": clip_pixels(images, size)}, {"clip_transform": size}
