"""Stable Diffusion 3 and 3.5 against diffusers itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal
from safetensors.torch import load_file, save_file
from tiny_original_sd3 import save_original_sd3
from tiny_pipelines import T5_TOKENS, save_sd3
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.training.lora import Lora, add_lora


class TestSd3(FamilyChecks):
    family, config = "sd3", "sd3_flow_dpo"
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_sd3(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def test_latents_have_shift_and_scale(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), (posterior - 0.06) * 0.7, atol=1e-6)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        """Quantiles of a standard normal at −1, 0 and 1: σ' = sigmoid(z), σ = 3σ'/(1 + 2σ')."""
        found = loaded.process.timestep(torch.tensor([0.15865525, 0.5, 0.84134475]))
        assert torch.allclose(found, torch.tensor([524.633, 750.0, 890.768]), atol=0.01)
        assert 0 < float(loaded.process.timestep(torch.zeros(1))) < 5 and float(loaded.process.timestep(torch.ones(1))) == 1000

    def test_a_lora_adapts_the_text_s_side_too(self, folder: Path) -> None:
        backbone = self.trained(folder, Lora(rank=2))
        adapted = {
            name.split(".lora_")[0].removeprefix("transformer_blocks.")
            for name, _ in backbone.denoiser.named_parameters()
            if "lora_" in name
        }
        layers = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        last = {f"1.attn.{layer}" for layer in layers if layer not in ("add_q_proj", "to_add_out")}  # whose text goes nowhere
        assert adapted == {f"0.attn.{layer}" for layer in layers} | last


def test_version_3_5_has_two_attentions_and_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, folder = TestSd3(), save_sd3(tmp_path, is_35=True)
    checks.test_predict_is_what_the_pipeline_s_steps_take(load_backbone("sd3", str(folder)), folder, monkeypatch)
    backbone = load_backbone("sd3", str(folder))
    add_lora(backbone.denoiser, Lora(rank=2), 0)
    assert any("attn2.to_q.lora_A" in name for name, _ in backbone.denoiser.named_parameters())


@pytest.mark.parametrize("is_35", [False, True])
@pytest.mark.parametrize("t5", [True, False])
def test_one_file_of_weights_is_its_folder(t5: bool, is_35: bool, tmp_path: Path) -> None:
    """As they are released, with all text encoders or without T5; beside it the configs alone, so nothing else can be read."""
    folder = save_sd3(tmp_path / "whole", is_35=is_35)
    first = load_file(folder / "text_encoder/model.safetensors")  # whose projection diffusers takes for the identity in such a file
    save_file(first | {"text_projection.weight": torch.eye(32)}, folder / "text_encoder/model.safetensors", metadata={"format": "pt"})
    shutil.copytree(folder, tmp_path / "single", ignore=shutil.ignore_patterns("*.safetensors"))
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")[: 3 if t5 else 2]
    file = save_original_sd3(folder, tmp_path / "single/model.safetensors", encoders=encoders)
    whole, single = (load_backbone("sd3", str(source), t5=t5) for source in (folder, file))
    assert single.identity() == whole.identity() and single.encoder_identity() == whole.encoder_identity()
    ours, theirs = (TestSd3().our_pixels(backbone, [1, 2]) for backbone in (single, whole))
    assert (ours == theirs).all()
    if not t5:
        with pytest.raises(ValueError, match=r"is a file without the weights of a T5EncoderModel"):
            load_backbone("sd3", str(file))


def test_t5_may_be_left_out(tmp_path: Path) -> None:
    """The other encoders' places stay as they are, T5's are zeros; prompts are as long as CLIP reads."""
    whole = load_backbone("sd3", str(save_sd3(tmp_path)))
    without = load_backbone("sd3", str(tmp_path), t5=False)
    assert without.token_limit == 12 and without.token_count("a red circle") == 5  # CLIP has a begin too
    ours, full = without.embed(PROMPTS)["prompt_embeds"], whole.embed(PROMPTS)["prompt_embeds"]
    assert torch.equal(ours[:, :12], full[:, :12]) and float(ours[:, 12:].abs().max()) == 0 and full[:, 12:].std() > 0
    assert without.encoder_identity() != whole.encoder_identity()
    assert len(without.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=(16, 16))) == 2
    with pytest.raises(ValueError, match=r"backbone 'sd3' has no setting 't5s' \(did you mean 't5'\?\); it takes: t5"):
        load_backbone("sd3", str(tmp_path), t5s=False)
    with pytest.raises(ValueError, match=r"backbone 'sd3': t5 is 1; give true or false \(default: True\)"):
        load_backbone("sd3", str(tmp_path), t5=1)


def test_a_flow_samples_with_its_own_scheduler(tmp_path: Path) -> None:
    loaded = load_backbone("sd3", str(save_sd3(tmp_path)))
    with pytest.raises(ValueError, match=r"scheduler 'ddim' does not know the noise levels of .*, which has its own FlowMatchEuler"):
        loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=(16, 16), scheduler="ddim")
