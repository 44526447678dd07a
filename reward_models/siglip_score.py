"""SigLIP score: the probability that a picture and a prompt belong together, by any SigLIP or SigLIP 2 of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.encoders import PictureTextEncoder

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.data.modalities.image import Image

FORMULAS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "probability": lambda cosine, scale, bias: (scale * cosine + bias).sigmoid(),  # of this pair alone: no other picture is in it
    "logit": lambda cosine, scale, bias: scale * cosine + bias,  # where probabilities of poor pairs round to 0
    "cosine": lambda cosine, scale, bias: cosine,
}


class SiglipScore:
    """σ(exp(logit_scale)·cos + logit_bias): Zhai et al. 2023, arXiv:2303.15343; SigLIP 2, Tschannen et al. 2025, arXiv:2502.14786.

    Prompts are put in lower case and padded to the tower's 64 tokens, as in the training of both; the tokenizer of SigLIP 2 leaves the
    first to its user.

    checkpoint  a hub id (google/siglip2-so400m-patch16-384, google/siglip-base-patch16-224), or a folder that transformers saved
    formula     a name of FORMULAS; scores of two do not compare
    revision    of a hub id: branch, tag or commit
    device, dtype, batch   "auto" is CUDA where there is one; of the weights ("auto": as stored); pictures per forward
    """

    name = "siglip_score"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str, *, formula: str = "probability", revision: str | None = None, device: str = "auto", dtype: str = "float32",
        batch: int = 16,
    ) -> None:  # fmt: skip
        if formula not in FORMULAS:
            raise ValueError(f"siglip_score got formula = {formula!r}; choose one of: {', '.join(FORMULAS)}")
        self.siglip = PictureTextEncoder(
            self.name, checkpoint, padding="max_length", prepare=str.lower, revision=revision, device=device, dtype=dtype, batch=batch
        )
        model = self.siglip.model
        self.scale, self.bias = float(model.logit_scale.detach().float().exp()), float(model.logit_bias.detach().float())
        self.formula = FORMULAS[formula]
        self.revision = "/".join([*self.siglip.digests, formula])

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float per picture}."""
        check_call(self, prompts, media)
        if not media:
            return {"score": []}
        cosines = self.siglip.cosines(prompts, cast("Sequence[Image]", media))
        return {"score": self.formula(cosines, self.scale, self.bias).tolist()}
