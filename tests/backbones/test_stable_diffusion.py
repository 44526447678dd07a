"""Stable Diffusion against diffusers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from training_checks import TrainingChecks

from diffalign.backbones import load_backbone
from diffalign.training.lora import Lora, add_lora

PROMPTS = ["a red circle", "two green stars"]
OPTIONS: dict[str, Any] = {"steps": 3, "guidance": 3.0}


@pytest.fixture(scope="session")
def v_pipeline(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with v-prediction and 500 timesteps."""
    folder = tmp_path_factory.mktemp("v") / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction", "num_train_timesteps": 500}))
    return folder


@pytest.fixture(params=("epsilon", "v"))
def loaded(request: pytest.FixtureRequest, tiny_pipeline: Path, v_pipeline: Path):
    return load_backbone("stable_diffusion", str(tiny_pipeline if request.param == "epsilon" else v_pipeline))


def sampled(backbone: Any, prompts: list[str], seeds: list[int], **options: Any) -> np.ndarray:
    """uint8 (N, H, W, 3)."""
    return np.stack([image.pixels() for image in backbone.sample(prompts, seeds, **options)])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(folder: Path, **parts: Any) -> StableDiffusionPipeline:
    """What a user of diffusers alone has."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: StableDiffusionPipeline, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(prompts, num_inference_steps=3, guidance_scale=3.0, generator=generators, output_type="pil", **options).images
    return np.stack([np.asarray(image) for image in images])


# The forward process


def test_noise_and_target_give_back_latents_and_noise(loaded) -> None:
    x0, epsilon = normal(6, 4, 8, 8, dtype=torch.float64), normal(6, 4, 8, 8, seed=1, dtype=torch.float64)
    timestep = torch.tensor(
        [
            0,
            1,
            loaded.process.timestep_count // 4,
            loaded.process.timestep_count // 2,
            loaded.process.timestep_count - 2,
            loaded.process.timestep_count - 1,
        ]
    )
    scheduler = DDPMScheduler.from_config(loaded.pipeline.scheduler.config)
    cumulative = scheduler.alphas_cumprod.double()[timestep].view(-1, 1, 1, 1)
    alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
    noised, target = loaded.process.noise(x0, epsilon, timestep), loaded.process.target(x0, epsilon, timestep)
    if loaded.process.prediction_type == "epsilon":
        found_x0, found_epsilon = (noised - sigma * target) / alpha, target
    else:
        found_x0, found_epsilon = alpha * noised - sigma * target, sigma * noised + alpha * target
    assert torch.allclose(found_x0, x0, atol=1e-9) and torch.allclose(found_epsilon, epsilon, atol=1e-9)
    snr = loaded.process.signal_to_noise(timestep)
    assert torch.allclose(snr, (alpha / sigma).square().flatten(), rtol=1e-9)


def test_noise_and_target_are_the_scheduler_s(loaded) -> None:
    x0, epsilon, timestep = normal(4, 4, 8, 8), normal(4, 4, 8, 8, seed=1), torch.tensor([0, 10, 250, 499])
    scheduler = DDPMScheduler.from_config(loaded.pipeline.scheduler.config)
    assert torch.allclose(loaded.process.noise(x0, epsilon, timestep), scheduler.add_noise(x0, epsilon, timestep), atol=1e-6)
    expected = epsilon if loaded.process.prediction_type == "epsilon" else scheduler.get_velocity(x0, epsilon, timestep)
    assert torch.allclose(loaded.process.target(x0, epsilon, timestep), expected, atol=1e-6)


def test_timesteps_cover_the_scheduler_s_range(loaded) -> None:
    count = loaded.process.timestep_count
    assert loaded.process.timestep(torch.tensor([0.0, 0.5, 1 - 2**-24, 1.0])).tolist() == [0, count // 2, count - 1, count - 1]
    assert loaded.process.timestep(torch.arange(count, dtype=torch.float64) / count + 1e-9).tolist() == list(range(count))


# The denoiser, the encoder and the autoencoder


@pytest.mark.parity("stable_diffusion")
def test_predict_is_what_the_pipeline_s_steps_take(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the denoiser while diffusers samples, repeated by `predict` with our own embeds of the prompt and of the empty one."""
    calls = []
    forward = loaded.denoiser.forward

    def spy(sample: torch.Tensor, timestep: Any, *arguments: Any, **named: Any) -> Any:
        output = forward(sample, timestep, *arguments, **named)
        calls.append((sample.clone(), timestep, output[0].clone()))
        return output

    with monkeypatch.context() as patch:
        patch.setattr(loaded.denoiser, "forward", spy)
        sampled(loaded, PROMPTS, [1, 2], **OPTIONS)
    assert len(calls) == 3
    embeds = {name: torch.cat([loaded.embed(["", ""])[name], value]) for name, value in loaded.embed(PROMPTS).items()}
    for sample, timestep, output in calls:
        with torch.no_grad():
            ours = loaded.predict(loaded.denoiser, sample, torch.as_tensor(timestep).expand(len(sample)), embeds)
        assert torch.allclose(ours, output, atol=1e-5, rtol=1e-5)


