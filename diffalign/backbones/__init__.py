"""The table of backbones: a model family is one file, and what it is to everything else is `Backbone` in contract.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from diffalign.backbones.contract import Backbone
from diffalign.backbones.quantised import check_quantisable
from diffalign.did_you_mean import did_you_mean

# Layers that a LoRA adapts: the attention of every UNet and DiT of diffusers, and beside it what joint attention has for the text's side.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OF_OTHER_INPUT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
JOINT_ATTENTION = (*ATTENTION, *OF_OTHER_INPUT)
FLUX_2_ATTENTION = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "to_out")  # the last two of its single blocks, whose layers are wider

# What makes the text's values in a last block that gives out the picture's alone.
LAST_TEXT = tuple(f"transformer_blocks.-1.{part}" for part in ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp"))


@dataclass(frozen=True)
class Family:
    """A line of BACKBONES."""

    modality: str
    denoiser: str  # its part of the pipeline, and the folder that full fine-tuning writes
    models: str
    lora_targets: tuple[str, ...] = ATTENTION  # endings of the names of the layers that a LoRA adapts
    unreached: tuple[str, ...] = ()  # parts that no prediction depends on, -1 being a last block: they are not trained
    takes_condition: bool = False  # an image with each prompt, which it cannot go without: what is edited, or a video's first frame
    reads_together: bool = False  # one encoder reads a prompt and its condition: their embeds are of both


BACKBONES = {
    "stable_diffusion": Family(
        "image", "unet", "Stable Diffusion 1.x and 2.x, and the bundled miniature: latent UNet, CLIP text encoder; ε or v prediction"
    ),
    "instruct_pix2pix": Family(
        "image",
        "unet",
        "InstructPix2Pix: Stable Diffusion 1.x that edits an image, whose latents are more channels of the UNet's input; ε or v prediction",
        takes_condition=True,
    ),
    "sdxl": Family(
        "image",
        "unet",
        "Stable Diffusion XL's base: latent UNet, two CLIP text encoders, the picture's size as conditioning; ε or v prediction",
    ),
    "sd3": Family(
        "image",
        "transformer",
        "Stable Diffusion 3 and 3.5: transformer with joint attention, two CLIP text encoders and T5; rectified flow",
        JOINT_ATTENTION,
        LAST_TEXT,
    ),
    "flux": Family(
        "image",
        "transformer",
        "FLUX.1: transformer with joint attention, CLIP and T5, guidance as conditioning; rectified flow",
        JOINT_ATTENTION,
    ),
    "flux_kontext": Family(
        "image",
        "transformer",
        "FLUX.1 Kontext: FLUX.1 that edits an image, whose patches stand behind those of the result; rectified flow",
        JOINT_ATTENTION,
        takes_condition=True,
    ),
    "flux2": Family(
        "image",
        "transformer",
        "FLUX.2 [klein]: transformer with joint attention over patches, Qwen3; rectified flow",
        FLUX_2_ATTENTION,
    ),
    "flux2_dev": Family(
        "image",
        "transformer",
        "FLUX.2 [dev]: else as flux2, with Mistral 3 and guidance as conditioning; rectified flow",
        FLUX_2_ATTENTION,
    ),
    "pixart": Family("image", "transformer", "PixArt-α and PixArt-Σ: transformer with cross-attention, T5; ε prediction"),
    "sana": Family(
        "image", "transformer", "Sana: transformer with linear attention, Gemma, an autoencoder of 32 pixels to a latent; rectified flow"
    ),
    "qwen_image": Family(
        "image",
        "transformer",
        "Qwen-Image: transformer with joint attention over patches, Qwen2.5-VL; rectified flow",
        JOINT_ATTENTION,
        LAST_TEXT,
    ),
    "qwen_image_edit": Family(
        "image",
        "transformer",
        "Qwen-Image-Edit: Qwen-Image that edits an image, which stands behind the result and is read with the prompt; rectified flow",
        JOINT_ATTENTION,
        LAST_TEXT,
        takes_condition=True,
        reads_together=True,
    ),
    "qwen_image_edit_plus": Family(
        "image",
        "transformer",
        "Qwen-Image-Edit-2509 and -2511: as qwen_image_edit, and the language model sees what is edited smaller; rectified flow",
        JOINT_ATTENTION,
        LAST_TEXT,
        takes_condition=True,
        reads_together=True,
    ),
    "z_image": Family("image", "transformer", "Z-Image: transformer over text and patches in one sequence, Qwen3; rectified flow"),
    "wan": Family(
        "video",
        "transformer",
        "Wan 2.1 and 2.2, and the bundled miniature of the motion world: transformer, or one for each part of the timesteps, T5, causal "
        "VAE; rectified flow",
    ),
    "wan_image_to_video": Family(
        "video",
        "transformer",
        "Wan 2.1 and 2.2 from a first frame, whose latents are more channels of the input: else as wan, with CLIP in 2.1; rectified flow",
        (*ATTENTION, "add_k_proj", "add_v_proj"),
        takes_condition=True,
    ),
    "ltx": Family(
        "video",
        "transformer",
        "LTX-Video: transformer over every latent and the frame rate, T5, 32×32×8 pixels to a latent; rectified flow",
    ),
    "ltx_image_to_video": Family(
        "video",
        "transformer",
        "LTX-Video from a first frame, whose latents are the first in time and are not denoised: else as ltx; rectified flow",
        takes_condition=True,
    ),
    "cogvideox": Family(
        "video", "transformer", "CogVideoX and CogVideoX 1.5: transformer with joint attention over patches, T5, causal VAE; v prediction"
    ),
    "cogvideox_image_to_video": Family(
        "video",
        "transformer",
        "CogVideoX and CogVideoX 1.5 from a first frame, whose latents are more channels of the input: else as cogvideox; v prediction",
        takes_condition=True,
    ),
    "hunyuan_video": Family(
        "video",
        "transformer",
        "HunyuanVideo: transformer with joint attention over patches, Llama and CLIP, guidance as conditioning, causal VAE; rectified flow",
        JOINT_ATTENTION,
    ),
    "hunyuan_video_image_to_video": Family(
        "video",
        "transformer",
        "HunyuanVideo-I2V from a first frame, whose latents are the first in time, and which Llama reads too: else as hunyuan_video",
        JOINT_ATTENTION,
        takes_condition=True,
        reads_together=True,
    ),
    "tango": Family(
        "audio", "unet", "Tango, and the bundled miniature of the tones world: latent UNet over mel spectrograms, T5; ε or v prediction"
    ),
    "audioldm2": Family(
        "audio",
        "unet",
        "AudioLDM 2: latent UNet over mel spectrograms, CLAP and T5 continued by GPT-2; ε prediction",
    ),
    "stable_audio": Family(
        "audio",
        "transformer",
        "Stable Audio Open: transformer over latents of stereo waveforms, T5, seconds as conditioning; v prediction",
    ),
}


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, and what stands in the place of its own parts: see `load_backbone`."""

    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"
    revision: str | None = None
    adapter: str | Path | Sequence[str | Path] | None = None
    denoiser: str | Path | None = None
    quantise: str | None = None
    tiled_vae: bool = False
    offload_encoders: bool = False
    variant: str | None = None
    vae: str | Path | None = None


