"""InstructPix2Pix against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conditioned_checks import ConditionedChecks
from family_checks import PROMPTS
from tiny_pipelines import save_instruct_pix2pix
from torch import Tensor

from diffalign.backbones import load_backbone


class TestInstructPix2Pix(ConditionedChecks):
    family, config = "instruct_pix2pix", "instruct_pix2pix_diffusion_dpo"
    axes, size = ("height", "width"), (16, 24)
    guidance: ClassVar[dict[str, Any]] = {"guidance_scale": 3.0, "image_guidance_scale": 1.5}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_instruct_pix2pix(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        """Prompts, then what guidance subtracts, twice."""
        return {"prompt_embeds": pipeline._encode_prompt(prompts, "cpu", 1, True).chunk(3)[0]}

    def made(self, pipeline: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> Any:
        """The image says how large the result is."""
        arguments = {"output_type": "np", "num_inference_steps": 3} | self.guidance | self.given_plainly(prompts)
        return pipeline(
            prompt=prompts, generator=[torch.Generator().manual_seed(seed) for seed in seeds], **(arguments | options)
        ).images  # fmt: skip

    def test_a_dropped_condition_is_zeros_as_guidance_has_it(self, loaded: Any) -> None:
        """The prediction without both is the last third of what the pipeline predicts at once under guidance."""
        given, calls = self.conditions(PROMPTS), []
        handle = loaded.denoiser.register_forward_hook(
            lambda module, inputs, named, output: calls.append((inputs, output[0])), with_kwargs=True
        )
        loaded.sample(PROMPTS, [1, 2], steps=1, guidance=3.0, size=self.size, conditions=given)
        handle.remove()
        (inputs, timestep), output = calls[0]
        noised = inputs[:2, :4]
        for place, (prompts, conditions) in enumerate(((PROMPTS, given), (["", ""], given), (["", ""], [None, None]))):
            embeds = loaded.embed(prompts) | loaded.embed_condition(conditions, self.size)
            with torch.no_grad():
                found = loaded.predict(loaded.denoiser, noised, timestep.expand(2), embeds)
            assert torch.allclose(found, output[2 * place : 2 * place + 2], atol=1e-5), place
        mixed = loaded.embed_condition([given[0], None], self.size)["condition_latents"]
        assert float(mixed[1].abs().max()) == 0 and mixed[0].std() > 0

    def test_its_image_guidance_is_a_setting(self, folder: Path) -> None:
        ours = self.our_pixels(load_backbone(self.family, str(folder), image_guidance=3.0), [1, 2])
        plain = (self.made(self.plain(folder), [1, 2], image_guidance_scale=3.0) * 255).round().astype(int)
        assert (ours == plain).all() and (ours != self.plain_pixels(self.plain(folder), [1, 2])).any()
        with pytest.raises(ValueError, match=r"image_guidance is 0.5; give 1 or more, such as 1.5"):
            load_backbone(self.family, str(folder), image_guidance=0.5)

    def test_a_model_without_channels_for_an_image_is_refused(self, loaded: Any) -> None:
        loaded.pipeline.unet.register_to_config(in_channels=4)
        with pytest.raises(ValueError, match="4 input channels; this family has 8, half of them of the edited image"):
            type(loaded)(loaded.pipeline, "SOURCE")

    def test_latents_of_the_condition_are_not_scaled(self, loaded: Any) -> None:
        media = torch.from_numpy(self.conditions(PROMPTS[:1])[0].tensor(self.size, None))[None]
        found = loaded.embed_condition(self.conditions(PROMPTS[:1]), self.size)["condition_latents"]
        assert torch.allclose(found * 0.7, loaded.encode(media, seeds=None), atol=1e-5)
        assert found.shape == (1, *self.latents)
