"""HPS v2: which of several pictures of one prompt people would prefer, by a CLIP trained on 798,090 choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.open_clip_model import OpenClip

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

RELEASED = {"hps_v2": "HPS_v2_compressed.pt", "hps_v2_1": "HPS_v2.1_compressed.pt"}
ARCHITECTURE, TAG = "ViT-H-14", "laion2b_s32b_b79k"


class HpsV2:
    """100·cos(picture, prompt), about 20 to 35: Wu et al. 2023, arXiv:2306.09341; tables of papers show the cosine times 100 too.

    Only pictures of one prompt compare, and never by v2 and v2.1. A picture that is no square is scaled down whole and padded with black,
    as the release does, where open_clip's own transform of this architecture cuts the longer side.

    checkpoint    the released file (HPS_v2_compressed.pt of the repository xswu/HPSv2), or its tensors as .safetensors; "random": random
                  weights, for tests of the plumbing
    architecture  an open_clip name, or a folder with open_clip_config.json, where it is another than the released ViT-H-14
    dtype         of the weights; the release computes in float16 on CUDA
    device, batch, seed   "auto" is CUDA where there is one; pictures per forward; of the random weights
    """

    name = "hps_v2"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str, architecture: str = ARCHITECTURE, *, dtype: str = "float32", device: str = "auto", batch: int = 16,
        seed: int = 0,
    ) -> None:  # fmt: skip
        for other, file in RELEASED.items():
            if other != self.name and Path(checkpoint).name == file:
                raise ValueError(f"{self.name} got checkpoint = {checkpoint!r}, the weights of {other}; give {RELEASED[self.name]}")
        self.clip = OpenClip(
            self.name, checkpoint, architecture, download=f"hf download xswu/HPSv2 {RELEASED[self.name]}",
            tag=TAG if architecture == ARCHITECTURE else None, transform={"resize_mode": "longest"}, dtype=dtype, device=device,
            batch=batch, seed=seed,
        )  # fmt: skip
        self.revision = "/".join([Path(architecture).name, *self.clip.digests, dtype])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}."""
        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        return {"score": (100.0 * self.clip.cosines(prompts, cast("Sequence[Image]", media))).tolist()}
