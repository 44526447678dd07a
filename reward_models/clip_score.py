"""CLIP score: how well a picture agrees with its prompt, by any open_clip model with weights on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

FORMULAS = {
    "percent": 100.0,  # 100·max(0, cos): TorchMetrics and most tables of papers
    "hessel": 2.5,  # 2.5·max(0, cos): Hessel et al. 2021, eq. 1, who put "A photo depicts " before every caption (setting `prefix`)
}
DOWNLOAD = "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K open_clip_model.safetensors"


class ClipScore:
    """100·max(0, cos(image, text)) by default: Hessel et al. 2021, arXiv:2104.08718. Prompts are cut at the encoder's 77 tokens.

    architecture  an open_clip name ("ViT-B-32", "ViT-L-14-quickgelu" for OpenAI's weights), or a folder with open_clip_config.json
    checkpoint    a local .safetensors file, or .pt, .pth, .bin that holds tensors only; "random": random weights, for tests of the plumbing
    formula       a name of FORMULAS. Scores of two formulas, or of two checkpoints, do not compare
    prefix        put before every prompt
    tag           the open_clip pretrained tag that the checkpoint is, for its image transform; needed where an
                  architecture's published weights differ in theirs
    dtype         of the weights; the cosine is formed in float32
    device        "auto" (CUDA where there is one), or as torch names them
    batch         pictures per forward
    seed          of the random weights
    """

    name = "clip_score"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self,
        checkpoint: str,
        architecture: str = "ViT-B-32",
        *,
        formula: str = "percent",
        prefix: str = "",
        tag: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        from reward_models.open_clip_model import OpenClip

        if formula not in FORMULAS:
            raise ValueError(f"clip_score got formula = {formula!r}; choose one of: {', '.join(FORMULAS)}")
        self.clip = OpenClip(
            self.name, checkpoint, architecture, download=DOWNLOAD, tag=tag, dtype=dtype, device=device, batch=batch, seed=seed
        )
        self.factor, self.prefix = FORMULAS[formula], prefix
        self.revision = "/".join([Path(architecture).name, *self.clip.digests, formula, dtype, *([prefix] if prefix else [])])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}. A prompt that several pictures share is encoded once."""
        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        cosines = self.clip.cosines([self.prefix + prompt for prompt in prompts], cast("Sequence[Image]", media))
        return {"score": (self.factor * cosines.clamp(min=0)).tolist()}
