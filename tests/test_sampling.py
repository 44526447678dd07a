"""Sampling of our own, against the exact path of a Gaussian and against diffusers' solver."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from diffalign.backbones import load_backbone
from diffalign.sampling import follow_path, vary
from diffalign.training.randomness import generator

MU, S = 0.7, 0.5


class Gaussian:
    """The exact denoiser of x_0 ~ N(μ, s²), for each thing that a family may predict; its path is known in closed form.

    velocity: x_t = (1 − t)·x_0 + t·ε, all noise at the last timestep; epsilon and v: α = cos, σ = sin, with a little signal left there.
    """

    timestep_count, denoiser = 1000, nn.Linear(1, 1, dtype=torch.float64)

    def __init__(self, prediction: str):
        self.prediction, self.process = prediction, self

    def timestep(self, uniform: Tensor, size: tuple[int, ...]) -> Tensor:
        return 1000 * uniform.double()

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, latents)
        return alpha * latents + sigma * epsilon

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        share = timestep.double() / 1000
        if self.prediction == "velocity":
            return 1 - share, share
        angle = (0.5 * torch.pi - (self.prediction == "epsilon") * 0.05) * share
        return angle.cos(), angle.sin()

    def _at(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)) for level in self.levels(timestep))
        return alpha, sigma

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, latents)
        return {"epsilon": epsilon, "v": alpha * epsilon - sigma * latents, "velocity": epsilon - latents}[self.prediction]

    def clean(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, noised)
        if self.prediction == "epsilon":
            return (noised - sigma * prediction) / alpha
        return (alpha if self.prediction == "v" else 1) * noised - sigma * prediction

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        alpha, sigma = self._at(timestep, noised)
        gain = alpha * S**2 / (alpha**2 * S**2 + sigma**2)
        clean = MU + gain * (noised - alpha * MU)
        noise = sigma * (noised - alpha * MU) / (alpha**2 * S**2 + sigma**2)
        return self.target(clean, noise, timestep)

    def on_path(self, noise: Tensor, start: Tensor, timestep: Tensor) -> Tensor:
        """x_t = α_t·μ + √(α_t²s² + σ_t²)·z, z the same all along."""
        (alpha, sigma), (first_alpha, first_sigma) = self._at(timestep, noise), self._at(start, noise)
        z = (noise - first_alpha * MU) / (first_alpha**2 * S**2 + first_sigma**2).sqrt()
        return alpha * MU + (alpha**2 * S**2 + sigma**2).sqrt() * z


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_a_path_is_the_sampling_ode_to_second_order(prediction: str) -> None:
    """From t = 1000, where v and velocity have no signal left, each sample on a grid of its own; its last point where theory has it."""
    process, noise, errors = Gaussian(prediction), torch.randn(3, 2, 5, generator=generator("noise"), dtype=torch.float64), []
    end = torch.tensor([100.0, 200.0, 300.0], dtype=torch.float64)
    for steps in (40, 160):
        timestep = 1000 - (1000 - end)[:, None] * torch.arange(steps + 1) / steps
        predict = partial(process.predict, nn.Identity(), embeds={})
        points = follow_path(process, predict, noise, timestep)
        assert points.shape == (3, 2, steps + 1, 2, 5)
        errors.append(float((points[:, 0, -1] - process.on_path(noise, timestep[:, 0], end)).abs().max()))
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 8


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_a_variation_is_where_the_path_from_its_level_ends(prediction: str) -> None:
    """Each sample from a level of its own; less noise keeps more of the sample, and guidance 1 reads no negative prompt."""
    process = Gaussian(prediction)
    x0, epsilon = (torch.randn(4, 2, 5, generator=generator(name), dtype=torch.float64) for name in ("x0", "epsilon"))
    strength = torch.tensor([0.2, 0.5, 0.65, 0.8], dtype=torch.float64)
    found = vary(process, x0, epsilon, {}, {}, strength=strength, steps=400, guidance=1.0)  # type: ignore[arg-type]
    levels = 1000 * strength
    expected = process.on_path(process.noise(x0, epsilon, levels), levels, torch.zeros(4, dtype=torch.float64))
    assert float((found - expected).abs().max()) < 5e-3
    kept = [float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in zip(found, x0)]
    assert kept == sorted(kept, reverse=True) and kept[0] > 0.9


def test_guidance_goes_beyond_the_prompt_s_own_prediction() -> None:
    """With a denoiser whose prediction is its embed: without + g·(given − without) all along a path of rectified flow."""
    process = Gaussian("velocity")
    process.predict = lambda denoiser, noised, timestep, embeds: embeds["value"].expand_as(noised)  # type: ignore[method-assign]
    x0, epsilon = torch.zeros(3, 1, 4, dtype=torch.float64), torch.ones(3, 1, 4, dtype=torch.float64)
    embeds, negative = {"value": torch.full((3, 1, 1), 2.0)}, {"value": torch.full((1, 1, 1), 0.5)}
    found = vary(process, x0, epsilon, embeds, negative, strength=torch.full((3,), 0.5), steps=10, guidance=3.0)  # type: ignore[arg-type]
    assert torch.allclose(found, torch.full_like(found, 0.5 * 1 - 0.5 * (0.5 + 3 * 1.5)), atol=1e-6)


def variant(pipeline: Path, folder: Path, kind: str) -> Path:
    """The tiny pipeline, predicting ε or v."""
    shutil.copytree(pipeline, folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": kind}))
    return folder


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_path_is_diffusers_own(kind: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    """DPM-Solver++(2M) of diffusers, on the timesteps that it chooses, sample by sample."""
    backbone = load_backbone("stable_diffusion", str(variant(tiny_pipeline, tmp_path / kind, kind)))
    scheduler = DPMSolverMultistepScheduler.from_config(
        backbone.pipeline.scheduler.config, lower_order_final=False, final_sigmas_type="sigma_min"  # type: ignore[attr-defined]
    )  # fmt: skip
    scheduler.set_timesteps(8)
    noise, embeds = torch.randn(2, 4, 8, 8, generator=generator("noise")), backbone.embed(["a red circle", "a blue square"])
    timestep = scheduler.timesteps.expand(2, -1)
    with torch.no_grad():
        predict = partial(backbone.predict, backbone.denoiser, embeds=embeds)
        samples, predictions = follow_path(backbone.process, predict, noise, timestep).unbind(1)
        x = noise
        for place, here in enumerate(scheduler.timesteps):
            torch.testing.assert_close(samples[:, place], x, rtol=1e-4, atol=1e-4)
            prediction = backbone.predict(backbone.denoiser, x, here.expand(2), embeds)
            torch.testing.assert_close(predictions[:, place], prediction, rtol=1e-4, atol=1e-4)
            x = scheduler.step(prediction, here, x).prev_sample
