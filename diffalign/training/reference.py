"""The frozen reference that a policy is measured against."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import nn


class Reference(Protocol):
    """`with reference.use() as denoiser:` gives the frozen denoiser, in evaluation mode and without gradient."""

    def use(self) -> AbstractContextManager[nn.Module]: ...


class AdapterOff:
    """The base under a LoRA adapter: the policy with its adapter switched off, so no second copy is held."""

    def __init__(self, denoiser: nn.Module):
        self.denoiser = denoiser
        if not any("lora_" in name for name, _ in denoiser.named_parameters()):
            raise ValueError("the denoiser has no LoRA adapter to switch off; add one, or use a frozen copy as the reference")

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        was_training = self.denoiser.training
        self.denoiser.eval()
        self.denoiser.disable_adapters()  # type: ignore[operator]  # of diffusers' PeftAdapterMixin; nn.Module is all the type says
        try:
            with torch.no_grad():
                yield self.denoiser
        finally:
            self.denoiser.enable_adapters()  # type: ignore[operator]  # as above
            self.denoiser.train(was_training)


class FrozenCopy:
    """A copy of the denoiser as it is now, for full fine-tuning; `dtype` may be lower than the policy's to save memory."""

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype | None = None):
        self.denoiser = copy.deepcopy(denoiser).requires_grad_(False).eval()
        if dtype is not None:
            self.denoiser.to(dtype)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        with torch.no_grad():
            yield self.denoiser
