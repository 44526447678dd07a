"""Qwen-Image against diffusers itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from family_checks import FamilyChecks, normal
from run_checks import PLAIN
from safetensors.torch import load_file
from tiny_pipelines import LANGUAGE_TOKENS, save_qwen_image
from torch import Tensor

from diffalign.backbones.patches import packed, unpacked
from diffalign.backbones.qwen_image import QwenImage


class TestQwenImage(FamilyChecks):
    family, config = "qwen_image", "qwen_image_flow_dpo"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": LANGUAGE_TOKENS}
    guidance: ClassVar[dict[str, Any]] = {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]}
    unguided: ClassVar[dict[str, Any]] = {"true_cfg_scale": 1.0, "negative_prompt": None}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_qwen_image(folder)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 8, 12) of tokens (N, 24, 16), each a channel's 2×2 square, channel by channel."""
        return latents.view(-1, 4, 6, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 8, 12)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """Zeros up to the limit: prompts of a set have one length."""
        embeds, mask = pipeline.encode_prompt(prompts, max_sequence_length=LANGUAGE_TOKENS)
        mask = torch.ones(embeds.shape[:2]) if mask is None else mask
        text, own = torch.zeros(len(prompts), LANGUAGE_TOKENS, embeds.shape[2]), torch.zeros(len(prompts), LANGUAGE_TOKENS)
        text[:, : embeds.shape[1]], own[:, : embeds.shape[1]] = embeds, mask
        return {"prompt_embeds": text, "prompt_mask": own}

    @staticmethod
    def reconstructed(vae: Any, media: Tensor) -> Tensor:
        return vae.decode(vae.encode(media.unsqueeze(2)).latent_dist.mean).sample[:, :, 0]

    def test_latents_are_centred_by_channel(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media.unsqueeze(2)).latent_dist.mean[:, :, 0]
        mean, std = torch.tensor([0.1, -0.2, 0.3, 0.4]).view(1, 4, 1, 1), torch.tensor([0.5, 2.0, 1.5, 0.8]).view(1, 4, 1, 1)
        assert torch.allclose(loaded.encode(media, seeds=None), (posterior - mean) / std, atol=1e-5)

    def test_prompts_of_unequal_length_do_not_mix(self, loaded: Any) -> None:
        """A long one beside a short one, and each alone, whose text is cut at its own end."""
        prompts = ["a red circle", "a blue square left of a green star"]
        embeds, x, timestep = loaded.embed(prompts), normal(2, 4, 8, 12), torch.tensor([300.0, 600.0])
        assert len(set(embeds["prompt_mask"].sum(1).tolist())) == 2
        with torch.no_grad():
            together = loaded.predict(loaded.denoiser, x, timestep, embeds)
            alone = [loaded.predict(loaded.denoiser, x[i : i + 1], timestep[i : i + 1], loaded.embed([prompts[i]])) for i in range(2)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)

    def test_timesteps_are_logit_normal(self, loaded: Any) -> None:
        """By hand: the median is 1/2, and Φ(1) of them are below σ(1)."""
        assert loaded.process.timestep(torch.tensor([0.5, 0.8413447])).tolist() == pytest.approx([500, 731.0586], abs=1e-3)

    @pytest.mark.integration
    def test_a_mask_of_positions_is_learned_from_the_features_of_tokens(self, folder: Path, tmp_path: Path) -> None:
        mask = ("train.objective={name: sparsepo, beta: 500, l1: 0.01}", "train.mask.kind=learned", "evaluate=null", "gallery=null")
        made = self.trained_by_config(folder, tmp_path, *PLAIN, "train.steps=3", *mask)
        assert made[0]["loss"] == pytest.approx(math.log(2) + 0.01, abs=1e-6)  # all ones at the start
        kept = load_file(tmp_path / "run/train/checkpoints/step_000003/resume/parameters.safetensors")
        assert kept["mask.weight"].shape == (32,) and kept["mask.weight"].abs().min() > 0

    def test_guidance_as_conditioning_is_refused(self, folder: Path) -> None:
        pipeline = self.plain(folder)
        pipeline.transformer.register_to_config(guidance_embeds=True)
        with pytest.raises(ValueError, match="x has its guidance as conditioning, which is not supported"):
            QwenImage(pipeline, "x")


def test_packing_is_of_squares_and_undone() -> None:
    latents = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    tokens = packed(latents)
    assert tokens.shape == (2, 6, 12)
    assert tokens[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31, 48, 49, 54, 55]  # the corner of each channel
    assert tokens[0, 1, :4].tolist() == [2, 3, 8, 9] and tokens[0, 3, :4].tolist() == [12, 13, 18, 19]  # to the right, then below
    assert torch.equal(unpacked(tokens, latents), latents)
