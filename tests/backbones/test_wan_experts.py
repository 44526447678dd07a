"""Wan 2.2's two experts against diffusers itself: timesteps, the denoiser's calls, samples, and what training either leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from tiny_timed import TEXTS, save_tiny_wan
from torch import Tensor

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.backbones.density import DENSITIES
from diffalign.backbones.process import Flow
from diffalign.backbones.wan import LowNoiseWan, Wan
from diffalign.training.lora import Lora, add_lora
from pipelines.config import Model
from pipelines.model import load_model

PROMPTS: list[str] = list(TEXTS[:2])
BOUNDARY = 0.875
EXPERT_OF = {"high": "transformer", "low": "transformer_2"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Wan with a second transformer of other weights."""
    place = tmp_path_factory.mktemp("wan")
    save_tiny_wan(place)
    pipeline = WanPipeline.from_pretrained(place / "pipeline")
    second = copy.deepcopy(pipeline.transformer)
    with torch.no_grad():
        for index, parameter in enumerate(second.parameters()):
            parameter.add_(0.1 * normal(*parameter.shape, seed=index))
    pipeline.register_modules(transformer_2=second)
    pipeline.register_to_config(boundary_ratio=BOUNDARY)
    pipeline.save_pretrained(place / "two")
    return place / "two"


def load(folder: Path, expert: str, **options: Any) -> Wan:
    found = load_backbone("wan", str(folder), expert=expert, **options)
    assert isinstance(found, Wan)
    return found


def load_timed(folder: Path, timesteps: str, expert: str) -> Wan:
    return (LowNoiseWan if expert == "low" else Wan)(plain(folder), "x", timesteps=timesteps)


def plain(folder: Path, **parts: Any) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def frames(backbone: Wan) -> np.ndarray:
    return np.stack([video.frames() for video in backbone.sample(PROMPTS, [1, 2], steps=6, guidance=3.0, size=(9, 16, 16))]).astype(int)


def plain_frames(pipeline: WanPipeline) -> np.ndarray:
    made = pipeline(
        PROMPTS, negative_prompt=["", ""], num_frames=9, height=16, width=16, num_inference_steps=6, guidance_scale=3.0,
        max_sequence_length=12, generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], output_type="np",
    )  # fmt: skip
    return np.rint(np.stack(made.frames) * 255).astype(int)


@pytest.mark.parametrize("timesteps, below", [("uniform", 0.7), ("logit_normal", 0.8015854)])
def test_each_is_trained_on_its_own_timesteps(folder: Path, timesteps: str, below: float) -> None:
    """By hand: at shift 3, 1000·3u/(1 + 2u) is 875 at u = 0.7; either part is drawn as the whole is, no timestep twice.

    below  the share of all timesteps below 875: u's own, or Φ(ln 0.7/0.3)
    """
    high, low = (load_timed(folder, timesteps, expert).process for expert in ("high", "low"))
    number = torch.linspace(0, 1, 1001)[:-1]
    assert float(high.timestep(torch.zeros(1))) == pytest.approx(875, abs=1e-3) and float(high.timestep(number).min()) >= 874.999
    assert 874.9 < float(low.timestep(torch.tensor([1 - 2**-24]))) < 875
    whole = Flow(3.0, DENSITIES[timesteps])
    assert torch.allclose(low.timestep(number), whole.timestep(below * number), rtol=1e-5)
    assert torch.allclose(high.timestep(number), whole.timestep(below + (1 - below) * number), rtol=1e-5)


