"""Pretraining of an autoencoder: the first half of a miniature pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.training.loop import Measured
from diffalign.training.randomness import generator
from diffalign.training.visits import Visit


class AutoencoderTask:
    """Trains the mean absolute plus mean squared error of the round trip, kl_weight times the mean KL per latent element, and
    edge_weight times the mean absolute error of the differences between neighbours along the last two axes.

    media(visits) gives what it reads and makes, (n, C, *S); a "group" of the loop is one of `count` media.
    Kingma and Welling 2013, arXiv:1312.6114; Rombach et al. 2021; the differences: Mathieu et al. 2016, arXiv:1511.05440, eq. 6, α = 1.
    """

    def __init__(
        self, autoencoder: Any, media: Callable[[list[Visit]], Tensor], count: int, *, kl_weight: float, edge_weight: float = 0.0, seed: int
    ):
        self.modules: dict[str, nn.Module] = {"vae": _channels_last(autoencoder)}
        self.media, self.kl_weight, self.edge_weight, self.seed = media, kl_weight, edge_weight, seed
        self.group_count, self.difficulty = count, None
        self.state: dict[str, Tensor] = {}
        self.family, self.config = type(autoencoder), dict(autoencoder.config)
        self.identity: dict[str, Any] = {"task": "autoencoder", "media": count, "kl_weight": kl_weight, "seed": seed}
        if edge_weight:
            self.identity["edge_weight"] = edge_weight

    def measure(self, visits: list[Visit]) -> Measured:
        vae = self.modules["vae"]
        media = self.media(visits).to(next(vae.parameters()).device)
        posterior = vae.encode(media).latent_dist
        noise = [
            torch.randn(posterior.mean.shape[1:], generator=generator(self.seed, "posterior", visit.group, visit.draw)) for visit in visits
        ]
        difference = vae.decode(posterior.mean + posterior.std * torch.stack(noise).to(media)).sample - media
        absolute, squared = difference.abs().flatten(1).mean(1), difference.square().flatten(1).mean(1)
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).flatten(1).mean(1)
        numbers = {"absolute": absolute, "squared": squared, "kl": divergence}
        value = absolute + squared + self.kl_weight * divergence
        if self.edge_weight:
            numbers["edges"] = sum(difference.diff(dim=axis).abs().flatten(1).mean(1) for axis in (-1, -2))
            value = value + self.edge_weight * numbers["edges"]
        return Measured(value, torch.ones_like(value), {"loss": value, **numbers})

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in numbers.items()}

    def update(self, step: int) -> None:
        """There is no state."""

    def follow(self, step: int, metrics: dict[str, float]) -> None:
        """The next step depends on the weights alone."""

    def buffer(self) -> dict[str, Tensor]:
        return {}

    def refill(self, buffer: dict[str, Tensor]) -> None:
        """There is none."""

    def warnings(self, history: list[dict[str, float]]) -> dict[str, str]:
        return {}

    def describe(self, visit: Visit) -> str:
        return f"render {visit.group}"

    def write(self, folder: Path) -> None:
        model = self.family.from_config(self.config)
        model.load_state_dict(self.modules["vae"].state_dict())
        model.save_pretrained(folder / "vae")


def crop_about(media: Tensor, side: int, generators: Sequence[torch.Generator]) -> Tensor:
    """A square of `side` of each of (n, C, *S), along the last two axes, with a place in it that stands out: (n, C, …, side, side).

    A place is drawn in proportion to how far it is from its channel's median, over all steps in time: small things on a wide ground are
    most of what an autoencoder has to learn, and little of what it would see. Where in the square it lies is drawn too.
    """
    high, wide = media.shape[-2:]
    if side > min(high, wide):
        raise ValueError(f"crops of {side} out of {high}×{wide}; give a side of at most {min(high, wide)}")
    found = []
    for medium, draw in zip(media, generators, strict=True):
        ground = medium.flatten(1).median(1).values.view(-1, *[1] * (medium.ndim - 1))
        stands_out = (medium - ground).abs().reshape(-1, high, wide).sum(0).flatten() + 1e-4
        row, column = divmod(int(torch.multinomial(stands_out, 1, generator=draw)), wide)
        top, left = (
            min(max(place - int(torch.randint(side, (1,), generator=draw)), 0), length - side)
            for place, length in ((row, high), (column, wide))
        )
        found.append(medium[..., top : top + side, left : left + side])
    return torch.stack(found)


def _channels_last(model: nn.Module) -> nn.Module:
    """Convolutions over pictures are faster so on a CPU; those over videos keep their format."""
    flat = all(parameter.ndim < 5 for parameter in model.parameters())
    return model.to(memory_format=torch.channels_last) if flat else model
