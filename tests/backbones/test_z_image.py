"""Z-Image against diffusers itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal
from tiny_pipelines import LANGUAGE_TOKENS, save_z_image
from torch import Tensor

from diffalign.backbones import load_backbone


class TestZImage(FamilyChecks):
    """The pipeline's own scale of guidance is one less than ours, and 0 where there is none."""

    family, config = "z_image", "z_image_flow_dpo"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": LANGUAGE_TOKENS}
    guidance: ClassVar[dict[str, Any]] = {"guidance_scale": 2.0}
    unguided: ClassVar[dict[str, Any]] = {"guidance_scale": 0.0}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_z_image(folder)

    def made(self, pipeline: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> Any:
        return super().made(pipeline, seeds, list(prompts), **options)  # the pipeline writes into the list that it is given

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        each, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False, max_sequence_length=LANGUAGE_TOKENS)
        text, mask = torch.zeros(len(each), LANGUAGE_TOKENS, each[0].shape[1]), torch.zeros(len(each), LANGUAGE_TOKENS)
        for row, own in enumerate(each):
            text[row, : len(own)], mask[row, : len(own)] = own, 1
        return {"prompt_embeds": text, "prompt_mask": mask}

    def test_latents_have_shift_and_scale(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), (posterior - 0.11) * 0.7, atol=1e-6)

    def test_prompts_of_unequal_length_do_not_mix(self, loaded: Any) -> None:
        prompts = ["a red circle", "a blue square left of a green star"]
        embeds, x, timestep = loaded.embed(prompts), normal(2, 4, 8, 12), torch.tensor([300.0, 600.0])
        assert embeds["prompt_mask"].sum(1).tolist() == [loaded.token_count(prompt) for prompt in prompts]
        with torch.no_grad():
            together = loaded.predict(loaded.denoiser, x, timestep, embeds)
            alone = [loaded.predict(loaded.denoiser, x[i : i + 1], timestep[i : i + 1], loaded.embed([prompts[i]])) for i in range(2)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        """By hand: the median is 1/2 and Φ(1) of them are below σ(1), before 3σ/(1 + 2σ)."""
        found = loaded.process.timestep(torch.tensor([0.5, 0.8413447])).tolist()
        assert found == pytest.approx([750, 1000 * 3 * 0.7310586 / (1 + 2 * 0.7310586)], abs=1e-3)

    def test_sampling_leaves_the_prompts_as_they_are(self, loaded: Any) -> None:
        prompts = list(PROMPTS)
        loaded.sample(prompts, [1, 2], steps=1, guidance=3.0, size=self.size)
        loaded.embed(prompts)
        assert prompts == PROMPTS


def test_a_family_that_diffusers_does_not_have_yet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "diffalign.backbones.z_image", raising=False)
    monkeypatch.delattr(diffusers, "ZImagePipeline")
    monkeypatch.delitem(diffusers._class_to_module, "ZImagePipeline")
    with pytest.raises(ValueError, match=r"backbone 'z_image': .*; the family is younger than what is installed: pip install -U diffusers"):
        load_backbone("z_image", "x")