@pytest.mark.parametrize("expert", EXPERT_OF)
def test_every_step_of_the_pipeline_is_predicted_by_its_expert(folder: Path, expert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in one batch of both sides of the boundary."""
    loaded, calls, pipeline = load(folder, expert), [], plain(folder)
    for part in EXPERT_OF.values():
        module = getattr(pipeline, part)

        def spy(*arguments: Any, part: str = part, forward: Any = module.forward, **named: Any) -> Any:
            output = forward(*arguments, **named)
            calls.append((part, named["hidden_states"].clone(), named["timestep"].clone(), output[0].clone()))
            return output

        monkeypatch.setattr(module, "forward", spy)
    plain_frames(pipeline)
    conditional = calls[::2]
    assert [part for part, *_ in conditional].count("transformer_2") in range(1, 6)
    samples, timesteps, outputs = (torch.cat([call[place] for call in conditional]) for place in (1, 2, 3))
    embeds = {name: value.repeat(len(conditional), *[1] * (value.ndim - 1)) for name, value in loaded.embed(PROMPTS).items()}
    nothing: Any = lambda noised, *_, **__: (torch.zeros_like(noised),)  # noqa: E731
    with torch.no_grad():
        assert torch.allclose(loaded.predict(loaded.denoiser, samples, timesteps, embeds), outputs, atol=1e-5)
        other = loaded.predict(nothing, samples, timesteps, embeds)
    own = torch.tensor([part == EXPERT_OF[expert] for part, *_ in conditional]).repeat_interleave(2)
    assert not other[own].any() and torch.allclose(other[~own], outputs[~own], atol=1e-5)


@pytest.mark.parametrize("expert", EXPERT_OF)
def test_what_training_leaves_loads_in_plain_diffusers(folder: Path, expert: str, tmp_path: Path) -> None:
    """A LoRA of either expert, and its full weights; the other one is as it was."""
    base, part = plain_frames(plain(folder)), EXPERT_OF[expert]
    adapted, whole = load(folder, expert), load(folder, expert)
    assert np.array_equal(frames(adapted), base)
    add_lora(adapted.denoiser, Lora(rank=2, alpha=4), 0, BACKBONES["wan"].lora_targets)
    with torch.no_grad():
        for backbone in (adapted, whole):
            for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
                if backbone is whole or "lora_" in name:
                    parameter.add_(0.1 * normal(*parameter.shape, seed=index))
    ours = frames(adapted)
    assert np.abs(ours - base).max() > 4
    adapted.save_trained(tmp_path / "lora")
    pipeline, where = plain(folder), {"load_into_transformer_2": True} if expert == "low" else {}
    pipeline.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors", **where)
    assert np.abs(ours - plain_frames(pipeline)).max() <= 1
    assert np.abs(ours - frames(load(folder, expert, adapter=tmp_path / "lora"))).max() <= 1
    whole.save_trained(tmp_path / "full")
    trained = WanTransformer3DModel.from_pretrained(tmp_path / "full" / part)
    assert np.array_equal(frames(whole), plain_frames(plain(folder, **{part: trained})))
    assert np.array_equal(frames(whole), frames(load(folder, expert, denoiser=tmp_path / "full")))


@pytest.mark.parametrize("expert", EXPERT_OF)
def test_the_other_expert_waits_until_a_path_comes_to_it(folder: Path, expert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, moves = load(folder, expert), []
    monkeypatch.setattr(loaded.other, "to", moves.append)
    loaded.offload_encoders()
    own, both = (torch.tensor(each) for each in ([900.0, 950.0] if expert == "high" else [100.0, 500.0], [100.0, 900.0]))
    for timestep in (own, both):
        with torch.no_grad():
            loaded.predict(loaded.denoiser, normal(2, 8, 2, 4, 4)[:, : loaded.denoiser.config.in_channels], timestep, loaded.embed(PROMPTS))
    assert moves == ["cpu", torch.device("cpu")]


def test_an_expert_is_a_setting(folder: Path) -> None:
    loaded = load_model(Model(backbone="wan", source=str(folder), device="cpu", settings={"expert": "low"}))
    assert torch.equal(loaded.denoiser.get_submodule("proj_out").weight, plain(folder).transformer_2.proj_out.weight)
    with pytest.raises(ValueError, match="expert is 'middle'; choose one of: high, low"):
        load(folder, "middle")
    with pytest.raises(ValueError, match=r"backbone 'wan': expert is 1; give a name \(default: 'high'\)"):
        load_backbone("wan", str(folder), expert=1)
    with pytest.raises(ValueError, match=r"has no transformer_2 to train; .* remove what asks for it from model\.settings"):
        load(folder.parent / "pipeline", "low")


def test_half_of_a_pair_is_refused(folder: Path) -> None:
    pipeline = plain(folder)
    pipeline.register_to_config(boundary_ratio=None)
    with pytest.raises(ValueError, match="boundary_ratio None and a transformer_2; two experts need both"):
        Wan(pipeline, "x")
