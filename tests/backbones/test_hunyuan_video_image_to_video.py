"""HunyuanVideo from a first frame against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditioned_checks import FirstFrameChecks, TogetherChecks
from family_checks import PROMPTS, normal, pixels
from tiny_video_pipelines import save_hunyuan_video
from torch import Tensor
from video_checks import FRAMES_PER_LATENT, VideoFamilyChecks

from diffalign.backbones import load_backbone
from diffalign.backbones.hunyuan_video_image_to_video import HunyuanVideoImageToVideo


class TestHunyuanVideoImageToVideo(FirstFrameChecks, TogetherChecks, VideoFamilyChecks):
    family, config = "hunyuan_video_image_to_video", "hunyuan_video_image_to_video_flow_dpo"
    refuses_negative = "guidance as conditioning, so nothing is subtracted; negative prompt 'a blue square' would do nothing"
    shift = 7.0
    rate, step, rounding = 24.0, (FRAMES_PER_LATENT, 16, 16), 1  # what lies between two steps rounds to either

    @staticmethod
    def save(folder: Path) -> Path:
        return save_hunyuan_video(folder, image_condition="token_replace")

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 3, 4, 8) of what the scheduler is given, which is without the first place in time."""
        return torch.cat([torch.zeros_like(latents[:, :, :1]), latents], 2)

    def given_out(self, pipeline: Any, latents: Tensor) -> Tensor:
        return latents

    @classmethod
    def embeds_of(cls, pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """As the pipeline's call asks for them, a prompt at a time."""
        given = zip(prompts, cls.images(prompts), strict=True)
        read = [pipeline.encode_prompt(image, prompt, image_embed_interleave=4) for prompt, image in given]
        embeds, pooled, mask = (torch.cat(each) for each in zip(*read, strict=True))
        return {"prompt_embeds": embeds, "pooled_embeds": pooled, "prompt_mask": mask.float()}

    def test_the_template_is_cut_off_and_what_stands_after_a_prompt_changes_nothing(self, loaded: Any) -> None:
        """A fourth of 576 tokens of the picture; then three words, two new lines and an end, for which 252 places are left."""
        embeds, x, timestep = self.embedded(loaded, PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 600.0])
        mask = embeds["prompt_mask"].bool()
        assert mask.shape == (2, 144 + 252) and mask.sum(1).tolist() == [144 + 5] * 2 and loaded.token_count(PROMPTS[0]) == 5
        other = {**embeds, "prompt_embeds": torch.where(mask[..., None], embeds["prompt_embeds"], 7.0)}
        with torch.no_grad():
            assert torch.allclose(*(loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, other)), atol=1e-5)

    def test_the_first_frame_is_scaled_as_latents_are(self, loaded: Any) -> None:
        given = self.conditions(PROMPTS)
        media = torch.stack([torch.from_numpy(each.tensor(self.size[1:], None)) for each in given])[:, :, None]
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        found = self.of_conditions(loaded, given, PROMPTS)["condition_latents"]
        assert found.shape == (2, 4, 1, 4, 8) and torch.allclose(found, 0.7 * posterior, atol=1e-5)
        longer = loaded.embed_condition(given, (17, *self.size[1:]), PROMPTS)
        assert torch.equal(longer["condition_latents"], found)

    def test_training_tells_the_guidance_of_its_setting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """1 unless told, as the shared check has it; 6 where the setting says so, and then the pipeline's steps at 6 are ours."""
        loaded = load_backbone(self.family, str(folder), guidance=6.0)
        monkeypatch.setattr(type(self), "unguided", {"guidance_scale": 6.0})
        self.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        """Quantiles of a standard normal at −1, 0 and 1: σ' = sigmoid(z), σ = 7σ'/(1 + 6σ')."""
        found = loaded.process.timestep(torch.tensor([0.15865525, 0.5, 0.84134475]))
        assert torch.allclose(found, torch.tensor([720.292, 875.0, 950.070]), atol=0.01)

    def test_a_first_frame_is_always_given_and_in_its_place(self, loaded: Any, folder: Path) -> None:
        assert not loaded.drops_condition
        with pytest.raises(ValueError, match=r"always has its first frame .*; give a condition for each prompt"):
            loaded.embed_condition([None], self.size, ["p"])
        pipeline = self.plain(folder)
        pipeline.transformer.register_to_config(image_condition_type="latent_concat")
        with pytest.raises(ValueError, match="x has image_condition_type 'latent_concat'; this family has 'token_replace'"):
            HunyuanVideoImageToVideo(pipeline, "x")


def test_without_guidance_as_conditioning_there_is_a_negative_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, folder = TestHunyuanVideoImageToVideo(), save_hunyuan_video(tmp_path, guidance_embeds=False, image_condition="token_replace")
    loaded = load_backbone(checks.family, str(folder))
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    monkeypatch.undo()
    options: dict[str, Any] = {"steps": 3, "size": checks.size, "negative_prompt": "blurry", **checks.given(PROMPTS)}
    found = pixels(loaded.sample(PROMPTS, [1, 2], guidance=3.0, **options))
    expected = checks.made(checks.plain(folder), [1, 2], true_cfg_scale=3.0, negative_prompt=["blurry"] * 2)
    assert np.abs(found - np.rint(expected * 255)).max() <= 1  # what lies between two steps rounds to either
    assert not np.array_equal(found, pixels(loaded.sample(PROMPTS, [1, 2], guidance=1.0, **options)))
