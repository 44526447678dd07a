"""A denoiser whose weights are quantised as they are read, to train a LoRA on: bitsandbytes, through diffusers' own configuration.

int8: LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339. nf4: QLoRA, Dettmers et al. 2023, arXiv:2305.14314.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

QUANTISATIONS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


def check_quantisable(kind: str, source: str, device: str | torch.device) -> None:
    """Before anything is read. ValueError for an unknown kind, a CPU, and a source that is one file; ImportError names the extra that is
    missing.
    """
    if kind not in QUANTISATIONS:
        raise ValueError(f"unknown quantise {kind!r}; choose one of: {', '.join(QUANTISATIONS)}")
    if source.endswith(".safetensors"):
        raise ValueError(
            f"quantise {kind!r} is done while a diffusers folder or hub id is read, and source is {source!r}; give one of those"
        )
    if find_spec("bitsandbytes") is None:
        raise ImportError(f"quantise {kind!r} needs bitsandbytes; install it with: pip install 'diffalign[bitsandbytes]'")
    if torch.device(device).type == "cpu":
        raise ValueError(f"quantise {kind!r} needs a GPU, and the device is 'cpu'; remove model.quantise, or set model.device=cuda")


def quantisation(kind: str | None, dtype: torch.dtype) -> Any:
    """diffusers' configuration for a model's `from_pretrained`, or None; dtype  what nf4 weights are computed with."""
    if kind is None:
        return None
    from diffusers import BitsAndBytesConfig

    computed = {"bnb_4bit_compute_dtype": dtype} if kind == "nf4" else {}
    return BitsAndBytesConfig(**QUANTISATIONS[kind], **computed)
