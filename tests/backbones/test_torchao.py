"""torchao's quantised weights under a LoRA, on a CPU: they are small, near the whole ones, frozen, named, and the LoRA leaves as any.

Run where torchao is installed, as .ci/run does after the suite. Its road through a training: tests/pipelines/test_train.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from tiny_pipelines import save_sd3
from torch import Tensor

from diffalign.backbones import Backbone, load_backbone
from diffalign.backbones.quantised import WEIGHT_ONLY
from diffalign.training.lora import Lora, add_lora

pytest.importorskip("torchao")
KINDS = tuple(WEIGHT_ONLY)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("model") / "sd3")


def predicted(backbone: Backbone) -> Tensor:
    embeds = backbone.embed(["a red circle", "two stars"])
    return backbone.predict(backbone.denoiser, normal(2, 4, 8, 8), torch.tensor([30.0, 700.0]), embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_near_the_whole_ones_and_have_a_name_of_their_own(kind: str, sd3: Path) -> None:
    whole, first, second = (load_backbone("sd3", str(sd3), quantise=each) for each in (None, kind, kind))
    weight = first.denoiser.get_parameter("transformer_blocks.0.attn.to_q.weight")
    parts, _ = weight.__tensor_flatten__()
    assert getattr(weight, parts[0]).element_size() == 1
    with torch.no_grad():
        found, expected = predicted(first), predicted(whole)
    assert 0 < float((found - expected).std()) < (0.02 if kind.startswith("int8") else 0.1) * float(expected.std())
    assert first.identity() == second.identity() != whole.identity()
    weight.qdata.view(torch.uint8)[0, 0] ^= 1
    assert first.identity() != second.identity()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_is_trained_on_them_and_saved_as_on_whole_ones(kind: str, sd3: Path, tmp_path: Path) -> None:
    """Nothing but the LoRA has a gradient; plain diffusers loads it onto the whole weights, where it does nearly the same."""
    backbone = load_backbone("sd3", str(sd3), quantise=kind)
    base, name = predicted(backbone).detach(), backbone.identity()
    add_lora(backbone.denoiser, Lora(rank=2, alpha=8), 0)
    parameters = [parameter for parameter in backbone.denoiser.parameters() if parameter.requires_grad]
    optimiser, losses = torch.optim.Adam(parameters, lr=0.05), []
    for _ in range(8):
        loss = predicted(backbone).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and backbone.identity() == name
    backbone.save_trained(tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(sd3)
    assert isinstance(pipeline, StableDiffusion3Pipeline)
    pipeline.load_lora_weights(tmp_path)
    whole = load_backbone("sd3", str(sd3))
    moved = predicted(backbone).detach() - base
    again = whole.predict(pipeline.transformer, normal(2, 4, 8, 8), torch.tensor([30.0, 700.0]), whole.embed(["a red circle", "two stars"]))
    assert float((again - predicted(whole) - moved).detach().std()) < 0.2 * float(moved.std())
