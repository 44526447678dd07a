"""DINOv2 similarity: how alike the pictures of one prompt are. Near duplicates, and what a model loses in diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.encoders import PictureEncoder, with_processor
from reward_models.pretrained import pillow_processor

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image


class DinoSimilarity:
    """Cosines of DINOv2's class tokens (after the last norm) among the pictures of one prompt: Oquab et al. 2023, arXiv:2304.07193.

    Compared are the candidates of a group: a picture that they should resemble is no part of one. `mean` is a picture's mean cosine to the
    others of its prompt, so that one less its mean over a group is the group's diversity; `nearest` is the greatest, near 1 for a near
    duplicate. One alone has 0 for both. Higher is more alike, and no better: a guard, or with a negative weight a goal.

    checkpoint  a hub id, or a folder that transformers saved, with its image processor
    revision    of a hub id: branch, tag or commit
    device, dtype, batch   "auto" is CUDA where there is one; of the weights ("auto": as stored); pictures per forward
    """

    name = "dino_similarity"
    modalities = frozenset({"image"})
    dimensions = ("mean", "nearest")
    groupwise = True

    def __init__(
        self, checkpoint: str = "facebook/dinov2-base", *, revision: str | None = None, device: str = "auto", dtype: str = "float32",
        batch: int = 16,
    ) -> None:  # fmt: skip
        from transformers import Dinov2Model

        self.dino = PictureEncoder(
            self.name, Dinov2Model, checkpoint, embed=lambda model, inputs: model(**inputs),
            preprocess=lambda model: with_processor(pillow_processor(self.name, checkpoint, revision)),
            revision=revision, device=device, dtype=dtype, batch=batch,
        )  # fmt: skip
        self.revision = "/".join(self.dino.digests)

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One float in [−1, 1] per picture; pictures are compared where their prompts are equal."""
        check_call(self, prompts, media)
        found: dict[str, list[float]] = {dimension: [0.0] * len(media) for dimension in self.dimensions}
        if not media:
            return found
        embeddings = self.dino.embeddings(cast("Sequence[Image]", media)).cpu()
        for prompt in dict.fromkeys(prompts):
            places = [place for place, other in enumerate(prompts) if other == prompt]
            cosines = embeddings[places] @ embeddings[places].T
            for row, place in enumerate(places if len(places) > 1 else []):
                others = [*cosines[row, :row].tolist(), *cosines[row, row + 1 :].tolist()]
                found["mean"][place], found["nearest"][place] = sum(others) / len(others), max(others)
        return found
