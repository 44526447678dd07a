"""Qwen-Image-Edit, the first and those after it, against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conditioned_checks import TogetherChecks
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from family_checks import PROMPTS, normal
from tiny_pipelines import LANGUAGE_TOKENS, save_qwen_image
from torch import Tensor
from torch.nn.functional import pad

from diffalign.backbones.qwen_image_edit import AREA
from diffalign.backbones.qwen_image_edit_plus import AREA_READ

CALCULATE = (pipeline_qwenimage_edit.calculate_dimensions, pipeline_qwenimage_edit_plus.calculate_dimensions)


def small_dimensions(area: int, ratio: float) -> tuple[int, int]:
    """Half as much again as 16×24, and of other sides, where the pipeline would have a million pixels; less for what is only read."""
    longer, shorter = (36, 24) if area == AREA else (24, 16)
    return (longer, shorter) if ratio > 1 else (shorter, longer)


class EditChecks(TogetherChecks):
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": LANGUAGE_TOKENS}
    guidance: ClassVar[dict[str, Any]] = {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]}
    unguided: ClassVar[dict[str, Any]] = {"true_cfg_scale": 1.0, "negative_prompt": None}

    @pytest.fixture(autouse=True)
    def at_a_small_area(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda *given: (*small_dimensions(*given), None))
        monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", small_dimensions)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 8, 12) of tokens (N, 24, 16), each a channel's 2×2 square, channel by channel."""
        return latents.view(-1, 4, 6, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 8, 12)

    @staticmethod
    def reconstructed(vae: Any, media: Tensor) -> Tensor:
        return vae.decode(vae.encode(media.unsqueeze(2)).latent_dist.mean).sample[:, :, 0]

    def test_what_is_edited_is_scaled_as_latents_are_at_the_pipeline_s_area(self, loaded: Any) -> None:
        """Of 24 tokens of the result and 54 of the condition the denoiser sees 78, at any size that is asked for."""
        given = self.conditions(PROMPTS)
        brought = [loaded.pipeline.image_processor.resize(each, 24, 36) for each in self.images(PROMPTS)]
        media = loaded.pipeline.image_processor.preprocess(brought, 24, 36)
        found = self.of_conditions(loaded, given, PROMPTS)["condition_latents"]
        assert found.shape == (2, 4, 12, 18) and torch.allclose(found, loaded.encode(media, seeds=None), atol=1e-5)
        seen: list[tuple[int, ...]] = []
        loaded.denoiser.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(tuple(named["hidden_states"].shape)), with_kwargs=True
        )
        for size in ((16, 24), (32, 20)):
            assert loaded.sample(PROMPTS[:1], [1], steps=2, guidance=1.0, size=size, conditions=given[:1])[0].size == size[::-1]
        assert seen == [(1, 78, 16)] * 2 + [(1, 94, 16)] * 2

    def test_the_areas_are_the_pipelines(self) -> None:
        """A million pixels, in sides that are multiples of 32; both pipelines count them alike."""
        for calculate in CALCULATE:
            assert calculate(AREA, 24 / 16)[:2] == (1248, 832) and calculate(AREA, 1)[:2] == (1024, 1024)
            assert calculate(AREA_READ, 24 / 16)[:2] == (480, 320)
        assert (AREA, AREA_READ) == (pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE, pipeline_qwenimage_edit_plus.CONDITION_IMAGE_SIZE)

    def test_its_own_scheduler_alone_samples_and_a_picture_is_always_given(self, loaded: Any) -> None:
        options: dict[str, Any] = {"steps": 1, "guidance": 2.5, "size": self.size, **self.given(PROMPTS)}
        with pytest.raises(ValueError, match=r"scheduler 'ddim' does not know the noise levels of .*, which has its own"):
            loaded.sample(PROMPTS, [1, 2], scheduler="ddim", **options)
        with pytest.raises(ValueError, match=r"always has what it edits \(backbone qwen_image has none\); give a condition for each"):
            loaded.embed_condition([None], self.size, ["p"])

    def test_timesteps_are_logit_normal(self, loaded: Any) -> None:
        """By hand: the median is 1/2, and Φ(1) of them are below σ(1)."""
        assert loaded.process.timestep(torch.tensor([0.5, 0.8413447])).tolist() == pytest.approx([500, 731.0586], abs=1e-3)

    def test_a_condition_of_another_place_is_another_prediction(self, loaded: Any) -> None:
        """Its patches have places: turned round, they say something else."""
        embeds, x, timestep = self.embedded(loaded, PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 700.0])
        turned = embeds | {"condition_latents": embeds["condition_latents"].flip(-1)}
        with torch.no_grad():
            one, other = (loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, turned))
        assert not torch.allclose(one, other, atol=1e-4)


class TestQwenImageEdit(EditChecks):
    family, config = "qwen_image_edit", "qwen_image_edit_flow_dpo"

    @staticmethod
    def save(folder: Path) -> Path:
        return save_qwen_image(folder, kind=QwenImageEditPipeline)

    @classmethod
    def embeds_of(cls, pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """Zeros after a prompt's last token; of 36×24 pixels six squares of the picture's are tokens."""
        images = [pipeline.image_processor.resize(each, 24, 36) for each in cls.images(prompts)]
        embeds, mask = pipeline.encode_prompt(prompts, images)
        mask = torch.ones(embeds.shape[:2]) if mask is None else mask
        missing = 6 + LANGUAGE_TOKENS - embeds.shape[1]
        return {"prompt_embeds": pad(embeds, (0, 0, 0, missing)), "prompt_mask": pad(mask, (0, missing))}


class TestQwenImageEditPlus(EditChecks):
    family, config = "qwen_image_edit_plus", "qwen_image_edit_plus_flow_dpo"

    @staticmethod
    def save(folder: Path) -> Path:
        """As -2511: the denoiser modulates the condition's tokens as at timestep 0."""
        return save_qwen_image(folder, kind=QwenImageEditPlusPipeline, zero_cond_t=True)

    @classmethod
    def embeds_of(cls, pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """Each prompt's alone; of 24×16 pixels six squares are tokens too, for fewer the processor has none."""
        found = []
        for prompt, image in zip(prompts, cls.images(prompts), strict=True):
            embeds, _ = pipeline.encode_prompt([prompt], [pipeline.image_processor.resize(image, 16, 24)])
            missing = 6 + LANGUAGE_TOKENS - embeds.shape[1]
            found.append((pad(embeds, (0, 0, 0, missing)), pad(torch.ones(embeds.shape[:2]), (0, missing))))
        embeds, mask = (torch.cat(each) for each in zip(*found, strict=True))
        return {"prompt_embeds": embeds, "prompt_mask": mask}
