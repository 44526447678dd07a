"""What a policy is measured against: the frozen base, or weights that move with the policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import nn

from diffalign.backbones.weights import has_lora, kept_adapters, take_adapters
from diffalign.section import Section
from diffalign.training.settings import Curriculum, Settings


class ReferenceSettings(Section):
    """Which weights drift is measured from."""

    name: Literal["initial", "ema", "on_policy", "previous_stage", "adapter"] = Field(
        default="initial",
        description="the base, frozen; a moving average of the policy; the policy as it is, without gradient; "
        "the policy as it was when the stage of `order` began; or the base with another adapter, frozen",
    )
    decay: float | None = Field(default=None, ge=0, le=1, description="of ema, for each optimiser step; 1: initial, 0: on_policy")
    adapter: str | None = Field(
        default=None, exclude_if=lambda adapter: adapter is None, description="of adapter: a LoRA's folder or hub id, as model.adapter"
    )

    @model_validator(mode="after")
    def _adapter_is_of_adapter(self) -> ReferenceSettings:
        if (self.name == "adapter") != (self.adapter is not None):
            raise ValueError(
                f"reference {self.name!r} with adapter {self.adapter!r}; write {{name: adapter, adapter: FOLDER}} for the base with that "
                f"adapter, or neither"
            )
        return self

    @model_validator(mode="after")
    def _decay_is_of_ema(self) -> ReferenceSettings:
        if self.name == "ema" and self.decay is None:
            raise ValueError("reference 'ema' needs a decay; write {name: ema, decay: 0.99}")
        if self.name != "ema" and self.decay is not None:
            raise ValueError(f"reference {self.name!r} takes no decay; remove it, or write {{name: ema, decay: {self.decay:g}}}")
        return self


class Reference(Protocol):
    """`with reference.use() as denoiser:` gives the reference's denoiser, in evaluation mode and without gradient."""

    def use(self) -> AbstractContextManager[nn.Module]: ...


@contextmanager
def _without_gradient(denoiser: nn.Module) -> Iterator[nn.Module]:
    """The denoiser in evaluation mode; afterwards in the mode that it was in."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad():
            yield denoiser
    finally:
        denoiser.train(was_training)


REFERENCE_ADAPTER, POLICY_ADAPTER = "reference", "default"  # as peft names them; add_lora makes the policy's


def _switch_policy(denoiser: nn.Module, *, on: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if kept_adapters(denoiser):  # which stay
        take_adapters(denoiser, *[POLICY_ADAPTER] * on)
        return
    for module in denoiser.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(on)


class AdapterOff:
    """The base under a LoRA adapter: the policy with its adapter switched off, so no second copy is held."""

    def __init__(self, denoiser: nn.Module):
        self.denoiser = denoiser
        if not has_lora(denoiser):
            raise ValueError("the denoiser has no LoRA adapter to switch off; add one, or use a frozen copy as the reference")

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        with _without_gradient(self.denoiser):
            _switch_policy(self.denoiser, on=False)
            try:
                yield self.denoiser
            finally:
                _switch_policy(self.denoiser, on=True)


class OtherAdapter:
    """The base with another adapter: the policy's is switched off meanwhile, so no second copy of the base is held.

    Layers that this adapter has none for are the base's there. ValueError where there is none of the name REFERENCE_ADAPTER.
    """

    def __init__(self, denoiser: nn.Module):
        self.denoiser = denoiser
        if not any(f".{REFERENCE_ADAPTER}." in name for name, _ in denoiser.named_parameters()):
            raise ValueError("the denoiser has no second adapter beside the policy's; load one by the backbone's keep_reference")
        take_adapters(denoiser, POLICY_ADAPTER)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        with _without_gradient(self.denoiser):
            take_adapters(self.denoiser, REFERENCE_ADAPTER)
            try:
                yield self.denoiser
            finally:
                take_adapters(self.denoiser, POLICY_ADAPTER)


class FrozenCopy:
    """A copy of the denoiser as it is now, for full fine-tuning; `dtype` may be lower than the policy's to save memory.

    device  of the copy; None: the denoiser's
    """

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None):
        self.denoiser = copy.deepcopy(denoiser).requires_grad_(False).eval().to(device=device)
        if dtype is not None:
            self.denoiser.to(dtype)

    def use(self) -> AbstractContextManager[nn.Module]:
        return _without_gradient(self.denoiser)


class RestingCopy:
    """A frozen copy that is in the machine's memory between its uses: while the policy has its activations, the device has them alone.

    A use brings the weights to the policy's device when the copy first runs, so not at all where all predictions are remembered, and drops
    them there afterwards: they never change, and nothing is copied back. For CUDA they rest in pinned memory, of which copies are fast.
    """

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None):
        self.device = device or next(denoiser.parameters()).device
        self.denoiser = FrozenCopy(denoiser, dtype).denoiser.to("cpu")
        self.tensors = [*self.denoiser.parameters(), *self.denoiser.buffers()]
        self.resting = [tensor.data.pin_memory() if self.device.type == "cuda" else tensor.data for tensor in self.tensors]
        self.denoiser.register_forward_pre_hook(lambda *_: self._fetch())
        self._rest()

    def _fetch(self) -> None:
        if not self.is_there:
            for tensor, own in zip(self.tensors, self.resting):
                tensor.data = own.to(self.device, non_blocking=True, copy=True)
        self.is_there = True

    def _rest(self) -> None:
        for tensor, own in zip(self.tensors, self.resting):
            tensor.data = own
        self.is_there = False

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        with _without_gradient(self.denoiser):
            try:
                yield self.denoiser
            finally:
                self._rest()


def frozen_copy(denoiser: nn.Module, dtype: torch.dtype | None = None, *, rests_on_cpu: bool = False,
                device: torch.device | None = None) -> Reference:  # fmt: skip
    """A copy of the denoiser as it is now, on its device or another one, or in the machine's memory between its uses."""
    return RestingCopy(denoiser, dtype, device) if rests_on_cpu else FrozenCopy(denoiser, dtype, device)


