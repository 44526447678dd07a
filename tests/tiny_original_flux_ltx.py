"""FLUX.1 and LTX-Video as one .safetensors file: denoiser and autoencoder under their makers' names, text encoders under ComfyUI's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from tiny_stable_diffusion import vae_name

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"
FLUX_SIMPLE = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
}
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
FLUX_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2", "attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
FLUX_JOINED = {  # which are one matrix there
    "transformer_blocks": {
        "attn.to_q": ("attn.to_k", "attn.to_v", "img_attn.qkv"),
        "attn.add_q_proj": ("attn.add_k_proj", "attn.add_v_proj", "txt_attn.qkv"),
    },
    "single_transformer_blocks": {"attn.to_q": ("attn.to_k", "attn.to_v", "proj_mlp", "linear1")},
}
LTX_AUTOENCODER = [  # of two levels that shrink, then two that do not
    (r"^encoder\.mid_block", "encoder.down_blocks.9"), (r"^encoder\.down_blocks\.3\.resnets", "encoder.down_blocks.8.resnets"),
    (r"^encoder\.down_blocks\.2\.resnets", "encoder.down_blocks.6.resnets"),
    (r"^encoder\.down_blocks\.1\.downsamplers\.0", "encoder.down_blocks.4"),
    (r"^encoder\.down_blocks\.1\.resnets", "encoder.down_blocks.3.resnets"),
    (r"^encoder\.down_blocks\.0\.downsamplers\.0", "encoder.down_blocks.1"),
    (r"^decoder\.up_blocks\.3\.upsamplers\.0", "decoder.up_blocks.8"), (r"^decoder\.up_blocks\.3\.resnets", "decoder.up_blocks.9.resnets"),
    (r"^decoder\.up_blocks\.2\.upsamplers\.0", "decoder.up_blocks.5"), (r"^decoder\.up_blocks\.2\.resnets", "decoder.up_blocks.6.resnets"),
    (r"^decoder\.up_blocks\.1\.resnets", "decoder.up_blocks.3.resnets"),
    (r"^decoder\.up_blocks\.0\.resnets", "decoder.up_blocks.1.resnets"),
    (r"^decoder\.mid_block", "decoder.up_blocks.0"), (r"\.resnets\.", ".res_blocks."),
    (r"^latents_mean", "per_channel_statistics.mean-of-means"), (r"^latents_std", "per_channel_statistics.std-of-means"),
]  # fmt: skip
LTX_TRANSFORMER = [(r"^proj_in", "patchify_proj"), (r"^time_embed", "adaln_single"), (r"norm_(q|k)\.", r"\1_norm.")]


def save_original_flux(folder: Path, path: Path) -> Path:
    """The weights of a FLUX.1 folder in one file."""
    from safetensors.torch import load_file

    found = {f"model.diffusion_model.{name}": value for name, value in _flux(load_file(folder / "transformer" / WEIGHTS)).items()}
    for name, value in load_file(folder / "vae" / WEIGHTS).items():
        original = vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
        found[f"vae.{original}"] = value[:, :, None, None] if is_projection else value
    return _save(found | _text(folder, text_encoder="clip_l", text_encoder_2="t5xxl"), path)


def save_original_ltx(folder: Path, path: Path) -> Path:
    """The weights of an LTX-Video folder in one file."""
    from safetensors.torch import load_file

    found = {}
    for part, prefix, rules in (("transformer", "model.diffusion_model.", LTX_TRANSFORMER), ("vae", "vae.", LTX_AUTOENCODER)):
        for name, value in load_file(folder / part / WEIGHTS).items():
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            found[prefix + name] = value
    return _save(found | _text(folder, text_encoder="t5xxl"), path)


def at_width(convert: Callable[..., Any], width: int) -> FunctionType:
    """diffusers' reader of FLUX.1's names, which has the release's width written into it, for another width."""
    code = convert.__code__
    return FunctionType(code.replace(co_consts=tuple(width if each == 3072 else each for each in code.co_consts)), convert.__globals__)


def _save(weights: dict[str, Tensor], path: Path) -> Path:
    from safetensors.torch import save_file

    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)
    return path


def _text(folder: Path, **encoders: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found = {}
    for part, name in encoders.items():
        inside = "text_model." if name == "clip_l" else ""
        for key, value in load_file(folder / part / "model.safetensors").items():
            found[f"text_encoders.{name}.transformer.{inside}{key.removeprefix('text_model.')}"] = value
    return found


def _flux(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    import torch

    found = {}
    for name, value in weights.items():
        layer, kind = name.rsplit(".", 1)
        if layer in FLUX_SIMPLE:
            found[f"{FLUX_SIMPLE[layer]}.{kind}"] = value
        elif layer == "norm_out.linear":  # shift and scale, which are the other way round there
            found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat(value.chunk(2)[::-1])
        else:
            part, block, inner = layer.split(".", 2)
            names = FLUX_DOUBLE if part == "transformer_blocks" else FLUX_SINGLE
            place = f"{'double' if part == 'transformer_blocks' else 'single'}_blocks.{block}."
            if inner in names:
                found[f"{place}{names[inner]}.{'scale' if '.norm_' in inner else kind}"] = value
            elif inner in FLUX_JOINED[part]:
                *others, joined = FLUX_JOINED[part][inner]
                found[f"{place}{joined}.{kind}"] = torch.cat([value, *(weights[f"{part}.{block}.{other}.{kind}"] for other in others)])
    return found
