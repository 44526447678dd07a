"""HunyuanVideo against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_checks import PROMPTS, normal, pixels
from tiny_video_pipelines import save_hunyuan_video
from torch import Tensor
from video_checks import FRAMES_PER_LATENT, VideoFamilyChecks

from diffalign.backbones import load_backbone
from diffalign.training.lora import Lora


class TestHunyuanVideo(VideoFamilyChecks):
    family, config = "hunyuan_video", "hunyuan_video_flow_dpo"
    refuses_negative = "guidance as conditioning, so nothing is subtracted; negative prompt 'a blue square' would do nothing"
    rate, step, rounding = 24.0, (FRAMES_PER_LATENT, 16, 16), 1  # what lies between two steps rounds to either

    @staticmethod
    def save(folder: Path) -> Path:
        return save_hunyuan_video(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, mask = pipeline.encode_prompt(prompts)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled, "prompt_mask": mask.float()}

    def test_latents_have_their_scale(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), 0.7 * posterior, atol=1e-5)

    def test_the_template_is_cut_off_and_what_stands_after_a_prompt_changes_nothing(self, loaded: Any) -> None:
        """Three words, the mark of the template's end and an end: the first of them follows the 95th token."""
        embeds, x, timestep = loaded.embed(PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 600.0])
        mask = embeds["prompt_mask"].bool()
        assert mask.shape == (2, 256) and mask.sum(1).tolist() == [5, 5] == [loaded.token_count(prompt) for prompt in PROMPTS]
        other = {**embeds, "prompt_embeds": torch.where(mask[..., None], embeds["prompt_embeds"], 7.0)}
        with torch.no_grad():
            assert torch.allclose(*(loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, other)), atol=1e-5)

    def test_training_tells_the_guidance_of_its_setting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """1 unless told, as the shared check has it; 6 where the setting says so, and then the pipeline's steps at 6 are ours."""
        loaded = load_backbone(self.family, str(folder), guidance=6.0)
        monkeypatch.setattr(type(self), "unguided", {"guidance_scale": 6.0})
        self.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
        arguments = (loaded.denoiser, normal(2, *self.latents), torch.tensor([300.0, 600.0]), loaded.embed(PROMPTS))
        with torch.no_grad():
            other = load_backbone(self.family, str(folder)).predict(*arguments)
            assert not torch.allclose(other, loaded.predict(*arguments), atol=1e-4)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        """Quantiles of a standard normal at −1, 0 and 1: σ' = sigmoid(z), σ = 7σ'/(1 + 6σ')."""
        found = loaded.process.timestep(torch.tensor([0.15865525, 0.5, 0.84134475]))
        assert torch.allclose(found, torch.tensor([720.292, 875.0, 950.070]), atol=0.01)

    def test_a_lora_adapts_the_text_s_side_too(self, folder: Path) -> None:
        names = {name.split(".lora_")[0] for name, _ in self.trained(folder, Lora(rank=2)).denoiser.named_parameters() if "lora_" in name}
        joint = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        assert {f"transformer_blocks.0.attn.{layer}" for layer in joint} <= names
        assert {f"single_transformer_blocks.0.attn.{layer}" for layer in joint[:3]} <= names


def test_without_guidance_as_conditioning_there_is_a_negative_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, folder = TestHunyuanVideo(), save_hunyuan_video(tmp_path, guidance_embeds=False)
    loaded = load_backbone("hunyuan_video", str(folder), guidance=6.0)
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    monkeypatch.undo()
    options: dict[str, Any] = {"steps": 3, "guidance": 3.0, "size": checks.size}
    found = pixels(loaded.sample(PROMPTS, [1, 2], **options, negative_prompt="blurry"))
    expected = checks.made(checks.plain(folder), [1, 2], true_cfg_scale=3.0, negative_prompt=["blurry"] * 2)
    assert np.abs(found - np.rint(expected * 255)).max() <= 1  # what lies between two steps rounds to either
    assert not np.array_equal(found, pixels(loaded.sample(PROMPTS, [1, 2], **{**options, "guidance": 1.0})))