def test_each_sample_has_its_own_timestep_and_prompt(loaded) -> None:
    noised, timestep = normal(2, 4, 8, 8), torch.tensor([3, 400])
    with torch.no_grad():
        together = loaded.predict(loaded.denoiser, noised, timestep, loaded.embed(PROMPTS))
        alone = [loaded.predict(loaded.denoiser, noised[i : i + 1], timestep[i : i + 1], loaded.embed([PROMPTS[i]])) for i in range(2)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_latents_are_scaled_and_decoded_back(loaded) -> None:
    pixels = normal(2, 3, 16, 16).clamp(-1, 1)
    vae = loaded.pipeline.vae
    vae.register_to_config(scaling_factor=0.5)
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        mean = loaded.encode(pixels, seeds=None)
        assert torch.equal(mean, posterior.mean * 0.5)
        assert torch.equal(loaded.decode(mean), vae.decode(posterior.mean).sample.clamp(-1, 1))
    drawn = loaded.encode(pixels, seeds=[5, 6])
    noise = torch.cat([normal(1, 4, 8, 8, seed=5), normal(1, 4, 8, 8, seed=6)])
    assert torch.allclose(drawn, (posterior.mean + posterior.std * noise) * 0.5, atol=1e-6)
    assert torch.allclose(drawn[1:], loaded.encode(pixels[1:], seeds=[6]), atol=1e-5)
    assert loaded.decode(100 * mean).abs().max() <= 1


def test_tokens_are_counted_with_begin_and_end(loaded) -> None:
    assert loaded.token_limit == 8
    assert [loaded.token_count(prompt) for prompt in ("", "a red circle", "a red circle a red circle a red circle")] == [2, 5, 11]
    assert loaded.embed(PROMPTS)["prompt_embeds"].shape == (2, 8, 32)


# Sampling


def test_sample_is_plain_diffusers(loaded) -> None:
    assert np.array_equal(sampled(loaded, PROMPTS, [1, 2], **OPTIONS), pictures(plain(Path(loaded.source)), [1, 2]))


def test_a_negative_prompt_is_the_pipeline_s(loaded) -> None:
    ours = sampled(loaded, PROMPTS, [1, 2], **OPTIONS, negative_prompt="a blue square")
    assert np.array_equal(ours, pictures(plain(Path(loaded.source)), [1, 2], negative_prompt=["a blue square"] * 2))
    assert not np.array_equal(ours, sampled(loaded, PROMPTS, [1, 2], **OPTIONS))


def test_a_sample_depends_on_its_prompt_and_seed_alone(loaded) -> None:
    together = sampled(loaded, [*PROMPTS, PROMPTS[0]], [1, 2, 9], **OPTIONS)
    assert together.shape == (3, 16, 16, 3) and together.dtype == np.uint8
    alone = np.concatenate([sampled(loaded, [prompt], [seed], **OPTIONS) for prompt, seed in zip([*PROMPTS, PROMPTS[0]], [1, 2, 9])])
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert not np.array_equal(together[0], together[2])
    assert sampled(loaded, [PROMPTS[0]], [1], size=(24, 16), **OPTIONS).shape == (1, 24, 16, 3)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
def test_schedulers_by_name_leave_the_model_s_own(loaded) -> None:
    own = loaded.pipeline.scheduler
    ddim = sampled(loaded, [PROMPTS[0]], [1], scheduler="ddim", **OPTIONS)
    for name in ("dpmsolver++", "euler", "pndm"):
        assert sampled(loaded, [PROMPTS[0]], [1], scheduler=name, **OPTIONS).shape == (1, 16, 16, 3)
    assert loaded.pipeline.scheduler is own
    assert np.array_equal(ddim, sampled(loaded, [PROMPTS[0]], [1], **OPTIONS))
    with pytest.raises(ValueError, match=r"unknown scheduler 'dpm'; choose one of: ddim, dpmsolver\+\+, euler, pndm"):
        sampled(loaded, [PROMPTS[0]], [1], scheduler="dpm", **OPTIONS)
    with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
        sampled(loaded, PROMPTS, [1], **OPTIONS)


# What training leaves, in plain diffusers


def trained(folder: Path, lora: Lora | None):
    backbone = load_backbone("stable_diffusion", str(folder))
    if lora is not None:
        add_lora(backbone.denoiser, lora, 0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
            if lora is None or "lora_" in name:
                parameter.add_(0.1 * normal(*parameter.shape, seed=index))
    return backbone


@pytest.mark.parametrize(
    "lora", [Lora(rank=2), Lora(rank=4, alpha=8), Lora(rank=4, alpha=1), Lora(rank=2, dora=True)], ids=["plain", "alpha8", "alpha1", "dora"]
)
def test_a_lora_loads_in_plain_diffusers(lora: Lora, tiny_pipeline: Path, tmp_path: Path) -> None:
    backbone = trained(tiny_pipeline, lora)
    ours = sampled(backbone, PROMPTS, [1, 2], **OPTIONS).astype(int)
    assert np.abs(ours - pictures(plain(tiny_pipeline), [1, 2])).max() > 4  # the adapter does something
    backbone.save_trained(tmp_path)
    other = plain(tiny_pipeline)
    other.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert np.abs(ours - pictures(other, [1, 2])).max() <= 1
    fused = load_backbone("stable_diffusion", str(tiny_pipeline), adapter=tmp_path)
    assert np.abs(ours - sampled(fused, PROMPTS, [1, 2], **OPTIONS)).max() <= 1
    assert not any("lora_" in name for name, _ in fused.denoiser.named_parameters())


def test_full_weights_load_in_plain_diffusers(tiny_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    backbone = trained(tiny_pipeline, None)
    ours = sampled(backbone, PROMPTS, [1, 2], **OPTIONS)
    backbone.save_trained(tmp_path)
    assert np.array_equal(ours, pictures(plain(tiny_pipeline, unet=UNet2DConditionModel.from_pretrained(tmp_path / "unet")), [1, 2]))
    for folder in (tmp_path, tmp_path / "unet"):
        assert np.array_equal(
            ours, sampled(load_backbone("stable_diffusion", str(tiny_pipeline), denoiser=folder), PROMPTS, [1, 2], **OPTIONS)
        )
    backbone.save(tmp_path / "whole")
    assert np.array_equal(ours, pictures(plain(tmp_path / "whole"), [1, 2]))


class TestTraining(TrainingChecks):
    family = "stable_diffusion"
    size, latents = (16, 16), (4, 8, 8)

    @pytest.fixture
    def folder(self, loaded: Any) -> Path:
        return Path(loaded.source)


# Identity


def test_identity_is_of_the_weights_and_not_of_adapters(tiny_pipeline: Path) -> None:
    first, second = (load_backbone("stable_diffusion", str(tiny_pipeline)) for _ in range(2))
    own = first.identity()
    assert own == second.identity() and len(own) == 16
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert second.identity() == own
    torch.set_num_threads(threads)
    add_lora(second.denoiser, Lora(rank=2), 0)
    assert second.identity() == own
    weight = next(parameter for parameter in first.denoiser.parameters() if parameter.ndim == 4)
    with torch.no_grad():
        weight[0, 0, 0, 0], weight[0, 0, 0, 1] = weight[0, 0, 0, 1].clone(), weight[0, 0, 0, 0].clone()  # the same numbers in other places
    assert first.identity() != own


# Sources


@pytest.mark.parametrize("name, source, error, message", [
    ("stable_difusion", "x", ValueError, r"unknown backbone .* \(did you mean 'stable_diffusion'\?\); choose one of: stable_diffusion"),
    ("stable_diffusion", "bundled:nothing", FileNotFoundError, r"no bundled model 'bundled:nothing'; there are: "),
    ("stable_diffusion", "./nowhere", FileNotFoundError, r"'./nowhere' does not exist; give a diffusers folder, a \.safetensors file"),
    ("stable_diffusion", "nowhere.safetensors", FileNotFoundError, "does not exist"),
    ("stable_diffusion", "model.ckpt", ValueError, r"\.ckpt files are pickles and are not opened; convert to \.safetensors first"),
    ("stable_diffusion", "owner/nowhere", FileNotFoundError, "'owner/nowhere' could not be loaded.*a hub id that can"),
])  # fmt: skip
def test_a_source_that_is_not_there_is_named(
    name: str, source: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=message):
        load_backbone(name, source)


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not be loaded.*model_index.json"):
        load_backbone("stable_diffusion", str(tmp_path))


def test_pickled_weights_are_not_opened(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_pipeline, folder)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"could not be loaded.*safetensors"):
        load_backbone("stable_diffusion", str(folder))


def test_an_adapter_or_denoiser_of_another_model_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    source = str(tiny_pipeline)
    with pytest.raises(FileNotFoundError, match=r"'\./nowhere' does not exist"):
        load_backbone("stable_diffusion", source, adapter="./nowhere")
    with pytest.raises(FileNotFoundError, match=r"denoiser '.*' holds no unet/config.json; give a folder that full fine-tuning wrote"):
        load_backbone("stable_diffusion", source, denoiser=tmp_path)
    with pytest.raises(ValueError, match=r"adapter '.*' cannot be loaded onto"):
        load_backbone("stable_diffusion", source, adapter=tmp_path)
    trained(tiny_pipeline, Lora(rank=2)).save_trained(tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    state = load_file(path)
    save_file({name.replace("unet.", "transformer."): value for name, value in state.items()}, path)
    with pytest.raises(ValueError, match=r"adapter '.*' (has no weights for the denoiser of|cannot be loaded onto)"):
        load_backbone("stable_diffusion", source, adapter=tmp_path)
    save_file({name: value.repeat(1, 2) if "lora_A" in name or ".down." in name else value for name, value in state.items()}, path)
    with pytest.raises(ValueError, match=r"adapter '.*' cannot be loaded onto"):
        load_backbone("stable_diffusion", source, adapter=tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"adapter '.*' cannot be loaded onto"):
        load_backbone("stable_diffusion", source, adapter=tmp_path)
    shutil.copytree(tiny_pipeline / "unet", tmp_path / "unet")
    config = tmp_path / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 64}))
    with pytest.raises((ValueError, RuntimeError), match=r"cross_attention_dim|size mismatch|shape"):
        load_backbone("stable_diffusion", source, denoiser=tmp_path)


def test_the_bundled_kind_is_set_to_levels_whose_last_is_noise_alone(tiny_pipeline: Path, tmp_path: Path) -> None:
    """PNDM's class has no such levels, and DDIM's stands in its place."""
    folder = tmp_path / "pndm"
    shutil.copytree(tiny_pipeline, folder)
    PNDMScheduler(skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]}))
    settings: dict[str, Any] = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    found: Any = load_backbone("stable_diffusion", str(folder), **settings)
    assert found.process.alphas_cumprod[-1] == 0 and found.pipeline.scheduler.alphas_cumprod[-1] == 0
    assert found.process.prediction_type == found.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert len(found.sample(["a red circle"], [1], steps=2, guidance=3.0)) == 1
    only: Any = load_backbone("stable_diffusion", str(folder), prediction_type="v_prediction")
    assert isinstance(only.pipeline.scheduler, PNDMScheduler) and only.process.alphas_cumprod[-1] > 0


def test_another_prediction_type_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(tiny_pipeline, folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ValueError, match="scheduler has prediction_type 'sample'; this family predicts 'epsilon' or 'v_prediction'"):
        load_backbone("stable_diffusion", str(folder))
