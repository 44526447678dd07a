"""Wan 2.1 image-to-video against diffusers itself; of version 2.2 see test_wan_image_to_video_experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conditioned_checks import AloneChecks, picture
from diffusers import WanImageToVideoPipeline
from family_checks import PROMPTS, normal, pixels
from tiny_video_pipelines import save_wan_image_to_video
from torch import Tensor
from video_checks import VideoFamilyChecks

from diffalign.backbones import load_backbone


class TestWanImageToVideo(AloneChecks, VideoFamilyChecks):
    family, config = "wan_image_to_video", "wan_image_to_video_flow_dpo"
    rate = 16.0
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": 512}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_wan_image_to_video(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=512)[0]}

    def plain(self, folder: Path, **parts: Any) -> Any:
        """By its own class: through DiffusionPipeline another transformer, which is optional there, would be passed over."""
        pipeline = WanImageToVideoPipeline.from_pretrained(folder, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def given_plainly(self, prompts: list[str]) -> dict[str, Any]:
        """The pipeline takes one picture."""
        return {"image": super().given_plainly(prompts)["image"][0]}

    def test_prompts_of_one_picture_are_one_call(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Samples stay in the order of their prompts, each with its own picture."""
        first, second = self.conditions(PROMPTS)
        batches: list[int] = []
        call = type(loaded.pipeline).__call__
        monkeypatch.setattr(
            type(loaded.pipeline), "__call__", lambda own, **named: batches.append(len(named["prompt"])) or call(own, **named)
        )
        options: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": self.size}
        prompts, conditions = [PROMPTS[0], PROMPTS[1], PROMPTS[1]], [first, second, first]
        together = pixels(loaded.sample(prompts, [1, 2, 3], conditions=conditions, **options))
        assert batches == [2, 1]
        for place in range(3):
            [alone] = loaded.sample([prompts[place]], [place + 1], conditions=[conditions[place]], **options)
            assert np.abs(together[place] - alone.frames()).max() <= 1

    def test_the_beginning_of_a_condition_is_that_of_a_shorter_video(self, loaded: Any) -> None:
        """So samples of two lengths share it: of the longer one's condition a prediction takes as much as it needs."""
        given = self.conditions(PROMPTS)
        long, short = (loaded.embed_condition(given, (frames, *self.size[1:])) for frames in (9, 5))
        assert long["condition_latents"].shape[2] == 3 and short["condition_latents"].shape[2] == 2
        assert torch.allclose(long["condition_latents"][:, :, :2], short["condition_latents"], atol=1e-5)
        noised, timestep, prompts = normal(2, 4, 2, *self.latents[2:]), torch.tensor([200.0, 800.0]), loaded.embed(PROMPTS)
        with torch.no_grad():
            one, other = (loaded.predict(loaded.denoiser, noised, timestep, prompts | each) for each in (long, short))
        assert torch.allclose(one, other, atol=1e-5)

    def test_timesteps_are_logit_normal_and_shifted(self, loaded: Any) -> None:
        shift = loaded.process.shift
        assert float(loaded.process.timestep(torch.tensor([0.8413447]))) == pytest.approx(
            1000 * shift * 0.7310586 / (1 + (shift - 1) * 0.7310586), abs=1e-2
        )

    def test_a_first_frame_is_always_given(self, loaded: Any) -> None:
        assert not loaded.drops_condition
        with pytest.raises(ValueError, match="always has its first frame; give a condition for each prompt"):
            loaded.embed_condition([None], self.size)


def test_a_model_without_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = TestWanImageToVideo()
    folder = save_wan_image_to_video(tmp_path, has_clip=False)
    loaded: Any = load_backbone("wan_image_to_video", str(folder))
    assert set(loaded.embed_condition([picture("p", (16, 32))], (9, 16, 32))) == {"condition_latents"}
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    loaded.pipeline.transformer.register_to_config(in_channels=4)
    with pytest.raises(ValueError, match="4 input channels; this family has 12: latents, a mask and the first frame's latents"):
        type(loaded)(loaded.pipeline, "SOURCE")


def test_prompt_and_picture_are_told_apart_by_their_number_of_tokens(tmp_path: Path) -> None:
    loaded: Any = load_backbone("wan_image_to_video", str(save_wan_image_to_video(tmp_path)))
    loaded.pipeline.tokenizer.model_max_length = 64
    with pytest.raises(ValueError, match="has a tokenizer of 64 tokens; the denoiser tells prompt and picture apart by 512"):
        type(loaded)(loaded.pipeline, "SOURCE")
