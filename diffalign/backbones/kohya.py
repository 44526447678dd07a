"""A LoRA in the keys that kohya's scripts, ComfyUI and A1111 read: `lora_unet_LAYER.lora_down.weight`, `.lora_up.weight`, `.alpha`.

LAYER is the layer's place in the network that those tools hold, points written as underscores: Stable Diffusion 1.x and 2.x and Qwen-Image
in diffusers' own names, Stable Diffusion XL and FLUX in those of their first releases. FLUX there has queries, keys and values in one
layer, so their adapters are joined: the downs one below the other, the ups on the diagonal of blocks, which is the same update.

Wan, HunyuanVideo, LTX-Video and Z-Image have the keys that ComfyUI reads of any network, `diffusion_model.LAYER.lora_A.weight` and
`.lora_B.weight`: Wan and HunyuanVideo under their releases' names, the others under diffusers'. Of Stable Diffusion 3 ComfyUI reads
diffusers' own keys, `transformer.LAYER.lora_A.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """An adapter of one layer: its update is up·down."""

    down: Tensor  # (rank, in) of a linear layer, (rank, in, kernel …) of a convolution
    up: Tensor  # (out, rank, …)


class Network(NamedTuple):
    """How other tools hold a family's network: the names of its layers, and what is before them where keys have them with their points."""

    layers: Callable[[dict[str, Factors]], dict[str, Factors]]
    prefix: str | None = None  # None: kohya's keys


