"""Tiny Stable Diffusions with random weights as users have them: diffusers folders of 1.x and 2.x, and original .safetensors files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

TEXTS = ("a red circle", "a blue square left of a green star", "two yellow hearts", "a photo of a small dog")


def save_tiny_stable_diffusion(folder: Path, *, version: int = 1, seed: int = 0) -> Path:
    """A diffusers folder: 32×32 pixels, latents 4×16×16, 77 tokens; blocks, scheduler and conditioning as in the real ones.

    version   1: ε-prediction, PNDM; 2: v-prediction, DDIM, linear projections, as in Stable Diffusion 2.x
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffalign.backbones import quiet_loading
    from diffalign.backbones.miniature.clip import build_tokenizer

    quiet_loading()

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(list(TEXTS) * 3, folder / "words", 77)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=32,
            max_position_embeddings=77, hidden_act="quick_gelu" if version == 1 else "gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=2, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=2, cross_attention_dim=32, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4 if version == 1 else (2, 4), use_linear_projection=version == 2,
    )  # fmt: skip
    noise: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    if version == 1:
        scheduler = PNDMScheduler(**noise, skip_prk_steps=True)
    else:
        scheduler = DDIMScheduler(**noise, clip_sample=False, prediction_type="v_prediction")
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def save_original_checkpoint(folder: Path, path: Path, *, version: int = 1) -> Path:
    """The weights of a Stable Diffusion folder in one .safetensors file under its original names (as it is shared).

    version   2: the text encoder under open_clip's, with what a pipeline does not read: the 24th layer, projection and scale
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = "diffusion_pytorch_model.safetensors"
    unet = {f"model.diffusion_model.{_unet_name(name)}": value for name, value in load_file(folder / "unet" / weights).items()}
    vae = {}
    for name, value in load_file(folder / "vae" / weights).items():
        original = vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
        vae[f"first_stage_model.{original}"] = value[:, :, None, None] if is_projection else value  # 1×1 convolutions in the original
    encoder = load_file(folder / "text_encoder/model.safetensors")
    if version == 1:
        text = {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value for name, value in encoder.items()}
    else:
        text = {f"cond_stage_model.model.{name}": value for name, value in _open_clip(encoder).items()}
        first = "cond_stage_model.model.transformer.resblocks.0."
        text |= {name.replace(first, first.replace("0", "23")): value + 1 for name, value in text.items() if name.startswith(first)}
        width = len(text["cond_stage_model.model.ln_final.weight"])
        text |= {"cond_stage_model.model.text_projection": torch.ones(width, width), "cond_stage_model.model.logit_scale": torch.ones(())}
    save_file({name: value.contiguous() for name, value in (unet | vae | text).items()}, path)
    return path


def save_original_sdxl(folder: Path, path: Path) -> Path:
    """The weights of a Stable Diffusion XL folder of two levels, two layers each, in one .safetensors file under its original names."""
    from safetensors.torch import load_file, save_file

    weights = "diffusion_pytorch_model.safetensors"
    found = {}
    for name, value in load_file(folder / "unet" / weights).items():
        original = re.sub(r"^output_blocks\.2\.1\.conv", "output_blocks.2.2.conv", _unet_name(name))  # behind an attention here
        original = re.sub(r"^add_embedding\.linear_([12])", lambda match: f"label_emb.0.{2 * int(match[1]) - 2}", original)
        found[f"model.diffusion_model.{original}"] = value
    for name, value in load_file(folder / "vae" / weights).items():
        original = vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", original) is not None
        found[f"first_stage_model.{original}"] = value[:, :, None, None] if is_projection else value
    for name, value in load_file(folder / "text_encoder/model.safetensors").items():
        found[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    for name, value in _open_clip(load_file(folder / "text_encoder_2/model.safetensors")).items():
        found[f"conditioner.embedders.1.model.{name}"] = value
    save_file({name: value.contiguous() for name, value in found.items()}, path)
    return path


def _open_clip(encoder: dict[str, Any]) -> dict[str, Any]:
    """The names of open_clip: queries, keys and values are one matrix, the projection is applied from the right."""
    import torch

    encoder = {name.removeprefix("text_model."): value for name, value in encoder.items()}
    found = {
        "positional_embedding": encoder["embeddings.position_embedding.weight"],
        "token_embedding.weight": encoder["embeddings.token_embedding.weight"],
    }
    if "text_projection.weight" in encoder:
        found["text_projection"] = encoder["text_projection.weight"].T
    for name, value in encoder.items():
        if ".q_proj." in name:
            joined = torch.cat([encoder[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            found[_renamed(name, [(r"^encoder\.layers", "transformer.resblocks"), (r"self_attn\.q_proj\.", "attn.in_proj_")])] = joined
        elif name.startswith(("encoder.layers", "final_layer_norm")) and not re.search(r"\.(k|v)_proj\.", name):
            rules = [
                (r"^encoder\.layers", "transformer.resblocks"), (r"^final_layer_norm", "ln_final"), (r"layer_norm", "ln_"),
                (r"self_attn\.out_proj", "attn.out_proj"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"),
            ]  # fmt: skip
            found[_renamed(name, rules)] = value
    return found


def save_single_file(folder: Path, target: Path, *, version: int = 1) -> Path:
    """A folder with the configs and tokenizer of a diffusers folder, and its weights in one original file, whose path is returned."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    return save_original_checkpoint(folder, target / "model.safetensors", version=version)


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _unet_name(name: str) -> str:
    """The original name of a parameter of a two-level UNet with two layers a block."""

    def place(match: re.Match[str]) -> str:
        part, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
        if part == "mid":
            return f"middle_block.{1 if kind == 'attentions' else 2 * layer}."
        first = 3 * block + layer + (1 if part == "down" else 0)
        return f"{'input' if part == 'down' else 'output'}_blocks.{first}.{int(kind == 'attentions')}."

    name = re.sub(r"^mid_block\.", "mid_blocks.0.", name)
    name = re.sub(r"^(down|mid|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", place, name)
    return _renamed(
        name,
        [
            (r"^time_embedding\.linear_1", "time_embed.0"), (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"), (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.3.0.op"),
            (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.2.1"),
            (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm1", r"\1.in_layers.0"), (r"\.conv1\.", ".in_layers.2."),
            (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm2", r"\1.out_layers.0"), (r"\.conv2\.", ".out_layers.3."),
            (r"time_emb_proj", "emb_layers.1"), (r"conv_shortcut", "skip_connection"),
        ],
    )  # fmt: skip


def vae_name(name: str) -> str:
    return _renamed(
        name,
        [
            (r"^(encoder)\.down_blocks\.(\d)\.resnets\.", r"\1.down.\2.block."),
            (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
            (r"up_blocks\.0\.", "up.1."), (r"up_blocks\.1\.", "up.0."), (r"\.up\.(\d)\.resnets\.", r".up.\1.block."),
            (r"upsamplers\.0\.", "upsample."),
            (r"mid_block\.attentions\.0\.", "mid.attn_1."), (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"attn_1\.group_norm", "attn_1.norm"), (r"attn_1\.to_(q|k|v)", r"attn_1.\1"), (r"attn_1\.to_out\.0", "attn_1.proj_out"),
            (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"),
        ],
    )  # fmt: skip
