"""CogVideoX image-to-video against diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cogvideox_checks import CogvideoxChecks
from conditioned_checks import ConditionedChecks
from diffusers import CogVideoXImageToVideoPipeline
from family_checks import PROMPTS, normal
from tiny_video_pipelines import save_cogvideox

from diffalign.backbones import load_backbone

PIPELINE = "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video"


class TestCogvideoxImageToVideo(ConditionedChecks, CogvideoxChecks):
    family, config = "cogvideox_image_to_video", "cogvideox_image_to_video_diffusion_dpo"

    @staticmethod
    def save(folder: Path) -> Path:
        return save_cogvideox(folder, CogVideoXImageToVideoPipeline, 8)

    @pytest.mark.parity
    def test_predict_is_what_the_pipeline_s_steps_take(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the mean of the first frame's posterior, from which the pipeline draws."""
        monkeypatch.setattr(f"{PIPELINE}.retrieve_latents", lambda encoded, generator: encoded.latent_dist.mode())
        super().test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)

    def test_a_first_frame_is_always_given(self, loaded: Any) -> None:
        assert not loaded.drops_condition
        with pytest.raises(ValueError, match="always has its first frame; give a condition for each prompt"):
            loaded.embed_condition([None], self.size)

    def test_a_condition_is_of_any_length(self, loaded: Any) -> None:
        """Zeros follow it, however long the video is."""
        given = self.conditions(PROMPTS)
        long, short = (loaded.embed_condition(given, (frames, *self.size[1:])) for frames in (9, 5))
        assert torch.equal(long["condition_latents"], short["condition_latents"]) and long["condition_latents"].shape == (2, 4, 1, 4, 8)


def test_version_1_5_scales_a_condition_the_other_way_and_has_its_smoothness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = TestCogvideoxImageToVideo()
    options: dict[str, Any] = {"invert": True, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 8}
    folder = save_cogvideox(tmp_path, CogVideoXImageToVideoPipeline, 8, **options)
    loaded: Any = load_backbone("cogvideox_image_to_video", str(folder))
    other: Any = load_backbone("cogvideox_image_to_video", str(checks.save(tmp_path / "first")))
    given = checks.conditions(PROMPTS)
    ours, theirs = (each.embed_condition(given, (5, 16, 32))["condition_latents"] for each in (loaded, other))
    assert torch.allclose(ours * 0.7, theirs / 0.7, atol=1e-5)
    monkeypatch.setattr(TestCogvideoxImageToVideo, "size", (13, 16, 32))
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    noised, embeds = normal(2, 4, 4, 4, 8), checks.embedded(loaded, PROMPTS)
    assert loaded.inputs(noised, embeds)["ofs"].tolist() == [2.0]


def test_a_model_from_text_alone_is_refused(tmp_path: Path) -> None:
    folder = save_cogvideox(tmp_path, CogVideoXImageToVideoPipeline)
    with pytest.raises(ValueError, match=r"4 input channels; this family has 8: .*; give an image-to-video model, or choose"):
        load_backbone("cogvideox_image_to_video", str(folder))
