"""FLUX.1 against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal, pixels
from tiny_pipelines import T5_TOKENS, save_flux
from torch import Tensor
from transformers import AutoTokenizer

from diffalign.backbones import load_backbone
from diffalign.backbones.flux import places
from pipelines.config import load_config
from pipelines.model import load_model


def unpacked(latents: Tensor) -> Tensor:
    """(N, 4, 8, 12) of tokens (N, 24, 16): each is a channel's 2×2 square, channel by channel; tokens go row by row."""
    return latents.view(-1, 4, 6, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 8, 12)


class TestFlux(FamilyChecks):
    family, config = "flux", "flux_flow_dpo"
    refuses_negative = "guidance as conditioning, so nothing is subtracted; negative prompt 'a blue square' would do nothing"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS}
    unpacked = staticmethod(unpacked)

    @staticmethod
    def save(folder: Path) -> Path:
        return save_flux(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = pipeline.encode_prompt(prompts, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def test_latents_have_shift_and_scale(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), (posterior - 0.11) * 0.7, atol=1e-6)

    def test_training_tells_the_guidance_of_its_setting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """1 unless told, as the shared check has it; 3.5 where the setting says so, and then the pipeline's steps at 3.5 are ours."""
        loaded = load_backbone("flux", str(folder), guidance=3.5)
        monkeypatch.setattr(type(self), "unguided", {"guidance_scale": 3.5})
        self.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
        with torch.no_grad():
            other = load_backbone("flux", str(folder)).predict(
                loaded.denoiser, *(arguments := (normal(2, 4, 8, 12), torch.tensor([5.0, 6.0]), loaded.embed(PROMPTS)))
            )
            assert not torch.allclose(other, loaded.predict(loaded.denoiser, *arguments), atol=1e-4)

    def test_a_config_s_settings_reach_the_backbone_and_tell_runs_apart(self, folder: Path) -> None:
        """In the fingerprint, so that nothing made under another setting is mixed in; a setting of another family is refused."""
        source = f"model.source={folder}"
        one, other = (load_config("flux_flow_dpo", [source, f"model.settings.guidance={value}"]).model for value in ("1.0", "3.5"))
        assert one.fingerprint() != other.fingerprint()
        tiny = {"dtype": "float32", "device": "cpu"}
        backbone: Any = load_model(other.model_copy(update=tiny))
        assert backbone.guidance == 3.5 and backbone.size == (256, 256)
        with pytest.raises(ValueError, match="backbone 'flux' has no setting 't5'; it takes: guidance"):
            load_model(one.model_copy(update={**tiny, "settings": {"t5": False}}))
        with pytest.raises(ValueError, match=r"backbone 'flux': guidance is True; give a number \(default: 1\.0\)"):
            load_model(one.model_copy(update={**tiny, "settings": {"guidance": True}}))

    def test_timesteps_are_uniform_where_the_shift_is_of_the_size(self, loaded: Any) -> None:
        assert loaded.process.timestep(torch.tensor([0.25, 0.5, 0.9])).tolist() == pytest.approx([250, 500, 900])

    def test_a_step_of_the_scheduler_shifts_by_the_size(self, loaded: Any) -> None:
        """More tokens, more noise at the second of three steps."""
        seen: list[float] = []
        loaded.denoiser.register_forward_pre_hook(lambda module, inputs, named: seen.append(float(named["timestep"][0])), with_kwargs=True)
        for size in ((16, 24), (128, 128)):
            loaded.sample(PROMPTS[:1], [1], steps=3, guidance=3.0, size=size)
        assert seen[0] == seen[3] == 1 and seen[1] < seen[4]


def test_without_guidance_as_conditioning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FLUX.1 [schnell]: the scheduler shifts alike at every size, in training too."""
    checks, folder = TestFlux(), save_flux(tmp_path, guidance_embeds=False)
    loaded = load_backbone("flux", str(folder))
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    assert loaded.process.timestep(torch.tensor([0.5])).tolist() == pytest.approx([750])
    monkeypatch.undo()
    assert np.array_equal(
        pixels(loaded.sample(PROMPTS, [1, 2], steps=3, guidance=3.0, size=(16, 24))), checks.plain_pixels(checks.plain(folder), [1, 2])
    )


@pytest.mark.parametrize(("guidance_embeds", "released"), [(True, 512), (False, 256)], ids=["dev", "schnell"])
def test_a_prompt_has_the_places_that_it_has_in_the_release(guidance_embeds: bool, released: int, tmp_path: Path) -> None:
    """github.com/black-forest-labs/flux, cli.py: max_length=256 if name == "flux-schnell" else 512."""
    save_flux(tmp_path, guidance_embeds=guidance_embeds)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer_2", model_max_length=512)
    tokenizer.save_pretrained(tmp_path / "tokenizer_2")
    loaded, fewer = (load_backbone("flux", str(tmp_path), **settings) for settings in ({}, {"tokens": 300}))
    assert (loaded.token_limit, fewer.token_limit) == (released, 300)
    for each, count in ((loaded, released), (fewer, 300)):
        assert each.embed(PROMPTS[:1])["prompt_embeds"].shape[1] == count
        assert each.guided(1.0, [""])["max_sequence_length"] == count  # type: ignore[attr-defined]  # so samples have them too
    for tokens in (513, -1, 256.5):
        with pytest.raises(ValueError, match=rf"tokens is {tokens}; .* reads 1 to 512 of a prompt: set model\.settings\.tokens"):
            load_backbone("flux", str(tmp_path), tokens=tokens)


def test_places_are_rows_and_columns() -> None:
    assert places(2, 3).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
