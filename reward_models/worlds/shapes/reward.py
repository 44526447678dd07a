"""The verifier of the shapes world as a reward model."""

import numpy as np
from PIL import Image

from .captions import parse
from .geometry import SIZE
from .verify import DIMENSIONS, verify


class Shapes:
    """Scores pictures against captions of the shapes world, exactly and without weights. The dimensions: see `verify`."""

    name = "shapes"
    modalities = frozenset({"image"})
    dimensions = DIMENSIONS
    needs_prompt = True
    groupwise = False
    scale = (0.0, 1.0)

    def __call__(self, prompts: list[str], media: list) -> dict[str, list[float]]:
        """One list per dimension, one float in [0, 1] per item, in order.

        prompts: captions; one that does not parse raises ValueError. media: objects whose `pixels()` gives uint8
        (H, W, 3); another size than 64x64 is resized by averaging boxes. ValueError if the lengths differ.
        """
        if len(prompts) != len(media):
            raise ValueError(f"{len(prompts)} prompts for {len(media)} media; give one prompt per picture")
        scenes = [parse(prompt) for prompt in prompts]
        results = [verify(scene, _resized(one.pixels())) for scene, one in zip(scenes, media, strict=True)]
        return {dimension: [result[dimension] for result in results] for dimension in self.dimensions}


def _resized(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[:2] == (SIZE, SIZE):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX))
