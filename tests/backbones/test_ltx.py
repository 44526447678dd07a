"""LTX-Video against diffusers itself."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from family_checks import PROMPTS, normal, pixels
from tiny_pipelines import T5_TOKENS
from tiny_video_pipelines import save_ltx
from torch import Tensor
from video_checks import FRAMES_PER_LATENT, VideoFamilyChecks

from diffalign.backbones import load_backbone
from diffalign.backbones.ltx import Ltx


class TestLtx(VideoFamilyChecks):
    family, config = "ltx", "ltx_flow_dpo"
    rate, step = 25.0, (FRAMES_PER_LATENT, 32, 32)
    size: ClassVar[tuple[int, ...]] = (9, 32, 64)
    latents: ClassVar[tuple[int, ...]] = (4, 3, 8, 16)
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_ltx(folder)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 3, 8, 16) of a sequence (N, 384, 4): frame by frame, row by row."""
        return latents.view(-1, 3, 8, 16, 4).permute(0, 4, 1, 2, 3)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "prompt_mask": mask.float()}

    def test_latents_are_centred_by_channel_and_scaled(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        mean, std = (torch.tensor(each).view(1, 4, 1, 1, 1) for each in ([0.1, -0.2, 0.3, 0.4], [0.5, 2.0, 1.5, 0.8]))
        assert torch.allclose(loaded.encode(media, seeds=None), (posterior - mean) * 0.8 / std, atol=1e-5)

    def test_what_stands_after_a_prompt_changes_nothing(self, loaded: Any) -> None:
        embeds, x, timestep = loaded.embed(PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 600.0])
        mask = embeds["prompt_mask"].bool()
        assert mask.sum(1).tolist() == [4, 4]  # three words and an end
        other = {**embeds, "prompt_embeds": torch.where(mask[..., None], embeds["prompt_embeds"], 7.0)}
        with torch.no_grad():
            assert torch.allclose(*(loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, other)), atol=1e-5)

    def test_the_rate_places_latents_in_time(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pipeline's steps at eight frames a second are ours there, and not those at 25."""
        slow: Any = load_backbone("ltx", str(folder), fps=8)
        monkeypatch.setattr(type(self), "own", {**self.own, "frame_rate": 8})
        self.test_predict_is_what_the_pipeline_s_steps_take(slow, folder, monkeypatch)
        monkeypatch.undo()
        [video] = slow.sample(PROMPTS[:1], [1], steps=3, guidance=3.0, size=self.size)
        own = self.made(self.plain(folder), [1], PROMPTS[:1], frame_rate=8)
        assert slow.rate == video.fps == 8 and np.array_equal(video.frames()[None], np.rint(own * 255))
        x, timestep, embeds = normal(2, *self.latents), torch.tensor([300.0, 600.0]), slow.embed(PROMPTS)
        with torch.no_grad():
            fast = load_backbone("ltx", str(folder)).predict(slow.denoiser, x, timestep, embeds)
            assert not torch.allclose(fast, slow.predict(slow.denoiser, x, timestep, embeds), atol=1e-4)
        with pytest.raises(ValueError, match="fps is 0; give frames per second above 0 and up to 1000, such as 25"):
            load_backbone("ltx", str(folder), fps=0)

    @pytest.mark.parametrize("size", [(2, 8, 16), (8, 16, 32)])
    def test_timesteps_are_logit_normal_around_what_the_scheduler_shifts_a_video_by(self, loaded: Any, size: tuple[int, int, int]) -> None:
        """Quantiles of a normal at −1, 0 and 1 about μ, as the maker's trainer draws them: 1000·sigmoid(z + μ), by hand μ = ½ and 1.15."""
        found = loaded.process.timestep(torch.tensor([0.15865525, 0.5, 0.84134475]), size)
        mean = calculate_shift(prod(size))
        assert mean == pytest.approx({256: 0.5, 4096: 1.15}[prod(size)])
        assert torch.allclose(found, 1000 * torch.sigmoid(torch.tensor([-1.0, 0.0, 1.0]) + mean), atol=0.01)

    def test_models_that_it_cannot_hold_are_refused(self, folder: Path) -> None:
        pipeline = self.plain(folder)
        pipeline.vae.register_to_config(decoder_inject_noise=(True, False, False, False, False))
        with pytest.raises(ValueError, match="x decodes with noise that no seed holds; give a version"):
            Ltx(pipeline, "x")
        pipeline.transformer.register_to_config(patch_size=2)
        with pytest.raises(ValueError, match="x has patches of several latents, which is not supported"):
            Ltx(pipeline, "x")


def test_a_later_version_decodes_at_a_timestep_and_shifts_alike_at_every_size(tmp_path: Path) -> None:
    checks, folder = TestLtx(), save_ltx(tmp_path, dynamic=False, timestep_conditioning=True)
    loaded = load_backbone("ltx", str(folder))
    plain = checks.plain(folder)
    latents, video = (checks.made(plain, [1, 2], output_type=kind) for kind in ("latent", "np"))
    ours = loaded.decode(checks.unpacked(latents))
    assert torch.allclose((ours / 2 + 0.5).movedim(1, -1), torch.from_numpy(video), atol=1e-5)
    found = pixels(loaded.sample(PROMPTS, [1, 2], steps=3, guidance=3.0, size=checks.size))
    assert np.array_equal(found, checks.plain_pixels(plain, [1, 2]))
    assert float(loaded.process.timestep(torch.tensor([0.5]))) == 750
