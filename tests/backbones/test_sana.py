"""Sana against diffusers itself."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import SanaPipeline
from family_checks import PROMPTS, FamilyChecks, normal
from tiny_pipelines import LANGUAGE_TOKENS, save_sana
from torch import Tensor

from diffalign.backbones import load_backbone

INSTRUCTION = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class TestSana(FamilyChecks):
    family, config = "sana", "sana_flow_dpo"
    size, latents = (32, 64), (4, 16, 32)  # the pipeline takes multiples of 32 pixels
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": LANGUAGE_TOKENS, "use_resolution_binning": False, "clean_caption": False}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_sana(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=LANGUAGE_TOKENS, complex_human_instruction=INSTRUCTION
        )
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    @staticmethod
    def reconstructed(vae: Any, media: Tensor) -> Tensor:
        return vae.decode(vae.encode(media).latent).sample

    def test_latents_are_scaled_and_have_no_posterior(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            assert torch.allclose(loaded.encode(media, seeds=[1, 2]), loaded.pipeline.vae.encode(media).latent * 0.41, atol=1e-6)

    def test_the_empty_prompt_has_no_instruction_before_it(self, loaded: Any, folder: Path) -> None:
        """As the pipeline's guidance encodes it."""
        _, _, negative, mask = self.plain(folder).encode_prompt(
            PROMPTS[:1], True, max_sequence_length=LANGUAGE_TOKENS, complex_human_instruction=INSTRUCTION
        )
        found = loaded.embed([PROMPTS[0], ""])
        assert torch.allclose(found["prompt_embeds"][1:], negative, atol=1e-6) and torch.equal(found["prompt_mask"][1:], mask)
        assert torch.allclose(found["prompt_embeds"][:1], loaded.embed(PROMPTS[:1])["prompt_embeds"], atol=1e-6)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        found = loaded.process.timestep(torch.tensor([0.15865525, 0.5, 0.84134475]))
        assert torch.allclose(found, torch.tensor([524.633, 750.0, 890.768]), atol=0.01)


def test_a_flow_with_another_kind_of_scheduler_keeps_it(tmp_path: Path) -> None:
    """Sana's is a DPM-Solver whose config has a noise schedule's keys too."""
    loaded = load_backbone("sana", str(save_sana(tmp_path, shift=2.0)))
    assert loaded.process.timestep(torch.tensor([0.5])).tolist() == pytest.approx([2000 / 3])
    with pytest.raises(ValueError, match=r"scheduler 'ddim' .*has its own DPMSolverMultistepScheduler; leave it out"):
        loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=(32, 32), scheduler="ddim")


def test_a_model_with_guidance_as_conditioning_is_refused(tmp_path: Path) -> None:
    from diffalign.backbones.sana import Sana

    pipeline = TestSana().plain(save_sana(tmp_path))
    pipeline.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ValueError, match=r"x has its guidance as conditioning \(Sana-Sprint\)"):
        Sana(pipeline, "x")
