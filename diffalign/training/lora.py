"""What of a denoiser is trained: all of it, or low-rank adapters on it (Hu et al. 2021, arXiv:2106.09685), by peft."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain

import torch
from pydantic import Field
from torch import nn

from diffalign.backbones import ATTENTION, OF_OTHER_INPUT
from diffalign.backbones.weights import has_lora, kept_adapters, take_adapters
from diffalign.section import Section
from diffalign.training.reference import POLICY_ADAPTER


class Lora(Section):
    """An adapter's shape. `targets` are endings of module names; None: those of the model's family (see BACKBONES)."""

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, description="scale α/rank of the update; None: α = rank")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    dora: bool = False


def unfreeze(denoiser: nn.Module, unreached: Sequence[str] = ()) -> None:
    """All of a denoiser is trained, but for what no gradient reaches: several processes would wait for that.

    unreached  of the family
    """
    denoiser.requires_grad_(True)
    for name in parts_of(denoiser, unreached):
        denoiser.get_submodule(name).requires_grad_(False)


def parts_of(denoiser: nn.Module, parts: Sequence[str]) -> list[str]:
    """The names of `parts` in a denoiser, -1 being the last block of a list; those that it does not have are left out."""
    lists = {name: len(module) for name, module in denoiser.named_modules() if isinstance(module, nn.ModuleList)}
    named = [
        part.replace(f"{name}.-1.", f"{name}.{count - 1}.") for part in parts for name, count in lists.items() if f"{name}.-1." in part
    ]
    known = dict(denoiser.named_modules())
    return [name for name in named if name in known]


def add_lora(denoiser: nn.Module, lora: Lora, seed: int, targets: Sequence[str] = ATTENTION, unreached: Sequence[str] = ()) -> None:
    """Adds a trainable adapter in float32 and freezes the rest. Its second factor starts at 0: the policy starts as its reference.

    targets    of the family, where `lora` names none
    unreached  of the family: these parts get no adapter, whoever names their layers
    ValueError where no module's name ends in a target, and where the denoiser has such an adapter already. The layers of
    OF_OTHER_INPUT are left out where there are none, beside all of ATTENTION: not every model of a family has another input.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if has_lora(denoiser):
        raise ValueError("the denoiser has an adapter to train already; load it anew, with that one as `adapter`")
    targets = lora.targets or targets
    own = {name: module.get_base_layer() for name, module in denoiser.named_modules() if isinstance(module, BaseTunerLayer)}
    without = tuple(f"{part}." for part in parts_of(denoiser, unreached))
    inside = tuple(f"{name}." for name in own)  # of the model's own adapters
    names = [
        name
        for name, module in denoiser.named_modules()
        if isinstance(own.get(name, module), (nn.Linear, nn.Conv2d)) and not name.startswith(inside) and not f"{name}.".startswith(without)
    ]
    matched = {target: [name for name in names if name == target or name.endswith(f".{target}")] for target in targets}
    unmatched = [target for target in targets if not matched[target]]
    may_lack = set(OF_OTHER_INPUT) if set(ATTENTION) <= set(targets) - set(unmatched) else set()
    if not set(unmatched) <= may_lack:
        endings = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise ValueError(f"LoRA targets {unmatched} match no layer of {type(denoiser).__name__}; its layers end in: {', '.join(endings)}")
    denoiser.requires_grad_(False)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)  # peft's, beside the model's own
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha if lora.alpha is not None else lora.rank, lora_dropout=lora.dropout,
            target_modules=[*chain(*matched.values())], use_dora=lora.dora, init_lora_weights="gaussian",
        )  # fmt: skip
        if hasattr(denoiser, "add_adapter"):
            denoiser.add_adapter(config)  # type: ignore[operator]  # of diffusers' PeftAdapterMixin
        else:
            inject_adapter_in_model(config, denoiser)
    if kept_adapters(denoiser):
        take_adapters(denoiser, POLICY_ADAPTER)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
