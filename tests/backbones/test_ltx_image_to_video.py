"""LTX-Video from a first frame against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conditioned_checks import FirstFrameChecks
from diffusers import LTXImageToVideoPipeline
from family_checks import PROMPTS, pixels
from tiny_pipelines import T5_TOKENS
from tiny_video_pipelines import save_ltx
from torch import Tensor
from video_checks import FRAMES_PER_LATENT, VideoFamilyChecks

from diffalign.backbones import load_backbone

PIPELINE = "diffusers.pipelines.ltx.pipeline_ltx_image2video"


class TestLtxImageToVideo(FirstFrameChecks, VideoFamilyChecks):
    family, config = "ltx_image_to_video", "ltx_image_to_video_flow_dpo"
    shift = 3.0
    rate, step = 25.0, (FRAMES_PER_LATENT, 32, 32)
    size: ClassVar[tuple[int, ...]] = (9, 32, 64)
    latents: ClassVar[tuple[int, ...]] = (4, 3, 8, 16)
    own: ClassVar[dict[str, Any]] = {"max_sequence_length": T5_TOKENS}

    @staticmethod
    def save(folder: Path) -> Path:
        return save_ltx(folder, kind=LTXImageToVideoPipeline)

    @staticmethod
    def unpacked(latents: Tensor) -> Tensor:
        """(N, 4, 3, 8, 16) of a sequence, or of what the scheduler is given, which is without the first place in time."""
        if latents.ndim == 5:
            return torch.cat([torch.zeros_like(latents[:, :, :1]), latents], 2)
        return latents.view(-1, 3, 8, 16, 4).permute(0, 4, 1, 2, 3)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "prompt_mask": mask.float()}

    @pytest.mark.parity
    def test_predict_is_what_the_pipeline_s_steps_take(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the mean of the first frame's posterior, from which the pipeline draws."""
        monkeypatch.setattr(f"{PIPELINE}.retrieve_latents", lambda encoded, generator: encoded.latent_dist.mode())
        super().test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)

    def test_a_condition_is_of_any_length(self, loaded: Any) -> None:
        given = self.conditions(PROMPTS)
        long, short = (loaded.embed_condition(given, (frames, *self.size[1:]))["condition_latents"] for frames in (9, 5))
        assert torch.equal(long, short) and long.shape == (2, 4, 1, 8, 16)

    def test_a_first_frame_is_always_given(self, loaded: Any) -> None:
        assert not loaded.drops_condition
        with pytest.raises(ValueError, match=r"always has its first frame .*; give a condition for each prompt"):
            loaded.embed_condition([None], self.size)


def test_a_model_from_text_is_the_same(tmp_path: Path) -> None:
    """The release is one for both pipelines, and its model_index.json names that from text."""
    loaded = load_backbone("ltx_image_to_video", str(save_ltx(tmp_path)))
    assert type(loaded).__name__ == "LtxImageToVideo"


def test_a_later_version_decodes_at_a_timestep(tmp_path: Path) -> None:
    """Its pipeline takes one generator: a prompt at a time."""
    checks = TestLtxImageToVideo()
    folder = save_ltx(tmp_path, dynamic=False, timestep_conditioning=True, kind=LTXImageToVideoPipeline)
    loaded: Any = load_backbone("ltx_image_to_video", str(folder))
    given, size = checks.conditions(PROMPTS), dict(zip(checks.axes, checks.size, strict=True))
    ours = pixels(loaded.sample(PROMPTS, [1, 2], steps=3, guidance=3.0, size=checks.size, conditions=given))
    plain = checks.plain(folder)
    for place, image in enumerate(checks.given_plainly(PROMPTS)["image"]):
        draw = torch.Generator().manual_seed(place + 1)
        made = plain(
            image, PROMPTS[place], generator=draw, num_inference_steps=3, output_type="np", **size, **checks.own, **checks.guidance
        )
        assert np.array_equal(ours[place], np.rint(made.frames[0] * 255))
