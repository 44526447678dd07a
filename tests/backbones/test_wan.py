"""Wan against diffusers itself: the process, the denoiser's calls, the autoencoder, samples, and what training leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from run_checks import RunChecks
from video_checks import save_pairs

from diffalign.backbones import load_backbone
from diffalign.backbones.miniature import wan as miniature
from diffalign.backbones.wan import FPS, Wan
from diffalign.training.lora import Lora, add_lora

PROMPTS = ["a red circle moves right, then up", "a blue square stays"]
OPTIONS: dict[str, Any] = {"steps": 3, "guidance": 3.0}
SMALL = miniature.Architecture(
    size=(9, 16, 16), latent_channels=4, autoencoder_channels=4, autoencoder_levels=(1, 2, 2), denoiser_heads=2, denoiser_head_width=12,
    denoiser_layers=2, text_width=16, text_layers=1, text_heads=2, token_limit=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of random weights, saved, with a scale of its latents that is not 1."""
    place = tmp_path_factory.mktemp("wan")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = miniature.build_pipeline(SMALL, PROMPTS, miniature.build_autoencoder(SMALL), place)
    pipeline.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.0, 2.0, 1.5])
    miniature.wrap(SMALL, pipeline, "").save(place / "pipeline")
    return place / "pipeline"


@pytest.fixture
def loaded(folder: Path) -> Wan:
    found = load_backbone("wan", str(folder))
    assert isinstance(found, Wan)
    return found


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def frames(backbone: Wan, prompts: list[str], seeds: list[int], **options: Any) -> np.ndarray:
    """uint8 (N, T, H, W, 3)."""
    return np.stack([video.frames() for video in backbone.sample(prompts, seeds, **(OPTIONS | options))])


def plain(folder: Path, **parts: Any) -> WanPipeline:
    """What a user of diffusers alone has."""
    pipeline = WanPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_frames(pipeline: WanPipeline, seeds: list[int], prompts: list[str] = PROMPTS, negative: str = "") -> np.ndarray:
    made = pipeline(
        prompts, negative_prompt=[negative] * len(prompts), num_frames=9, height=16, width=16, num_inference_steps=3, guidance_scale=3.0,
        max_sequence_length=12, generator=[torch.Generator().manual_seed(seed) for seed in seeds], output_type="np",
    )  # fmt: skip
    return np.rint(np.stack(made.frames) * 255).astype(np.uint8)


def test_noise_and_target_are_the_scheduler_s(loaded: Wan) -> None:
    """x_t is `scale_noise` at the timesteps of the scheduler, and a step of Euler along the target ends at the sample."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(loaded.pipeline.scheduler.config)
    scheduler.set_timesteps(8)
    timestep = scheduler.timesteps[[0, 3, 7]]
    x0, epsilon = normal(3, 4, 3, 2, 2), normal(3, 4, 3, 2, 2, seed=1)
    noised, target = loaded.process.noise(x0, epsilon, timestep), loaded.process.target(x0, epsilon, timestep)
    assert torch.allclose(noised, scheduler.scale_noise(x0, timestep, epsilon), atol=1e-6)
    assert torch.allclose(noised - (timestep / 1000).view(-1, 1, 1, 1, 1) * target, x0, atol=1e-5)
    assert torch.allclose(loaded.process.epsilon(target, noised, timestep), epsilon, atol=1e-5)
    sigma = timestep.double() / 1000
    assert torch.allclose(loaded.process.signal_to_noise(timestep), ((1 - sigma) / sigma).square())
    assert [float(level) for level in loaded.process.levels(torch.tensor(loaded.process.clean_timestep))] == [1, 0]


def test_timesteps_follow_the_scheduler_s_shift(loaded: Wan) -> None:
    """Where uniform numbers are those of the scheduler's own grid, the timesteps are its timesteps."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(loaded.pipeline.scheduler.config)
    assert loaded.process.shift == 3.0
    before = FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert torch.allclose(loaded.process.timestep(before.timesteps / 1000), scheduler.timesteps, rtol=1e-4)
    assert loaded.process.timestep(torch.tensor([0.0, 1.0]))[1] == 1000 and 0 < loaded.process.timestep(torch.zeros(1)) < 5


