"""Pretraining of a denoiser together with its text encoder: the second half of a miniature pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.backbones import Backbone
from diffalign.noising import Draw
from diffalign.noising.shared import shared
from diffalign.objectives.sft import sft
from diffalign.tensors import Outputs
from diffalign.training.diagnostics import summarise
from diffalign.training.loop import Measured
from diffalign.training.randomness import generator
from diffalign.training.visits import Visit


class DenoiserTask:
    """Trains the denoising error (the `sft` objective on groups of one) of a denoiser and a text encoder from random weights.

    latents (N, C, *S) and tokens (N, L), row by row; a dropped caption becomes the tokens of the empty prompt, `empty` (L,).
    min_snr weighs the error by min(SNR, γ)/SNR (Hang et al. 2023, arXiv:2303.09556, for ε); None weighs all timesteps alike.
    embed(text_encoder, tokens) gives the conditioning, with gradient.
    """

    def __init__(self, backbone: Backbone, text_encoder: nn.Module, latents: Tensor, tokens: Tensor, empty: Tensor, *,
                 embed: Callable[[nn.Module, Tensor], dict[str, Tensor]], prompt_dropout: float, min_snr: float | None, seed: int,
                 write_weights: Callable[[Path], None]):  # fmt: skip
        self.modules: dict[str, nn.Module] = {"denoiser": backbone.denoiser, "text_encoder": text_encoder}
        self.backbone, self.latents, self.tokens, self.empty, self.embed = backbone, latents, tokens, empty, embed
        self.prompt_dropout, self.min_snr, self.seed, self.write_weights = prompt_dropout, min_snr, seed, write_weights
        self.group_count, self.difficulty = len(latents), None
        self.state: dict[str, Tensor] = {}
        self.identity: dict[str, Any] = {
            "task": "denoiser",
            "media": len(latents),
            "prompt_dropout": prompt_dropout,
            "min_snr": min_snr,
            "seed": seed,
        }

    def measure(self, visits: list[Visit]) -> Measured:
        device = next(self.modules["denoiser"].parameters()).device
        groups = [visit.group for visit in visits]
        generators = [generator(self.seed, "group", visit.group, visit.draw) for visit in visits]
        uniform = torch.stack([torch.rand(2, generator=one) for one in generators])
        timestep = self.backbone.process.timestep(uniform[:, 0], tuple(self.latents.shape[2:]))
        tokens = torch.where(uniform[:, 1:] < self.prompt_dropout, self.empty, self.tokens[groups]).to(device)
        noised = shared(Draw(self.backbone.process, self.latents[groups].unsqueeze(1), timestep, generators))
        embeds = self.embed(self.modules["text_encoder"], tokens)
        sample, timestep = noised.sample.to(device), timestep.to(device)
        prediction = self.backbone.predict(self.modules["denoiser"], sample.squeeze(1), timestep, embeds).unsqueeze(1)
        value = sft(Outputs(prediction, noised.target.to(device), timestep)).value
        snr = self.backbone.process.signal_to_noise(timestep)
        weight = torch.ones_like(value) if self.min_snr is None else snr.clamp_max(self.min_snr).to(value) / snr.to(value)
        return Measured(value, weight, {"loss": value.detach(), "timestep": timestep.float()})

    def summarise(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        return summarise(numbers, self.backbone.process.timestep_count)

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
        self.write_weights(folder)
