"""What every family is asked of its training. `FamilyChecks` asks it too; other test files derive a class `Test…` from this one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.training.lora import Lora, add_lora, unfreeze

PROMPTS = ["a red circle", "two yellow hearts"]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TrainingChecks:
    """The fixtures `folder` and `loaded` are a tiny pipeline of the family, and what `load_backbone` makes of it.

    family           its name
    size, latents    of the tiny pipeline's media, and of one sample's latents
    """

    family: ClassVar[str]
    size: ClassVar[tuple[int, ...]]
    latents: ClassVar[tuple[int, ...]]
    takes_checkpointing: ClassVar[bool] = True

    def embedded(self, loaded: Any, prompts: list[str]) -> dict[str, Tensor]:
        """All that `predict` is conditioned by."""
        return loaded.embed(prompts)

    def given(self, prompts: list[str]) -> dict[str, Any]:
        """What our `sample` takes beside the prompts."""
        return {}

    def test_a_step_down_the_denoising_error_lowers_it(self, loaded: Any) -> None:
        """The prediction has a gradient in every layer that is trained."""
        add_lora(loaded.denoiser, Lora(rank=4), 0, BACKBONES[self.family].lora_targets, BACKBONES[self.family].unreached)
        x0, epsilon, process = normal(2, *self.latents), normal(2, *self.latents, seed=1), loaded.process
        timestep, embeds = process.timestep(torch.tensor([0.3, 0.8]), self.latents[1:]), self.embedded(loaded, PROMPTS)
        noised, target = process.noise(x0, epsilon, timestep), process.target(x0, epsilon, timestep)

        def error() -> Tensor:
            return (loaded.predict(loaded.denoiser, noised, timestep, embeds) - target).square().mean()

        parameters = [each for each in loaded.denoiser.parameters() if each.requires_grad]
        before = error()
        before.backward()
        with torch.no_grad():
            norm = math.sqrt(sum(float(each.grad.square().sum()) for each in parameters if each.grad is not None))
            for each in parameters:
                if each.grad is not None:
                    each -= 1e-3 / norm * each.grad
        fall = float((before - error()).detach())
        assert 0.5e-3 * norm < fall < 1.5e-3 * norm  # as much as the gradient says

    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_every_trained_parameter_has_a_gradient(self, kind: str, folder: Path) -> None:
        """One without would stop several processes: DistributedDataParallel waits for the gradient of each."""
        loaded: Any = load_backbone(self.family, str(folder))
        family = BACKBONES[self.family]
        if kind == "lora":
            add_lora(loaded.denoiser, Lora(rank=2), 0, family.lora_targets, family.unreached)
        else:
            unfreeze(loaded.denoiser, family.unreached)
        loaded.denoiser.train()
        timestep, embeds = loaded.process.timestep(torch.tensor([0.3, 0.8]), self.latents[1:]), self.embedded(loaded, PROMPTS)
        loaded.predict(loaded.denoiser, normal(2, *self.latents), timestep, embeds).square().mean().backward()
        trained = {name: each.grad for name, each in loaded.denoiser.named_parameters() if each.requires_grad}
        assert trained
        assert [name for name, grad in trained.items() if grad is None] == []
        # The first factor's is 0 at the start, of every layer.
        assert [name for name, grad in trained.items() if "lora_A" not in name and not bool(grad.any())] == []

    def test_training_takes_no_encoder_to_its_device(self, folder: Path) -> None:
        """The meta device stands for it, from which nothing comes back."""
        there: Any = load_backbone(self.family, str(folder), device="meta", offload_encoders=True)
        for part, module in there.pipeline.components.items():
            if isinstance(module, nn.Module):
                where = "meta" if module is there.denoiser or part in there.BESIDE else "cpu"
                assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {where}, part

    def test_half_precision_and_checkpointing_train_the_same(self, loaded: Any, folder: Path) -> None:
        """As the configs have it: an adapter in float32 on a base in bfloat16, under autocast."""
        x, timestep, part = normal(2, *self.latents), torch.tensor([300.0, 700.0]), BACKBONES[self.family]
        half = load_backbone(self.family, str(folder), dtype=torch.bfloat16)
        add_lora(half.denoiser, Lora(rank=2), 0, part.lora_targets, part.unreached)
        if self.takes_checkpointing:
            half.denoiser.enable_gradient_checkpointing()
        half.denoiser.train()
        with torch.autocast("cpu", torch.bfloat16):
            embeds = {name: value.float() for name, value in self.embedded(half, PROMPTS).items()}
            found = half.predict(half.denoiser, x, timestep, embeds)
        found.float().square().mean().backward()
        with torch.no_grad():
            expected = loaded.predict(loaded.denoiser, x, timestep, self.embedded(loaded, PROMPTS))
        assert float((found.float() - expected).norm().detach()) < 0.05 * float(expected.norm())
        assert any(each.grad is not None and bool(each.grad.abs().max() > 0) for each in half.denoiser.parameters())
        assert len(half.sample(PROMPTS[:1], [1], steps=2, guidance=3.0, size=self.size, **self.given(PROMPTS[:1]))) == 1

    def test_checkpointing_changes_no_gradient(self, loaded: Any) -> None:
        """In float32, of an adapter that does something; what backward runs again shows as more calls of its layers."""
        if not self.takes_checkpointing:
            return
        add_lora(loaded.denoiser, Lora(rank=2), 0, BACKBONES[self.family].lora_targets, BACKBONES[self.family].unreached)
        own = {name: each for name, each in loaded.denoiser.named_parameters() if each.requires_grad}
        calls: list[str] = []
        for name, module in loaded.denoiser.named_modules():
            if ".lora_A." in name:
                module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        with torch.no_grad():
            for index, each in enumerate(own.values()):
                each.add_(0.1 * normal(*each.shape, seed=index))
        x, timestep, embeds = normal(2, *self.latents), torch.tensor([300.0, 700.0]), self.embedded(loaded, PROMPTS)
        found, counts = [], []
        for is_kept in (True, False):
            if not is_kept:
                loaded.denoiser.enable_gradient_checkpointing()
            loaded.denoiser.train()
            loaded.denoiser.zero_grad()
            calls.clear()
            loaded.predict(loaded.denoiser, x, timestep, embeds).square().mean().backward()
            found.append({name: each.grad for name, each in own.items() if each.grad is not None})
            counts.append(len(calls))
        kept, again = found
        assert kept.keys() == again.keys() and counts[1] > counts[0] and any(bool(value.any()) for value in kept.values())
        for name, value in kept.items():
            assert float((again[name] - value).norm()) <= 1e-5 * float(value.norm()), name
