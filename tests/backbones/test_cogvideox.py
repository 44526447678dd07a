"""CogVideoX against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cogvideox_checks import CogvideoxChecks
from family_checks import PROMPTS, normal, pixels
from tiny_pipelines import T5_TOKENS
from tiny_video_pipelines import save_cogvideox

from diffalign.backbones import load_backbone


class TestCogvideox(CogvideoxChecks):
    """With places as angles, like the model of 5 billion weights."""

    family, config = "cogvideox", "cogvideox_diffusion_dpo"

    @staticmethod
    def save(folder: Path) -> Path:
        return save_cogvideox(folder)

    def test_latents_have_their_scale(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), 0.7 * posterior, atol=1e-5)

    def test_noise_levels_are_shifted_and_end_in_noise_alone(self, loaded: Any) -> None:
        """ᾱ / (3 − 2ᾱ) of Stable Diffusion's ᾱ, and √ᾱ moved and stretched so that the first stays and the last is 0."""
        before = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
        root = (before / (3 - 2 * before)).sqrt()
        expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
        timestep = torch.tensor([0, 400, 998, 999])
        alpha, sigma = loaded.process.levels(timestep)
        assert torch.allclose(alpha.double(), expected[timestep], atol=1e-6) and float(alpha[-1]) == 0 and float(sigma[-1]) == 1
        assert loaded.process.prediction_type == "v_prediction"

    def test_size_and_limit_are_the_denoiser_s(self, loaded: Any) -> None:
        assert loaded.size == (9, 16, 32) and loaded.token_limit == T5_TOKENS


def test_places_may_be_added_to_the_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the model of 2 billion weights."""
    checks, folder = TestCogvideox(), save_cogvideox(tmp_path, use_rotary_positional_embeddings=False)
    checks.test_predict_is_what_the_pipeline_s_steps_take(load_backbone("cogvideox", str(folder)), folder, monkeypatch)


def test_version_1_5_takes_latents_in_patches_along_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two by two: clips that are trained on have an even number of latents; one to be made may have any, as the pipeline fills up."""
    checks, folder = TestCogvideox(), save_cogvideox(tmp_path, patch_size_t=2, patch_bias=False)
    loaded: Any = load_backbone("cogvideox", str(folder))
    assert loaded.rate == 16 and loaded.size == (5, 16, 32)
    assert [loaded.whole((frames, 16, 32))[0] for frames in (4, 5, 12, 13, 20)] == [0, 5, 5, 13, 13]
    found = pixels(loaded.sample(PROMPTS, [1, 2], steps=3, guidance=3.0, size=(9, 16, 32)))
    assert found.shape == (2, 9, 16, 32, 3) and np.array_equal(found, checks.plain_pixels(checks.plain(folder), [1, 2]))
    monkeypatch.setattr(TestCogvideox, "size", (13, 16, 32))
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
