"""A denoiser whose weights are quantised as they are read, to train a LoRA on, through diffusers' own configurations.

bitsandbytes, on a GPU, int8: LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339; nf4: QLoRA, Dettmers et al. 2023, arXiv:2305.14314.
torchao, on any device, int8_weight_only and float8_weight_only: each row of a linear layer's weights with one scale (torchao's
Int8WeightOnlyConfig and Float8WeightOnlyConfig, https://github.com/pytorch/ao).
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch

QUANTISATIONS: dict[str, dict[str, Any]] = {  # by bitsandbytes
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
WEIGHT_ONLY = {"int8_weight_only": "Int8WeightOnlyConfig", "float8_weight_only": "Float8WeightOnlyConfig"}  # by torchao, its names


def check_quantisable(kind: str, source: str, device: str | torch.device) -> None:
    """Before anything is read. ValueError for an unknown kind, a CPU where a GPU is needed, and a source that is one file; ImportError
    names the extra that is missing.
    """
    if kind not in QUANTISATIONS and kind not in WEIGHT_ONLY:
        raise ValueError(f"unknown quantise {kind!r}; choose one of: {', '.join((*QUANTISATIONS, *WEIGHT_ONLY))}")
    if source.endswith(".safetensors"):
        raise ValueError(
            f"quantise {kind!r} is done while a diffusers folder or hub id is read, and source is {source!r}; give one of those"
        )
    library = "torchao" if kind in WEIGHT_ONLY else "bitsandbytes"
    if find_spec(library) is None:
        raise ImportError(f"quantise {kind!r} needs {library}; install it with: pip install 'diffalign[{library}]'")
    if kind in QUANTISATIONS and torch.device(device).type == "cpu":
        raise ValueError(
            f"quantise {kind!r} needs a GPU, and the device is 'cpu'; set model.device=cuda, or model.quantise=int8_weight_only, "
            f"which runs anywhere"
        )


def quantisation(kind: str | None, dtype: torch.dtype) -> Any:
    """diffusers' configuration for a model's `from_pretrained`, or None; dtype  what nf4 weights are computed with."""
    if kind is None:
        return None
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if kind in WEIGHT_ONLY:
        return TorchAoConfig(getattr(importlib.import_module("torchao.quantization"), WEIGHT_ONLY[kind])())
    computed = {"bnb_4bit_compute_dtype": dtype} if kind == "nf4" else {}
    return BitsAndBytesConfig(**QUANTISATIONS[kind], **computed)


def is_placed(kind: str | None) -> bool:
    """Whether a denoiser is read onto its GPU at once, and is not moved after: bitsandbytes' are."""
    return kind in QUANTISATIONS
