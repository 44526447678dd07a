"""Miniature pipelines with random weights and vocabularies of their own, made of the families' own classes: what `pretrain` trains.

A family is one module `miniature/NAME.py` of the same name as its backbone, with the functions of `Miniature`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import BaseModel
from torch import Tensor, nn

from diffalign.backbones import Backbone

MINIATURES = ("stable_diffusion", "wan", "tango")


class Miniature(Protocol):
    """What `pretrain` asks of a family."""

    Architecture: type[BaseModel]  # its sizes, with defaults for the bundled model

    @staticmethod
    def build_autoencoder(architecture: Any) -> nn.Module:
        """The autoencoder with random weights, of diffusers' interface: encode(x).latent_dist, decode(z).sample."""
        ...

    @staticmethod
    def build_pipeline(architecture: Any, captions: Sequence[str], autoencoder: Any, folder: Path) -> Any:
        """The whole pipeline around a trained autoencoder; its tokenizer is learned from the captions, with files in `folder`."""
        ...

    @staticmethod
    def wrap(architecture: Any, pipeline: Any, source: str) -> Backbone: ...

    @staticmethod
    def features(architecture: Any, media: Tensor) -> Tensor:
        """What the autoencoder reads and makes, of media (N, C, *S) in [−1, 1]."""
        ...

    @staticmethod
    def normalise(autoencoder: Any, latents: Tensor) -> Tensor:
        """Latents (N, C, *S) of unit scale; writes that scale into the autoencoder's config."""
        ...

    @staticmethod
    def tokens(pipeline: Any, captions: Sequence[str]) -> Tensor:
        """(N, L)."""
        ...

    @staticmethod
    def embed(text_encoder: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
        """Conditioning as the backbone's `embed` gives it, with gradient."""
        ...

    @staticmethod
    def finish(folder: Path, tokenizer: Path) -> None:
        """Mends a saved pipeline so that every version of its libraries loads it alike; `tokenizer` holds what was learned."""
        ...


def load_miniature(name: str) -> Miniature:
    """The module of a family; ValueError where there is no miniature of it."""
    if name not in MINIATURES:
        raise ValueError(f"there is no miniature {name!r}; choose one of: {', '.join(MINIATURES)}")
    return cast("Miniature", import_module(f"diffalign.backbones.miniature.{name}"))
