"""Stable Diffusion XL against diffusers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from family_checks import PROMPTS, FamilyChecks, normal, spied
from tiny_pipelines import save_sdxl
from tiny_stable_diffusion import save_original_sdxl
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.backbones.sdxl import Sdxl

# diffusers hands tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class TestSdxl(FamilyChecks):
    family, config = "sdxl", "sdxl_diffusion_dpo"
    small = ("train.reference_dtype=float32",)

    @staticmethod
    def save(folder: Path) -> Path:
        return save_sdxl(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds, "pooled_embeds": pooled}

    def test_one_file_of_weights_is_its_folder(self, tmp_path: Path) -> None:
        """In the layout in which models are shared; beside it the configs alone, so nothing else can be read."""
        folder = save_sdxl(tmp_path / "whole", layers=2)
        shutil.copytree(folder, tmp_path / "single", ignore=shutil.ignore_patterns("*.safetensors"))
        file = save_original_sdxl(folder, tmp_path / "single/model.safetensors")
        whole, single = (load_backbone("sdxl", str(source)) for source in (folder, file))
        assert single.identity() == whole.identity() and single.encoder_identity() == whole.encoder_identity()
        assert (self.our_pixels(single, [1, 2]) == self.our_pixels(whole, [1, 2])).all()

    def test_the_empty_prompt_is_what_guidance_subtracts(self, loaded: Any, folder: Path) -> None:
        """Zeros, or the encoding of nothing, as the pipeline's config says; a dropped prompt is the same."""
        for is_zero in (True, False):
            pipeline = self.plain(folder, force_zeros_for_empty_prompt=is_zero)
            loaded.pipeline.register_to_config(force_zeros_for_empty_prompt=is_zero)
            _, negative, _, pooled = pipeline.encode_prompt(PROMPTS[:1], do_classifier_free_guidance=True)
            found = loaded.embed(["", PROMPTS[0]])
            assert torch.allclose(found["prompt_embeds"][:1], negative, atol=1e-6)
            assert torch.allclose(found["pooled_embeds"][:1], pooled, atol=1e-6)
            assert (float(found["prompt_embeds"][0].abs().max()) == 0) is is_zero and found["prompt_embeds"][1].std() > 0
            assert loaded.guided(3.0, [""]) == {"guidance_scale": 3.0, "negative_prompt": None if is_zero else [""]}
        loaded.pipeline.register_to_config(force_zeros_for_empty_prompt=True)
        assert loaded.guided(3.0, ["blurry"])["negative_prompt"] == ["blurry"]

    def test_a_picture_counts_as_one_of_its_own_size(self, loaded: Any) -> None:
        """Original size, corner of the crop, target size: as numbers, for latents that are 8 by 12."""
        given: list[Tensor] = []
        handle = loaded.denoiser.register_forward_pre_hook(
            lambda module, inputs, named: given.append(named["added_cond_kwargs"]["time_ids"]), with_kwargs=True
        )
        with torch.no_grad():
            loaded.predict(loaded.denoiser, normal(2, 4, 8, 12), torch.tensor([5, 6]), loaded.embed(PROMPTS))
        handle.remove()
        assert given[0].tolist() == [[16, 24, 0, 0, 16, 24]] * 2


def test_v_prediction_and_statistics_of_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with both: its target is v, and a channel's latents are centred by its own mean."""
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [0.5, 2.0, 1.5, 0.8]}
    folder, checks = save_sdxl(tmp_path, prediction="v_prediction", **statistics), TestSdxl()
    loaded = load_backbone("sdxl", str(folder))
    checks.test_noise_and_target_are_the_scheduler_s(loaded)
    checks.test_latents_are_scaled_as_the_pipeline_unscales_them(loaded, folder)
    checks.test_predict_is_what_the_pipeline_s_steps_take(loaded, folder, monkeypatch)
    media = normal(2, 3, 16, 24).clamp(-1, 1)
    with torch.no_grad():
        posterior = checks.plain(folder).vae.encode(media).latent_dist.mean
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in statistics.values())
    assert torch.allclose(loaded.encode(media, seeds=None), (posterior - mean) * 0.7 / std, atol=1e-5)


