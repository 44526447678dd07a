"""Stable Diffusion 3's weights as they were released: one .safetensors file under the names of its authors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tiny_stable_diffusion import vae_name

if TYPE_CHECKING:
    from torch import Tensor

SIMPLE = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
IN_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
JOINED = {  # queries, keys and values, which are one matrix there
    "attn.to_q": ("attn.to_k", "attn.to_v", "x_block.attn.qkv"),
    "attn2.to_q": ("attn2.to_k", "attn2.to_v", "x_block.attn2.qkv"),
    "attn.add_q_proj": ("attn.add_k_proj", "attn.add_v_proj", "context_block.attn.qkv"),
}


def save_original_sd3(folder: Path, path: Path, *, encoders: tuple[str, ...]) -> Path:
    """The weights of a Stable Diffusion 3 folder in one file, with these of its text encoders."""
    from safetensors.torch import load_file, save_file

    weights = "diffusion_pytorch_model.safetensors"
    found = {f"model.diffusion_model.{name}": value for name, value in _transformer(load_file(folder / "transformer" / weights)).items()}
    for name, value in load_file(folder / "vae" / weights).items():
        original = vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
        found[f"first_stage_model.{original}"] = value[:, :, None, None] if is_projection else value
    for part, name in zip(("text_encoder", "text_encoder_2", "text_encoder_3"), ("clip_l", "clip_g", "t5xxl"), strict=True):
        if part in encoders:
            weights_of_part = load_file(folder / part / "model.safetensors")
            found |= {f"text_encoders.{name}.transformer.{key}": value for key, value in weights_of_part.items()}
    save_file({name: value.contiguous().clone() for name, value in found.items()}, path)
    return path


def _transformer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    import torch

    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    found = {}
    for name, value in weights.items():
        layer, kind = name.rsplit(".", 1)
        if name in SIMPLE:
            found[SIMPLE[name]] = value
        elif layer in SIMPLE:
            found[f"{SIMPLE[layer]}.{kind}"] = _swapped(value) if layer == "norm_out.linear" else value
        else:
            _, block, inner = layer.split(".", 2)
            place = f"joint_blocks.{block}."
            if inner in IN_BLOCK:  # the last block changes no text: it has its shift and scale in the order of the final layer's
                is_final = inner == "norm1_context.linear" and int(block) == last
                found[f"{place}{IN_BLOCK[inner]}.{kind}"] = _swapped(value) if is_final else value
            elif inner in JOINED:
                *others, joined = JOINED[inner]
                rest = [weights[f"transformer_blocks.{block}.{other}.{kind}"] for other in others]
                found[f"{place}{joined}.{kind}"] = torch.cat([value, *rest])
    return found


def _swapped(value: Tensor) -> Tensor:
    """Scale and shift the other way round."""
    import torch

    return torch.cat(value.chunk(2)[::-1])