def kohya_lora(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LoRA file of diffusers, whose scale α/rank is in its ups already, under the keys of other tools; α is the rank.

    family   a name of BACKBONES
    ValueError for a family without such keys, a DoRA, and a layer that the tools' network does not have.
    """
    if family not in NETWORKS:
        raise ValueError(
            f"no keys of other tools are known for a LoRA of backbone {family!r}, only of: {', '.join(NETWORKS)}; "
            f"use the file that training wrote (train/final), which diffusers loads"
        )
    network = NETWORKS[family]
    found: dict[str, Tensor] = {}
    for name, factors in network.layers(_factors(tensors)).items():
        if network.prefix is not None:
            found[f"{network.prefix}.{name}.lora_A.weight"] = factors.down.contiguous()
            found[f"{network.prefix}.{name}.lora_B.weight"] = factors.up.contiguous()
            continue
        key = f"lora_unet_{name.replace('.', '_')}"
        found[f"{key}.lora_down.weight"] = factors.down.contiguous()
        found[f"{key}.lora_up.weight"] = factors.up.contiguous()
        found[f"{key}.alpha"] = torch.tensor(float(len(factors.down)))
    return found


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """By the denoiser's layer, of a file in peft's keys or in diffusers' older ones."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    sides: dict[str, dict[str, Tensor]] = {}
    for key, value in convert_unet_state_dict_to_peft(dict(tensors)).items():
        match = re.fullmatch(r"(?:unet|transformer)\.(.+)\.lora_([AB])\.weight", key)
        if match is None:
            kind = "DoRA's magnitudes" if "magnitude" in key else "no LoRA of a denoiser"
            raise ValueError(f"{key!r} is {kind}, for which other tools have no agreed key; train with lora.dora=false to export it")
        sides.setdefault(match[1], {})[match[2]] = value
    return {name: Factors(side["A"], side["B"]) for name, side in sides.items()}


def _as_they_are(layers: dict[str, Factors]) -> dict[str, Factors]:
    return layers


PER_LEVEL = 2  # resnets of a level on the way down; one more on the way up
RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def _sdxl(layers: dict[str, Factors]) -> dict[str, Factors]:
    return {_sdxl_name(name): factors for name, factors in layers.items()}


def _sdxl_name(name: str) -> str:
    """The release numbers all blocks of the way down, and of the way up, in one row; in a block: resnet, attention, resampling."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    match = re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match is None:
        raise ValueError(
            f"layer {name!r} has no place in the network of Stable Diffusion XL that other tools hold; leave it out of lora.targets"
        )
    way, level, kind, place, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{(PER_LEVEL + 1) * (level + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{(PER_LEVEL + 1) * (level + 1) - 1}.2.conv"
    rest = RESNET[rest] if kind == "resnets" else rest
    if way == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * place}.{rest}"
    first = (PER_LEVEL + 1) * level + place
    block = f"input_blocks.{first + 1}" if way == "down" else f"output_blocks.{first}"
    return f"{block}.{int(kind == 'attentions')}.{rest}"


# The release's layer of a block, and what diffusers has in its place: layers by the rows that they take, in units of the block's width.
Parts = dict[str, dict[str, int]]
Blocks = dict[str, tuple[str, Parts]]  # diffusers' blocks → the release's, and what is in each
QKV = {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1}
ATTENTION: Parts = {
    "img_attn.qkv": QKV,
    "txt_attn.qkv": {"attn.add_q_proj": 1, "attn.add_k_proj": 1, "attn.add_v_proj": 1},
    "img_attn.proj": {"attn.to_out.0": 1},
    "txt_attn.proj": {"attn.to_add_out": 1},
}
FLUX: Blocks = {
    "transformer_blocks": (
        "double_blocks",
        ATTENTION
        | {
            "img_mlp.0": {"ff.net.0.proj": 4},
            "img_mlp.2": {"ff.net.2": 1},
            "txt_mlp.0": {"ff_context.net.0.proj": 4},
            "txt_mlp.2": {"ff_context.net.2": 1},
            "img_mod.lin": {"norm1.linear": 6},
            "txt_mod.lin": {"norm1_context.linear": 6},
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {"linear1": QKV | {"proj_mlp": 4}, "linear2": {"proj_out": 1}, "modulation.lin": {"norm.linear": 3}},
    ),
}
FLUX_2: Blocks = {
    "transformer_blocks": (
        "double_blocks",
        ATTENTION
        | {
            "img_mlp.0": {"ff.linear_in": 6},
            "img_mlp.2": {"ff.linear_out": 1},
            "txt_mlp.0": {"ff_context.linear_in": 6},
            "txt_mlp.2": {"ff_context.linear_out": 1},
        },
    ),
    "single_transformer_blocks": ("single_blocks", {"linear1": {"attn.to_qkv_mlp_proj": 9}, "linear2": {"attn.to_out": 1}}),
}


def _of_hunyuan_video(layer: str) -> str:
    """A layer of FLUX.1's blocks by the name that it has in HunyuanVideo's, which are the same else."""
    for ours, theirs in {"_attn.": "_attn_", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", ".lin": ".linear"}.items():
        layer = layer.replace(ours, theirs)
    return layer


HUNYUAN_VIDEO: Blocks = {
    **{name: (theirs, {_of_hunyuan_video(layer): parts for layer, parts in inside.items()}) for name, (theirs, inside) in FLUX.items()},
    "context_embedder.token_refiner.refiner_blocks": (
        "txt_in.individual_token_refiner.blocks",
        {
            "self_attn_qkv": QKV,
            "self_attn_proj": {"attn.to_out.0": 1},
            "mlp.fc1": {"ff.net.0.proj": 4},
            "mlp.fc2": {"ff.net.2": 1},
            "adaLN_modulation.1": {"norm_out.linear": 2},
        },
    ),
}


def _in_blocks(blocks: Blocks, model: str, layers: dict[str, Factors]) -> dict[str, Factors]:
    """By the release's layers, each with the adapters of all its parts."""
    parts: dict[str, dict[str, Factors]] = {}
    rows: dict[str, dict[str, int]] = {}
    for name, factors in layers.items():
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
        theirs, inside = blocks.get(match[1] if match else "", ("", {}))
        own = [] if match is None else [(key, each) for key, each in inside.items() if match[3] in each]
        if match is None or not own:
            raise ValueError(f"layer {name!r} has no place in the blocks of {model} that other tools hold; leave it out of lora.targets")
        [(layer, taken)] = own
        joined = f"{theirs}.{match[2]}.{layer}"
        parts.setdefault(joined, {})[match[3]] = factors
        rows[joined] = taken
    return {joined: _joined(found, rows[joined]) for joined, found in parts.items()}


def _joined(parts: Mapping[str, Factors], rows: Mapping[str, int]) -> Factors:
    """One adapter that does to each part what its own does.

    A part without one has zeros, of the rank of the others: where every part has its block, readers take the blocks apart again, and all
    layers keep one rank; of several ranks diffusers up to 0.37 takes a wrong scale.
    """
    name, one = next(iter(parts.items()))
    width = len(one.up) // rows[name]
    every = [parts.get(part, Factors(torch.zeros_like(one.down), one.up.new_zeros(width * rows[part], len(one.down)))) for part in rows]
    return Factors(torch.cat([each.down for each in every]), torch.block_diag(*(each.up for each in every)))


# Wan's release has other names for the layers of its blocks, and for those around them.
WAN = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o",
       "add_k_proj": "k_img", "add_v_proj": "v_img", "net.0.proj": "0", "net.2": "2"}  # fmt: skip
