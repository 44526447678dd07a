"""FLUX.2 [klein] against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal, pixels
from tiny_pipelines import LANGUAGE_TOKENS, save_flux2
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.backbones.flux2 import Flux2, places
from diffalign.training.lora import Lora

MEAN, STD = torch.linspace(-0.4, 0.5, 16).view(1, 16, 1, 1), (torch.linspace(0.5, 2.0, 16) + 1e-4).sqrt().view(1, 16, 1, 1)


def squares(latents: Tensor) -> Tensor:
    """(N, 16, H/2, W/2) of the autoencoder's (N, 4, H, W), channel by channel."""
    count, _, height, width = latents.shape
    return latents.view(count, 4, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(count, 16, height // 2, width // 2)


class TestFlux2(FamilyChecks):
    family, config = "flux2", "flux2_flow_dpo"
    refuses_negative = "takes no negative prompt, and got 'a blue square'; leave it empty"
    latents = (16, 4, 6)
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": LANGUAGE_TOKENS}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_flux2(folder)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        return latents.transpose(1, 2).reshape(-1, 16, 4, 6)

    def given_out(self, pipeline: Any, latents: Tensor) -> Tensor:
        """The pipeline returns what its autoencoder decodes."""
        return (squares(latents) - MEAN) / STD

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": pipeline.encode_prompt(prompts, max_sequence_length=LANGUAGE_TOKENS)[0]}

    def test_latents_are_squares_centred_by_channel(self, loaded: Any) -> None:
        media = normal(2, 3, *self.size).clamp(-1, 1)
        with torch.no_grad():
            posterior = loaded.pipeline.vae.encode(media).latent_dist.mean
        assert torch.allclose(loaded.encode(media, seeds=None), (squares(posterior) - MEAN) / STD, atol=1e-5)

    def test_timesteps_are_uniform(self, loaded: Any) -> None:
        assert loaded.process.timestep(torch.tensor([0.25, 0.9])).tolist() == pytest.approx([250, 900])

    def test_a_lora_adapts_the_single_blocks_whole_attention(self, folder: Path) -> None:
        """Of a double block the output is the first of a list, which is no layer itself."""
        names = {name.split(".lora_")[0] for name, _ in self.trained(folder, Lora(rank=2)).denoiser.named_parameters() if "lora_" in name}
        assert {f"single_transformer_blocks.0.attn.{layer}" for layer in ("to_qkv_mlp_proj", "to_out")} <= names
        assert "transformer_blocks.0.attn.to_out.0" in names and not [name for name in names if ".attn." not in name]

    def test_guidance_as_conditioning_is_refused(self, folder: Path) -> None:
        pipeline = self.plain(folder)
        pipeline.transformer.register_to_config(guidance_embeds=True)
        with pytest.raises(ValueError, match="x has its guidance as conditioning; choose backbone flux2_dev, or give FLUX"):
            Flux2(pipeline, "x")


def test_a_distilled_model_is_sampled_without_guidance(tmp_path: Path) -> None:
    loaded = load_backbone("flux2", str(save_flux2(tmp_path, is_distilled=True)))
    one, three = (pixels(loaded.sample(PROMPTS, [1, 2], steps=2, guidance=guidance, size=(16, 24))) for guidance in (1.0, 3.0))
    assert np.array_equal(one, three)


def test_places_are_of_time_row_column_and_token() -> None:
    assert places(2, 2, 1).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert places(1, 1, 2).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
