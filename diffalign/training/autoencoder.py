"""Pretraining of an AutoencoderKL on pictures: the first half of a miniature pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffalign.training.loop import Measured, Visit
from diffalign.training.randomness import generator


class AutoencoderTask:
    """Trains the mean absolute plus mean squared error of the round trip, and kl_weight times the mean KL per latent element.

    pictures (N, H, W, 3) uint8; a "group" of the loop is one picture. Kingma and Welling 2013, arXiv:1312.6114; Rombach et al. 2021.
    """

    def __init__(self, autoencoder: AutoencoderKL, pictures: np.ndarray, *, kl_weight: float, seed: int):
        self.modules: dict[str, nn.Module] = {"vae": autoencoder.to(memory_format=torch.channels_last)}
        self.pictures, self.kl_weight, self.seed = pictures, kl_weight, seed
        self.group_count, self.difficulty = len(pictures), None
        self.state: dict[str, Tensor] = {}
        self.config = dict(autoencoder.config)
        self.identity: dict[str, Any] = {"task": "autoencoder", "pictures": len(pictures), "kl_weight": kl_weight, "seed": seed}

    def measure(self, visits: list[Visit]) -> Measured:
        device = next(self.modules["vae"].parameters()).device
        pixels = torch.from_numpy(self.pictures[[visit.group for visit in visits]]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        vae = self.modules["vae"]
        posterior = vae.encode(pixels).latent_dist
        noise = [
            torch.randn(posterior.mean.shape[1:], generator=generator(self.seed, "posterior", visit.group, visit.draw)) for visit in visits
        ]
        difference = vae.decode(posterior.mean + posterior.std * torch.stack(noise).to(device)).sample - pixels
        absolute, squared = difference.abs().flatten(1).mean(1), difference.square().flatten(1).mean(1)
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).flatten(1).mean(1)
        value = absolute + squared + self.kl_weight * divergence
        return Measured(value, torch.ones_like(value), {"loss": value, "absolute": absolute, "squared": squared, "kl": divergence})

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
        return f"picture {visit.group}"

    def write(self, folder: Path) -> None:
        model = AutoencoderKL.from_config(self.config)
        model.load_state_dict(self.modules["vae"].state_dict())
        model.save_pretrained(folder / "vae")
