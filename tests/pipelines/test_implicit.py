"""The implicit reward: its formula by a plain loop, its zeros, and that a model prefers what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_road import save_tiny_pipeline

from diffalign.backbones import load_backbone
from diffalign.data.modalities.image import Image
from pipelines.implicit import Implicit
from reward_models import load_reward

PROMPTS = ["red", "blue", "red", "star"]


def pictures(sides: tuple[int, ...]) -> list[Image]:
    """Black, white, red and grey, grained."""
    generator, grounds = np.random.default_rng(0), np.array([[0, 0, 0], [235, 235, 235], [235, 0, 0], [120, 120, 120]])
    grained = [(ground + generator.integers(0, 20, (side, side, 3))).astype(np.uint8) for side, ground in zip(sides, grounds, strict=False)]
    return [Image.from_pixels(pixels) for pixels in grained]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser after some steps on the second picture with its prompt."""
    backbone: Any = load_backbone("stable_diffusion", str(model))
    backbone.denoiser.requires_grad_(True)
    optimiser = torch.optim.AdamW(backbone.denoiser.parameters(), lr=2e-3)
    _, picture = pictures((32, 32))
    latents = backbone.encode(torch.from_numpy(picture.tensor((32, 32), None))[None], seeds=None).expand(8, -1, -1, -1)
    embeds = {name: value.expand(8, *value.shape[1:]) for name, value in backbone.embed(PROMPTS[1:2]).items()}
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        epsilon = torch.randn(latents.shape, generator=generator)
        timestep = backbone.process.timestep(torch.rand(8, generator=generator))
        noised, target = backbone.process.noise(latents, epsilon, timestep), backbone.process.target(latents, epsilon, timestep)
        loss = (backbone.predict(backbone.denoiser, noised, timestep, embeds) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("trained")
    backbone.save_trained(folder)
    return folder


def settings(model: Path, checkpoint: Path, **more: Any) -> dict[str, Any]:
    return {"checkpoint": str(checkpoint), "model": {"source": str(model), "device": "cpu"}, **more}


def test_the_model_itself_prefers_nothing(model: Path) -> None:
    reward = load_reward("implicit", **settings(model, model, draws=2))
    assert reward(PROMPTS, pictures((32, 32, 32, 16))) == {"score": [0.0] * 4}


def test_a_model_prefers_what_it_was_trained_on(model: Path, trained: Path) -> None:
    """Also under the same prompt as others."""
    reward = load_reward("implicit", **settings(model, trained, draws=8))
    scores = reward([PROMPTS[1]] * 4, pictures((32, 32, 32, 32)))["score"]
    assert int(np.argmax(scores)) == 1 and scores[1] > 0


def test_the_score_is_the_formula_on_common_draws(model: Path, trained: Path) -> None:
    """By a plain loop over media and draws, one at a time; sizes and batches change nothing."""
    media = pictures((32, 32, 16, 32))
    reward = Implicit(**settings(model, trained, draws=3, beta=50.0, timesteps=(0.2, 0.9), batch_size=2))
    found = reward(PROMPTS, media)["score"]
    policy: Any = load_backbone("stable_diffusion", str(model), denoiser=trained)
    reference: Any = load_backbone("stable_diffusion", str(model))
    for prompt, picture, score in zip(PROMPTS, media, found, strict=True):
        side, total = picture.pixels().shape[0], 0.0
        latents = reference.encode(torch.from_numpy(picture.tensor((side, side), None))[None], seeds=None)
        for draw in range(3):
            generator = torch.Generator().manual_seed(draw)
            uniform = 0.2 + 0.7 * (draw + torch.rand(1, generator=generator)) / 3
            timestep = reference.process.timestep(uniform)
            alpha, sigma = (float(level) for level in reference.process.levels(timestep))
            epsilon = torch.randn(latents.shape[1:], generator=generator)[None]
            with torch.no_grad():
                errors = [
                    float(
                        (each.predict(each.denoiser, alpha * latents + sigma * epsilon, timestep, each.embed([prompt])) - epsilon)
                        .square()
                        .mean()
                    )
                    for each in (policy, reference)
                ]
            total += errors[0] - errors[1]
        assert score == pytest.approx(-25.0 * total / 3, rel=1e-3, abs=1e-4)
    assert reward(PROMPTS[:1], media[:1])["score"][0] == pytest.approx(found[0], rel=1e-3, abs=1e-4)


def test_a_model_in_half_precision_scores_as_the_whole_one(model: Path, trained: Path) -> None:
    """But for the rounding of its weights and of what goes into them."""
    media, shared = pictures((32, 32, 32, 32)), settings(model, trained, draws=2)
    whole, half = (
        load_reward("implicit", **(shared | {"model": shared["model"] | {"dtype": dtype}}))(PROMPTS, media)["score"]
        for dtype in ("float32", "bfloat16")
    )
    assert half == pytest.approx(whole, abs=0.5)


def test_what_cannot_be_is_refused(model: Path, tmp_path: Path) -> None:
    for more, error, message in (
        ({"draws": 0}, ValueError, "draws = 0"),
        ({"timesteps": (0.5, 0.5)}, ValueError, r"give \[low, high\] in \[0, 1\]"),
        ({"checkpoint": str(tmp_path / "none")}, FileNotFoundError, "none"),
        ({"model": {"backbone": "flux_kontext", "source": "x"}}, ValueError, "needs a condition with each"),
    ):
        with pytest.raises(error, match=message):
            Implicit(**(settings(model, model) | more))