def test_timesteps_are_the_model_s_own(loaded: Wan, folder: Path, tmp_path: Path) -> None:
    """Logit-normal, by hand: of the quantiles 1/2 and 0.731 a shift of 3 makes 3/4 and 3·0.731/(1 + 2·0.731). A miniature's are uniform."""
    assert loaded.timesteps == load_backbone("wan", "bundled:motion").timesteps == "uniform"  # type: ignore[attr-defined]  # of Wan
    numbers = torch.tensor([0.5, 0.84134475])
    bundled: Any = load_backbone("wan", "bundled:motion")
    assert bundled.process.timestep(numbers).tolist() == pytest.approx([750, 1000 * 3 * 0.84134475 / (1 + 2 * 0.84134475)], abs=1e-3)
    shutil.copytree(folder, tmp_path / "model")
    said = json.loads((tmp_path / "model/media.json").read_text())
    assert said == {"size": [9, 16, 16], "fps": 8.0, "timesteps": "uniform"}
    (tmp_path / "model/media.json").unlink()
    released: Any = load_backbone("wan", str(tmp_path / "model"))
    assert released.process.timestep(numbers).tolist() == pytest.approx([750, 1000 * 2.1931757 / 2.4621171], abs=1e-2)
    (tmp_path / "model/media.json").write_text(json.dumps(said | {"timesteps": "mode"}))
    with pytest.raises(ValueError, match=r"timesteps is 'mode' in media\.json; choose one of: uniform, logit_normal"):
        load_backbone("wan", str(tmp_path / "model"))


