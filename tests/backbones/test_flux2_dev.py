"""FLUX.2 [dev] against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal
from test_flux2 import MEAN, STD, squares
from tiny_pipelines import MISTRAL_TOKENS, save_flux2_dev
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.backbones.flux2_dev import Flux2Dev


class TestFlux2Dev(FamilyChecks):
    family, config = "flux2_dev", "flux2_dev_flow_dpo"
    refuses_negative = "guidance as conditioning, so nothing is subtracted; negative prompt 'a blue square' would do nothing"
    latents = (16, 4, 6)
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": MISTRAL_TOKENS}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_flux2_dev(folder)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        return latents.transpose(1, 2).reshape(-1, 16, 4, 6)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": pipeline.encode_prompt(prompts, max_sequence_length=MISTRAL_TOKENS)[0]}

    def test_latents_are_squares_centred_by_channel(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), (squares(posterior) - MEAN) / STD, atol=1e-5)

    def test_tokens_are_counted_with_the_system_s_message(self, loaded: Any) -> None:
        """Each message has an `a` behind it, and a mark stands at the end of all: of three words and those three tokens the rest is its."""
        words = loaded.pipeline.system_message.replace(".", " . ").replace(",", " , ").split()
        assert loaded.token_count("a red circle") == len(words) + 3 + 3

    def test_training_tells_the_guidance_of_its_setting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """1 unless told, as the shared check has it; 4 where the setting says so, and then the pipeline's steps at 4 are ours."""
        loaded = load_backbone("flux2_dev", str(folder), guidance=4.0)
        monkeypatch.setattr(type(self), "unguided", {"guidance_scale": 4.0})
        self.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
        arguments = (loaded.denoiser, normal(2, *self.latents), torch.tensor([300.0, 600.0]), loaded.embed(PROMPTS))
        with torch.no_grad():
            other = load_backbone("flux2_dev", str(folder)).predict(*arguments)
            assert not torch.allclose(other, loaded.predict(*arguments), atol=1e-4)

    def test_timesteps_are_uniform(self, loaded: Any) -> None:
        assert loaded.process.timestep(torch.tensor([0.25, 0.9])).tolist() == pytest.approx([250, 900])

    def test_a_model_that_is_told_no_guidance_is_refused(self, folder: Path) -> None:
        pipeline = self.plain(folder)
        pipeline.transformer.register_to_config(guidance_embeds=False)
        with pytest.raises(ValueError, match="x has no guidance as conditioning; choose backbone flux2, or give FLUX"):
            Flux2Dev(pipeline, "x")