WAN_OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "proj_out": "head.head",
}


def _wan(layers: dict[str, Factors]) -> dict[str, Factors]:
    return {_wan_name(name): factors for name, factors in layers.items()}


def _wan_name(name: str) -> str:
    match = re.fullmatch(r"(blocks\.\d+)\.(attn1|attn2|ffn)\.(.+)", name)
    if name in WAN_OUTSIDE:
        return WAN_OUTSIDE[name]
    if match is None or match[3] not in WAN:
        raise ValueError(f"layer {name!r} has no place in the network of Wan that other tools hold; leave it out of lora.targets")
    return f"{match[1]}.{WAN.get(match[2], match[2])}.{WAN[match[3]]}"


def _ltx(layers: dict[str, Factors]) -> dict[str, Factors]:
    """Its release has diffusers' names in the blocks alone."""
    outside = [name for name in layers if not name.startswith("transformer_blocks.")]
    if outside:
        raise ValueError(
            f"layer {outside[0]!r} has no known place in the network of LTX-Video that other tools hold; leave it out of lora.targets"
        )
    return layers


COMFYUI = "diffusion_model"
NETWORKS: dict[str, Network] = {
    "stable_diffusion": Network(_as_they_are),
    "instruct_pix2pix": Network(_as_they_are),
    "sdxl": Network(_sdxl),
    "sd3": Network(_as_they_are, "transformer"),
    "flux": Network(partial(_in_blocks, FLUX, "FLUX.1")),
    "flux_kontext": Network(partial(_in_blocks, FLUX, "FLUX.1")),
    "flux2": Network(partial(_in_blocks, FLUX_2, "FLUX.2")),
    "flux2_dev": Network(partial(_in_blocks, FLUX_2, "FLUX.2")),
    "qwen_image": Network(_as_they_are),
    "qwen_image_edit": Network(_as_they_are),
    "qwen_image_edit_plus": Network(_as_they_are),
    "z_image": Network(_as_they_are, COMFYUI),
    "wan": Network(_wan, COMFYUI),
    "wan_image_to_video": Network(_wan, COMFYUI),
    "ltx": Network(_ltx, COMFYUI),
    "ltx_image_to_video": Network(_ltx, COMFYUI),
    "hunyuan_video": Network(partial(_in_blocks, HUNYUAN_VIDEO, "HunyuanVideo"), COMFYUI),
    "hunyuan_video_image_to_video": Network(partial(_in_blocks, HUNYUAN_VIDEO, "HunyuanVideo"), COMFYUI),
}