def test_a_model_whose_config_says_otherwise_is_set_to_how_it_was_trained(tmp_path: Path) -> None:
    """As one whose config says v and levels to noise alone: in training, in sampling, and in what is saved."""
    says = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder, checks = save_sdxl(tmp_path / "epsilon"), TestSdxl()
    shutil.copytree(folder, tmp_path / "v")
    path = tmp_path / "v/scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | says))
    own, right, found = (load_backbone("sdxl", str(each), **more) for each, more in ((folder, {}), (tmp_path / "v", {}), (folder, says)))
    assert own.process.prediction_type == "epsilon" and found.process.prediction_type == right.process.prediction_type == "v_prediction"
    assert torch.equal(found.process.alphas_cumprod, right.process.alphas_cumprod) and found.process.alphas_cumprod[-1] == 0
    pixels = checks.our_pixels(found, [1, 2])
    assert (pixels == checks.our_pixels(right, [1, 2])).all() and (pixels != checks.our_pixels(own, [1, 2])).any()
    found.save(tmp_path / "saved")
    assert (checks.our_pixels(load_backbone("sdxl", str(tmp_path / "saved")), [1, 2]) == pixels).all()
    found.save_trained(tmp_path / "trained")
    parts = {"unet": tmp_path / "trained/unet", "scheduler": tmp_path / "trained/scheduler"}
    read = {name: type(getattr(found.pipeline, name)).from_pretrained(place) for name, place in parts.items()}
    assert (checks.plain_pixels(checks.plain(folder, **read), [1, 2]) == pixels).all()
    own.save_trained(tmp_path / "as it is")
    assert not (tmp_path / "as it is/scheduler").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "v"}, r"prediction_type is 'v'; choose one of: epsilon, v_prediction, or leave it out"),
        ({"rescale_betas_zero_snr": True}, r"rescale_betas_zero_snr with prediction_type 'epsilon': .*; set prediction_type: v_prediction"),
        ({"prediction_type": 1}, r"prediction_type is 1; give a name"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone("sdxl", str(save_sdxl(tmp_path)), **settings)


@pytest.mark.parametrize(
    "scheduler",
    [EDMDPMSolverMultistepScheduler(), EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler()],
    ids=lambda each: type(each).__name__,
)
def test_noise_levels_are_not_made_up(scheduler: Any, tmp_path: Path) -> None:
    """Of Playground v2.5 and of flows, which would else train as ε with DDPM's default levels."""
    folder = save_sdxl(tmp_path)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", type(scheduler).__name__]}))
    with pytest.raises(ValueError, match=rf"the model's {type(scheduler).__name__} has noise levels of EDM or of a flow; .*DDIMScheduler"):
        load_backbone("sdxl", str(folder))


@pytest.mark.parametrize("force_upcast", [True, False])
def test_an_autoencoder_that_overflows_in_float16_is_run_in_float32(force_upcast: bool, tmp_path: Path) -> None:
    folder = save_sdxl(tmp_path, force_upcast=force_upcast)
    loaded = load_backbone("sdxl", str(folder), dtype=torch.float16)
    seen: list[torch.dtype] = []
    for part in (loaded.pipeline.vae.encoder, loaded.pipeline.vae.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    latents = loaded.encode(normal(1, 3, 16, 24).clamp(-1, 1), seeds=[1])
    assert loaded.decode(latents).dtype == latents.dtype
    assert seen == [torch.float32 if force_upcast else torch.float16] * 2 and latents.dtype == seen[0]
    assert loaded.pipeline.vae.dtype == torch.float16


def test_a_refiner_and_a_distilled_model_are_refused(tmp_path: Path) -> None:
    folder = save_sdxl(tmp_path / "base")
    refiner = shutil.copytree(folder, tmp_path / "refiner")
    index = json.loads((refiner / "model_index.json").read_text())
    (refiner / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None], "tokenizer": [None, None]}))
    with pytest.raises(ValueError, match=r"refiner is a refiner: it has one text encoder and an aesthetic score.*give the base model"):
        load_backbone("sdxl", str(refiner))
    distilled = TestSdxl().plain(folder)
    distilled.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ValueError, match=r"x has its guidance as conditioning \(a distilled model\)"):
        Sdxl(distilled, "x")


def test_spied_steps_are_the_denoiser_s_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Euler's x_t is divided by √(σ² + 1) before the denoiser: the check of `predict` must not see it undivided."""
    pipeline = TestSdxl().plain(save_sdxl(tmp_path))
    calls, seen = spied(pipeline, monkeypatch), []
    pipeline.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    TestSdxl().made(pipeline, [1, 2], **TestSdxl.unguided)
    assert all(torch.equal(call[0], sample) for call, sample in zip(calls, seen, strict=True))
