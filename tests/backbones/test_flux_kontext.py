"""FLUX.1 Kontext against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conditioned_checks import ConditionedChecks
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from family_checks import PROMPTS, normal
from tiny_pipelines import T5_TOKENS, save_flux
from torch import Tensor


class TestFluxKontext(ConditionedChecks):
    family, config = "flux_kontext", "flux_kontext_flow_dpo"
    refuses_negative = "guidance as conditioning, so nothing is subtracted; negative prompt 'a blue square' would do nothing"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS, "max_area": 16 * 24, "_auto_resize": False}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_flux(folder, kind=FluxKontextPipeline)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 8, 12) of tokens (N, 24, 16)."""
        return latents.view(-1, 4, 6, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 8, 12)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = pipeline.encode_prompt(prompts, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def test_what_is_edited_is_scaled_as_latents_are_and_keeps_its_size(self, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 24 tokens of the result and 24 of the condition the denoiser sees 48, at any size that is asked for."""
        given = self.conditions(PROMPTS)
        media = torch.stack([torch.from_numpy(each.tensor(self.size, None)) for each in given])
        assert torch.allclose(loaded.embed_condition(given, self.size)["condition_latents"], loaded.encode(media, seeds=None), atol=1e-5)
        seen: list[tuple[int, ...]] = []
        loaded.denoiser.register_forward_pre_hook(
            lambda module, inputs, named: seen.append(tuple(named["hidden_states"].shape)), with_kwargs=True
        )
        options: dict[str, Any] = {"steps": 1, "guidance": 2.5, "conditions": given}
        for size in ((16, 24), (32, 20)):
            assert loaded.sample(PROMPTS, [1, 2], size=size, **options)[0].size == size[::-1]
        assert seen == [(2, 48, 16), (2, 80, 16)]

    def test_its_own_scheduler_alone_samples_and_a_picture_is_always_given(self, loaded: Any) -> None:
        options: dict[str, Any] = {"steps": 1, "guidance": 2.5, "size": self.size, **self.given(PROMPTS)}
        with pytest.raises(ValueError, match=r"scheduler 'ddim' does not know the noise levels of .*, which has its own"):
            loaded.sample(PROMPTS, [1, 2], scheduler="ddim", **options)
        with pytest.raises(ValueError, match=r"always has what it edits \(backbone flux has none\); give a condition for each prompt"):
            loaded.embed_condition([None], self.size)

    @pytest.mark.parametrize("size", [(8, 12), (64, 64), (128, 128)])
    def test_timesteps_are_logit_normal_around_what_the_scheduler_shifts_a_picture_by(self, loaded: Any, size: tuple[int, int]) -> None:
        """Quantiles of the standard logit-normal, as diffusers' scheduler shifts them; by hand, the median at 1024² is 1/(1 + e^−1.15)."""
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(loaded.pipeline.scheduler.config)
        before = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
        scheduler.set_timesteps(sigmas=before.tolist(), mu=calculate_shift(size[0] * size[1] // 4))
        assert torch.allclose(loaded.process.timestep(torch.special.ndtr(before.logit()), size), scheduler.timesteps, rtol=1e-5)
        if size == (128, 128):
            assert float(loaded.process.timestep(torch.tensor([0.5]), size)) == pytest.approx(1000 / (1 + 2.718281828**-1.15), abs=1e-2)

    def test_a_condition_of_another_place_is_another_prediction(self, loaded: Any) -> None:
        """Its patches have places: turned round, they say something else."""
        embeds, x, timestep = self.embedded(loaded, PROMPTS), normal(2, *self.latents), torch.tensor([300.0, 700.0])
        turned = embeds | {"condition_latents": embeds["condition_latents"].flip(-1)}
        with torch.no_grad():
            one, other = (loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, turned))
        assert not torch.allclose(one, other, atol=1e-4)