def family_of(name: str) -> Family:
    """A line of BACKBONES; ValueError names the known ones."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, BACKBONES)}; choose one of: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def check_condition(name: str, is_given: bool, where: str) -> None:
    """ValueError where the family takes no condition and `where` has some, or needs one and there is none."""
    takes = [each for each, family in BACKBONES.items() if family.takes_condition]
    if is_given and name not in takes:
        known = ", ".join(takes)
        raise ValueError(f"{where} has conditions, and backbone {name!r} takes none; drop their column, or choose one of: {known}")
    if not is_given and name in takes:
        raise ValueError(f"{where} has no conditions, and backbone {name!r} needs an image with each prompt; give a column `condition`")


def load_backbone(name: str, source: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
                  revision: str | None = None,
                  adapter: str | Path | Sequence[str | Path] | None = None, denoiser: str | Path | None = None,
                  quantise: str | None = None, tiled_vae: bool = False, offload_encoders: bool = False,
                  variant: str | None = None, vae: str | Path | None = None, **settings: Any) -> Backbone:  # fmt: skip
    """Loads a model of the family `name`.

    source    `bundled:NAME`, a local diffusers folder, one .safetensors file, a hub id, or `random:NAME` (random weights, for benchmarks)
    adapter   a LoRA folder in diffusers' layout, or in peft's, or several, each trained onto the ones before: fused into weights of
              float32, and beside others, as `load_lora_weights` has them: in rounded weights, small updates would round away
    denoiser  a folder with another denoiser (the result of full fine-tuning), or one .safetensors file of a denoiser alone, to put in the
              place of the source's own
    quantise  int8, nf4, int8_weight_only, float8_weight_only (backbones/quantised.py): the denoiser's weights, to train a LoRA on
    tiled_vae encodes and decodes what is larger than one tile in overlapping ones, in less memory, to slightly other latents and media. How
              large a tile is the autoencoder's class or config says: it may be less than the model makes (256×256 of Wan)
    offload_encoders  reads them into the machine's memory, as `Backbone.offload_encoders` leaves them: they never come to the device
    variant   of the files of a folder or hub id: fp16 reads model.fp16.safetensors where model.safetensors is beside it, or is not there
    vae       an autoencoder to put in the place of the source's own: a folder or hub id, or one .safetensors file of an autoencoder alone
    settings  of the family's own: the named arguments of its `load`
    Raises ValueError for an unknown family or setting and a family that the installed diffusers does not have, FileNotFoundError where the
    source is not found.
    """
    family_of(name)
    try:
        load = import_module(f"diffalign.backbones.{name}").load
    except ImportError as error:
        raise ValueError(f"backbone {name!r}: {error}; the family is younger than what is installed: pip install -U diffusers") from error
    _check_settings(name, load, settings)
    if quantise is not None:
        check_quantisable(quantise, source, device)
    if variant is not None and (source.endswith(".safetensors") or source.startswith("random:")):
        raise ValueError(
            f"variant is {variant!r}, which a diffusers folder or hub id has, and the source is {source!r}; remove model.variant"
        )
    loading = Loading(dtype, device, revision, adapter, denoiser, quantise, tiled_vae, offload_encoders, variant, vae)
    return load(source, loading, **settings)


def _check_settings(name: str, load: Callable[..., Backbone], settings: dict[str, Any]) -> None:
    """ValueError for a setting that the family does not have, or for a value of another kind than its default."""
    known = {key: each.default for key, each in signature(load).parameters.items() if each.kind is each.KEYWORD_ONLY}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"backbone {name!r} has no setting {key!r}{did_you_mean(key, known)}; it takes: {', '.join(known) or 'none'}")
        if isinstance(known[key], str):
            fits, kind = isinstance(value, str), "a name"
        elif isinstance(known[key], bool):
            fits, kind = isinstance(value, bool), "true or false"
        else:
            fits, kind = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value), "a number"
        if not fits:
            raise ValueError(f"backbone {name!r}: {key} is {value!r}; give {kind} (default: {known[key]!r})")


def quiet_loading() -> None:
    """Turns off the libraries' own bars for every file read or written: a run shows one bar per stage."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
