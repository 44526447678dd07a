"""What a loaded model family is to everything else: behind `Backbone` it hides what it predicts and how it is conditioned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from diffalign.backbones.process import Process
from diffalign.data.modalities import Media


class Backbone(Protocol):
    """A loaded model family. Samples are (N, C, *S); embeds are a dict of tensors with N rows each."""

    modality: str
    source: str
    denoiser: nn.Module
    process: Process
    token_limit: int
    channels: int | None  # of the media, where they are not the usual ones: three of a picture, one of a sound

    @property
    def size(self) -> tuple[int, ...]:
        """Default shape *S of the media: (H, W), (T, H, W) or (samples,)."""
        ...

    @property
    def rate(self) -> float | None:
        """Frames or samples per second of the media; None for images."""
        ...

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The largest shape of media up to `size` that whole latents stand for; zeros where there is none."""
        ...

    def time_edges(self, length: int) -> list[float]:
        """Where each of `length` latent positions along time begins, and the last one ends, as shares of the whole: length + 1 numbers.

        Time runs from the first frame of a video to its last, so a position that is the first frame alone begins and ends at 0.
        """
        ...

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt with its begin and end tokens; over `token_limit` the encoder would cut it."""
        ...

    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """Conditioning of N prompts: a dict of tensors (N, …), as `predict` takes it."""
        ...

    def encode(self, media: Tensor, *, seeds: list[int] | None) -> Tensor:
        """Latents (N, C, *S), scaled for the denoiser, of media in [−1, 1]; seeds None: the posterior's mean, else one sample each."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Media in [−1, 1] of scaled latents (N, C, *S)."""
        ...

    def media(self, decoded: Tensor) -> Sequence[Media]:
        """Media of tensors (N, C, *S) in [−1, 1], as `decode` gives them."""
        ...

    def head(self, denoiser: nn.Module) -> nn.Module:
        """The layer of a denoiser that makes the prediction out of features: vectors of positions, or of a transformer's tokens."""
        ...

    def laid_out(self, features: Tensor, size: tuple[int, ...]) -> Tensor:
        """(N, C', *G): what goes into the head for latents of shape S = `size`, G being S or, of a transformer, its grid of tokens."""
        ...

    def by_position(self, values: Tensor, size: tuple[int, ...]) -> Tensor:
        """(N, C, *S) of values (N, C, *G) as `laid_out` has them: the positions of a token share its value."""
        ...

    def last_layer(self, denoiser: nn.Module) -> nn.Module:
        """The head, where it makes each position out of a vector of its own, (N, C', *S); ValueError where it makes patches."""
        ...

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """The denoiser's prediction at x_t, (N, C, *S)."""
        ...

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> Sequence[Media]:  # fmt: skip
        """N media, each from noise of its own seed on the CPU: what the family's diffusers pipeline gives."""
        ...

    def offload_encoders(self) -> None:
        """Puts what `predict` does not run into the machine's memory: training on cached latents and embeds needs no more."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the whole pipeline as a diffusers folder."""
        ...

    def save_trained(self, folder: Path) -> None:
        """Writes what training changed, as plain diffusers loads it: a LoRA file for `load_lora_weights`, or the denoiser's own folder."""
        ...

    def keep_reference(self, adapter: str, name: str) -> str:
        """Adds a LoRA, frozen, beside the one that is trained, under a name of its own; a short hash of its weights."""
        ...

    def identity(self) -> str:
        """A short hash of the denoiser's weights and of `load_backbone`'s adapters, others left out: a checkpoint's reference."""
        ...

    def encoder_identity(self) -> str:
        """ "dtype:hash" of the weights that make latents and embeds: a cache of others is refused. Rounded weights hash otherwise."""
        ...


class Conditioned(Backbone, Protocol):
    """A loaded family that takes a condition with each prompt: an image, which covers the media's size and is cut to it."""

    drops_condition: bool  # whether the family's own training leaves conditions out at times, as it does prompts

    def embed_condition(self, conditions: Sequence[Media | None], size: tuple[int, ...], prompts: Sequence[str] = ()) -> dict[str, Tensor]:
        """What `predict` takes beside the prompts' embeds, (N, …), beside media of shape `size`; None: of a dropped condition.

        The media that are denoised may be shorter in time.
        prompts   one for each, which a family takes that reads both together (`Family.reads_together`), and no other does
        """
        ...

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None,
               conditions: Sequence[Media] = ()) -> Sequence[Media]:  # fmt: skip
        """As of any family, one condition for each prompt."""
        ...