@pytest.mark.parity("wan")
def test_predict_is_what_the_pipeline_s_steps_take(loaded: Wan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the denoiser while diffusers samples, repeated by `predict` with our own embeds of the prompts and of the empty one."""
    calls = []
    forward = loaded.denoiser.forward

    def spy(*arguments: Any, **named: Any) -> Any:
        output = forward(*arguments, **named)
        calls.append((named["hidden_states"].clone(), named["timestep"].clone(), output[0].clone()))
        return output

    with monkeypatch.context() as patch:
        patch.setattr(loaded.denoiser, "forward", spy)
        frames(loaded, PROMPTS, [1, 2])
    assert len(calls) == 6
    for number, (sample, timestep, output) in enumerate(calls):
        embeds = loaded.embed(PROMPTS if number % 2 == 0 else ["", ""])
        with torch.no_grad():
            assert torch.allclose(loaded.predict(loaded.denoiser, sample, timestep, embeds), output, atol=1e-6)


def test_latents_are_scaled_as_the_pipeline_unscales_them(loaded: Wan, folder: Path) -> None:
    vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae")
    media = normal(2, 3, 9, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        posterior = vae.encode(media).latent_dist
    latents = loaded.encode(media, seeds=None)
    assert latents.shape == (2, 4, 3, 4, 4)
    mean, std = (torch.tensor(vae.config[name]).view(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    assert torch.allclose(latents * std + mean, posterior.mean, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(loaded.decode(latents), vae.decode(posterior.mean).sample.clamp(-1, 1), atol=1e-5)
    alone = loaded.encode(media[1:], seeds=[8])
    assert torch.allclose(loaded.encode(media, seeds=[7, 8])[1:], alone, atol=1e-5) and not torch.allclose(alone, latents[1:])
    [first, _] = loaded.media(torch.stack([torch.full((3, 9, 16, 16), -1.0), torch.full((3, 9, 16, 16), 1.0)]))
    assert first.frames().shape == (9, 16, 16, 3) and first.frames().max() == 0 and first.fps == 8


def test_the_autoencoder_stays_in_float32(folder: Path, loaded: Wan) -> None:
    """As the release has it; so latents are the same to the bit whatever the denoiser's dtype is."""
    half, media = load_backbone("wan", str(folder), dtype=torch.bfloat16), normal(1, 3, 9, 16, 16).clamp(-1, 1)
    assert isinstance(half, Wan) and half.pipeline.text_encoder.dtype == torch.bfloat16
    assert half.denoiser.get_submodule("blocks.0.attn1.to_q").weight.dtype == torch.bfloat16
    assert torch.equal(half.encode(media, seeds=[3]), loaded.encode(media, seeds=[3]))
    assert frames(half, PROMPTS[:1], [1]).shape == (1, 9, 16, 16, 3)


def test_each_latent_has_its_place_in_time(loaded: Wan) -> None:
    assert loaded.time_edges(3) == [0, 0, 0.5, 1] and loaded.time_edges(1) == [0, 1]
    found = [loaded.whole(size) for size in ((9, 16, 16), (16, 20, 35), (4, 7, 16))]
    assert found == [(9, 16, 16), (13, 16, 32), (1, 0, 16)]


def test_sample_is_plain_diffusers_and_depends_on_prompt_and_seed_alone(loaded: Wan, folder: Path) -> None:
    ours = frames(loaded, PROMPTS, [1, 2])
    assert np.array_equal(ours, plain_frames(plain(folder), [1, 2]))
    assert np.abs(ours[1].astype(int) - frames(loaded, PROMPTS[1:], [2])[0]).max() <= 1
    assert frames(loaded, PROMPTS[:1], [1], size=(5, 16, 32)).shape == (1, 5, 16, 32, 3)
    with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
        loaded.sample(PROMPTS, [1], **OPTIONS)


def test_a_negative_prompt_is_the_pipeline_s(loaded: Wan, folder: Path) -> None:
    ours = frames(loaded, PROMPTS, [1, 2], negative_prompt=PROMPTS[1])
    assert np.array_equal(ours, plain_frames(plain(folder), [1, 2], negative=PROMPTS[1]))
    assert not np.array_equal(ours, frames(loaded, PROMPTS, [1, 2]))


def test_a_saved_pipeline_keeps_size_and_rate(loaded: Wan, tmp_path: Path) -> None:
    loaded.save(tmp_path)
    again = load_backbone("wan", str(tmp_path))
    assert again.size == (9, 16, 16) and again.rate == 8
    (tmp_path / "media.json").unlink()
    assert load_backbone("wan", str(tmp_path)).rate == FPS
    assert loaded.identity() == again.identity() and loaded.encoder_identity() == again.encoder_identity()


def trained(folder: Path, lora: Lora | None) -> Wan:
    backbone = load_backbone("wan", str(folder))
    assert isinstance(backbone, Wan)
    if lora is not None:
        add_lora(backbone.denoiser, lora, 0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
            if lora is None or "lora_" in name:
                parameter.add_(0.1 * normal(*parameter.shape, seed=index))
    return backbone


@pytest.mark.parametrize("lora", [Lora(rank=2), Lora(rank=4, alpha=8), Lora(rank=2, alpha=4, dora=True)], ids=["plain", "alpha8", "dora"])
def test_a_lora_loads_in_plain_diffusers(lora: Lora, folder: Path, tmp_path: Path) -> None:
    backbone = trained(folder, lora)
    ours = frames(backbone, PROMPTS, [1, 2]).astype(int)
    assert np.abs(ours - plain_frames(plain(folder), [1, 2])).max() > 4  # the adapter does something
    backbone.save_trained(tmp_path)
    other = plain(folder)
    other.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert np.abs(ours - plain_frames(other, [1, 2])).max() <= 1
    fused = load_backbone("wan", str(folder), adapter=tmp_path)
    assert isinstance(fused, Wan) and np.abs(ours - frames(fused, PROMPTS, [1, 2])).max() <= 1


def test_full_weights_load_in_plain_diffusers(folder: Path, tmp_path: Path) -> None:
    backbone = trained(folder, None)
    ours = frames(backbone, PROMPTS, [1, 2])
    backbone.save_trained(tmp_path)
    transformer = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert np.array_equal(ours, plain_frames(plain(folder, transformer=transformer), [1, 2]))
    loaded = load_backbone("wan", str(folder), denoiser=tmp_path)
    assert isinstance(loaded, Wan) and np.array_equal(ours, frames(loaded, PROMPTS, [1, 2]))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
class TestRuns(RunChecks):
    family, config = "wan", "wan_flow_dpo"
    size, latents = (9, 16, 16), (4, 3, 4, 4)

    def save_pairs(self, folder: Path) -> Path:
        return save_pairs(folder, self.size, 8.0)


def test_a_timestep_for_each_patch_is_the_same_as_one(folder: Path, tmp_path: Path) -> None:
    """As the small version 2.2 samples; its clips are larger and faster than those of 2.1."""
    pipeline = plain(folder)
    pipeline.register_to_config(expand_timesteps=True)
    pipeline.save_pretrained(tmp_path)
    loaded = load_backbone("wan", str(tmp_path))
    assert isinstance(loaded, Wan) and (loaded.size, loaded.rate) == ((121, 704, 1280), 24.0)
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    forward = loaded.denoiser.forward

    def spy(*arguments: Any, **named: Any) -> Any:
        calls.append((named["hidden_states"].clone(), named["timestep"], forward(*arguments, **named)[0]))
        return (calls[-1][2],)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.denoiser, "forward", spy)
        frames(loaded, PROMPTS, [1, 2], size=(9, 16, 16), guidance=1.0)
    for sample, timestep, output in calls:
        assert timestep.shape == (2, 12)  # three latents in time of two by two patches
        with torch.no_grad():
            found = loaded.predict(loaded.denoiser, sample, timestep[:, 0], loaded.embed(PROMPTS))
        assert torch.allclose(found, output, atol=1e-5)


def test_a_new_autoencoder_makes_a_clip_that_stands_still_of_its_first_frame() -> None:
    """So what it learns from single frames holds for clips, and motion alone is left to learn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = miniature.build_autoencoder(SMALL).eval()
    still = normal(2, 3, 1, 16, 16)
    with torch.no_grad():
        one = autoencoder.encode(still).latent_dist.mean
        clip = autoencoder.encode(still.expand(-1, -1, 9, -1, -1).contiguous()).latent_dist.mean
        assert clip.shape[2] == 3 and torch.allclose(clip, one.expand_as(clip), atol=1e-5)
        made = autoencoder.decode(clip).sample
    assert made.shape[2] == 9 and torch.allclose(made, made[:, :, :1].expand_as(made), atol=1e-5)
    moving = normal(2, 3, 9, 16, 16, seed=1)
    with torch.no_grad():
        assert not torch.allclose(autoencoder.encode(moving).latent_dist.mean[:, :, 1:], one.expand_as(clip)[:, :, 1:], atol=0.1)
