"""The run's model, loaded onto the run's device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipelines.config import Model

if TYPE_CHECKING:
    from diffalign.backbones import Backbone

# (height, width) of images, (frames, height, width) of videos, (samples,) of sounds.
MediaSize = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=3)]


def check_size(backbone: Backbone, size: tuple[int, ...] | None, key: str) -> None:
    """ValueError for a size of other axes than the model's media have, and for one that is no whole number of latents."""
    if size is None:
        return
    if len(size) != len(backbone.size):
        own = f"{backbone.modality} of {len(backbone.size)} axes, such as {list(backbone.size)}"
        raise ValueError(f"{key} is {list(size)}; this model makes {own}")
    near = backbone.whole(size)
    if near != tuple(size):
        nearest = " and ".join(str(list(each)) for each in (near, _whole_from(backbone, size)) if all(each))
        raise ValueError(f"{key} is {list(size)}, no whole number of this model's latents; the nearest: {nearest}")


def _whole_from(backbone: Backbone, size: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest shape of at least `size` that whole latents stand for."""
    found = list(size)
    for axis, side in enumerate(size):
        while backbone.whole(tuple(found))[axis] < side:
            found[axis] += 1
    return tuple(found)


def shown_size(size: Sequence[int]) -> str:
    """(…, height, width) the way people write it, width first; a length in time last."""
    return " × ".join(map(str, reversed(size)))


def load_model(model: Model, **changes: Any) -> Backbone:
    """The backbone of a model section. changes: adapter=, denoiser=, …, as `load_backbone` takes them, instead of the section's."""
    import torch

    from diffalign.backbones import load_backbone

    arguments: dict[str, Any] = {"revision": model.revision, "adapter": model.adapters, "denoiser": model.denoiser}
    settings: dict[str, Any] = model.settings
    return load_backbone(
        model.backbone,
        model.source,
        dtype=getattr(torch, model.dtype),
        device=device_of(model),
        quantise=model.quantise,
        tiled_vae=model.tiled_vae,
        variant=model.variant,
        vae=model.vae,
        **(arguments | changes),
        **settings,
    )


def device_of(model: Model) -> str:
    """'cuda' or 'cpu'; ValueError where cuda is asked for and there is none."""
    import torch

    if model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if model.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"model.device is 'cuda', but torch {torch.__version__} sees no CUDA device; use model.device=cpu or auto")
    return model.device


def model_name(model: Model) -> str:
    """What records call a model: its source, and what it starts with beside that."""
    return " + ".join([model.source, *(Path(part).name for part in [model.denoiser, model.vae, *model.adapters] if part)])