class LateCopy:
    """A frozen copy that is made when it first runs: not at all where all predictions are remembered, and then none is in memory.

    make  the copy, of the base: by then the policy is no longer what it was
    """

    def __init__(self, make: Callable[[], Reference]):
        self.make = cache(make)

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        with torch.no_grad(), ExitStack() as uses:
            yield _Late(lambda: uses.enter_context(self.make().use()))


class _Late(nn.Module):
    """Stands for a denoiser whose use begins with its first forward."""

    def __init__(self, begin: Callable[[], nn.Module]):
        super().__init__()
        self.denoiser = cache(begin)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.denoiser()(*inputs, **named)


class OnPolicy:
    """The policy itself: its drift is 0, and the gradient of its drift that of its error."""

    def __init__(self, denoiser: nn.Module):
        self.denoiser = denoiser

    def use(self) -> AbstractContextManager[nn.Module]:
        return _without_gradient(self.denoiser)


class Moving:
    """Weights that follow the policy's, and take their place while the reference is used: a second copy of what is trained alone.

    weights      by parameter of the denoiser; at first the policy's
    share(step)  of the way to the policy that they go after so many updates: 0 to stay, 1 to become the policy
    """

    def __init__(self, denoiser: nn.Module, share: Callable[[int], float]):
        self.denoiser, self.share = denoiser, share
        self.policy = {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.policy.items()}

    @contextmanager
    def use(self) -> Iterator[nn.Module]:
        """Not between a forward of the policy and its backward, which would read these weights."""
        with _without_gradient(self.denoiser):
            self._exchange()
            try:
                yield self.denoiser
            finally:
                self._exchange()

    def _exchange(self) -> None:
        for name, own in self.weights.items():
            parameter = self.policy[name]
            parameter.data, own.data = own.data, parameter.data
        torch.clear_autocast_cache()  # it holds rounded weights by parameter, whatever the parameter has become

    @torch.no_grad()
    def follow(self, step: int) -> None:
        share = self.share(step)
        for name, own in self.weights.items():
            own.lerp_(self.policy[name], share)


def build_reference(denoiser: nn.Module, kind: ReferenceSettings, settings: Settings, dtype: torch.dtype | None = None, *,
                    rests_on_cpu: bool = False) -> Reference:  # fmt: skip
    """The reference of a run that begins; what is trained of the denoiser, an adapter or all, has requires_grad by now.

    ADPO's anchors: Zixian 2025, arXiv:2510.18913. previous_stage: Curry-DPO, Pattnaik et al. 2024, arXiv:2403.07230.
    settings   of the run, for when its stages begin; dtype, rests_on_cpu  of a frozen copy
    """
    match kind:
        case ReferenceSettings(name="on_policy"):
            return OnPolicy(denoiser)
        case ReferenceSettings(name="ema", decay=float(decay)):
            return Moving(denoiser, lambda step: 1 - decay)
        case ReferenceSettings(name="previous_stage"):
            order = settings.order
            begins = {order.first_step(stage, settings.steps) for stage in range(order.stages)} if isinstance(order, Curriculum) else ()
            return Moving(denoiser, lambda step: float(step in begins))
        case ReferenceSettings(name="adapter"):
            return OtherAdapter(denoiser)
    return AdapterOff(denoiser) if has_lora(denoiser) else frozen_copy(denoiser, dtype, rests_on_cpu=rests_on_cpu)
