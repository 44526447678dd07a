"""Wan 2.2 image-to-video, of two experts, against diffusers itself: timesteps, the denoiser's calls, samples, and what training leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from family_checks import PROMPTS, STEPS, normal, spied
from test_wan_image_to_video import TestWanImageToVideo as Checks
from tiny_video_pipelines import save_wan_image_to_video

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.training.lora import Lora, add_lora

BOUNDARY = 0.9
EXPERT_OF = {"high": "transformer", "low": "transformer_2"}
CHECKS = Checks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan_image_to_video(tmp_path_factory.mktemp("wan"), has_clip=False, boundary=BOUNDARY)


def load(folder: Path, expert: str, **options: Any) -> Any:
    return load_backbone("wan_image_to_video", str(folder), expert=expert, **options)


def plain_frames(folder: Path, **parts: Any) -> np.ndarray:
    return CHECKS.plain_pixels(CHECKS.plain(folder, **parts), [1, 2])


def frames(backbone: Any) -> np.ndarray:
    return CHECKS.our_pixels(backbone, [1, 2])


@pytest.mark.parametrize("expert", EXPERT_OF)
def test_every_step_of_the_pipeline_is_predicted_by_its_expert(folder: Path, expert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one batch of both sides of the boundary, each sample with its own prompt and first frame."""
    loaded, pipeline = load(folder, expert), CHECKS.plain(folder)
    calls = spied(pipeline, monkeypatch)
    CHECKS.made(pipeline, [1, 2], **CHECKS.unguided)
    samples, outputs = (torch.cat([call[place] for call in calls]) for place in (0, 2))
    timesteps = torch.stack([call[1] for call in calls])
    is_own = (timesteps >= 1000 * BOUNDARY) == (expert == "high")
    assert len(calls) == 2 * STEPS and is_own.any() and not is_own.all()
    embeds = {name: value.repeat_interleave(STEPS, 0) for name, value in CHECKS.embedded(loaded, PROMPTS).items()}
    nothing: Any = lambda noised, *_, **__: (torch.zeros(len(noised), *CHECKS.latents),)  # noqa: E731
    with torch.no_grad():
        assert torch.allclose(loaded.predict(loaded.denoiser, samples, timesteps, embeds), outputs, atol=1e-5)
        other = loaded.predict(nothing, samples, timesteps, embeds)
    assert not other[is_own].any() and torch.allclose(other[~is_own], outputs[~is_own], atol=1e-5)


@pytest.mark.parametrize("expert", EXPERT_OF)
def test_what_training_leaves_loads_in_plain_diffusers(folder: Path, expert: str, tmp_path: Path) -> None:
    """A LoRA of either expert, and its full weights; the other one is as it was."""
    base, part = plain_frames(folder), EXPERT_OF[expert]
    adapted, whole = load(folder, expert), load(folder, expert)
    assert np.array_equal(frames(adapted), base)
    add_lora(adapted.denoiser, Lora(rank=2, alpha=4), 0, BACKBONES["wan_image_to_video"].lora_targets)
    with torch.no_grad():
        for backbone in (adapted, whole):
            for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
                if backbone is whole or "lora_" in name:
                    parameter.add_(0.3 * normal(*parameter.shape, seed=index))
    ours = frames(adapted)
    assert np.abs(ours - base).max() > 4
    adapted.save_trained(tmp_path / "lora")
    pipeline, where = CHECKS.plain(folder), {"load_into_transformer_2": True} if expert == "low" else {}
    pipeline.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors", **where)
    assert np.abs(ours - CHECKS.plain_pixels(pipeline, [1, 2])).max() <= 1
    assert np.abs(ours - frames(load(folder, expert, adapter=tmp_path / "lora"))).max() <= 1
    whole.save_trained(tmp_path / "full")
    trained = WanTransformer3DModel.from_pretrained(tmp_path / "full" / part)
    assert np.array_equal(frames(whole), plain_frames(folder, **{part: trained}))
    assert np.array_equal(frames(whole), frames(load(folder, expert, denoiser=tmp_path / "full")))


def test_each_is_trained_on_its_own_timesteps(folder: Path) -> None:
    high, low = (load(folder, expert).process.timestep(torch.linspace(0, 1, 1001)[:-1]) for expert in EXPERT_OF)
    assert float(high.min()) == pytest.approx(1000 * BOUNDARY, abs=1e-2) and float(high.max()) > 990
    assert float(low.min()) < 10 and 899 < float(low.max()) < 1000 * BOUNDARY


@pytest.mark.integration
def test_a_config_trains_the_one_for_low_noise(folder: Path, tmp_path: Path) -> None:
    """A LoRA of it, and samples of both experts."""
    CHECKS.check_run(folder, tmp_path, "model.settings.expert=low")
    pipeline = CHECKS.plain(folder)
    [final] = tmp_path.glob("run/train/final")
    pipeline.load_lora_weights(final, weight_name="pytorch_lora_weights.safetensors", load_into_transformer_2=True)
    assert pipeline.transformer_2.peft_config and not getattr(pipeline.transformer, "peft_config", None)


def test_an_expert_is_one_of_two(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expert is 'middle'; choose one of: high, low"):
        load(folder, "middle")
    with pytest.raises(ValueError, match=r"has no transformer_2 to train; .* remove what asks for it from model\.settings"):
        load(save_wan_image_to_video(tmp_path, has_clip=False), "low")
