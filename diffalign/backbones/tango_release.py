"""Tango as its authors release it (declare-lab/tango and its kin): a folder of three configs and the weights as one dict of tensors each.

Ghosal et al. 2023, arXiv:2304.13731. The layout, of https://github.com/declare-lab/tango:

    main_config.json, pytorch_model_main    the denoiser in diffusers' names under `unet.`, the text encoder's T5 under `text_encoder.`
    vae_config.json, pytorch_model_vae      AudioLDM's autoencoder in the names of latent diffusion, its HiFi-GAN under `vocoder.`
    stft_config.json                        of the spectrograms; pytorch_model_stft holds what follows from it, and is not read

Configs of denoiser, scheduler and text encoder stand elsewhere: main_config.json names them. The denoiser's is not on the hub, so a
release is read from a folder that has it too, and not by its hub id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from os.path import normpath
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn

from diffalign.backbones.mel import PEAK

MAIN = "main_config.json"
# HiFi-GAN's, of AudioLDM at 16 kHz; its widths are those of the weights. Their product is the hop.
RATES, KERNELS, RESIDUAL_KERNELS, DILATIONS = (5, 4, 2, 2, 2), (16, 16, 8, 4, 4), (3, 7, 11), (1, 3, 5)
NEEDED = {
    "main": ("text_encoder_name", "scheduler_name", "unet_model_config_path"),
    "vae": ("ddconfig", "embed_dim", "scale_factor"),
    "stft": ("filter_length", "hop_length", "win_length", "n_mel_channels", "sampling_rate", "mel_fmin", "mel_fmax"),
}
AUTOENCODER = ("attn_resolutions", "z_channels", "ch_mult", "in_channels", "out_ch", "ch", "num_res_blocks", "resolution")
TIED = "encoder.embed_tokens.weight"  # T5's, the same tensor as shared.weight


def is_release(folder: Path) -> bool:
    return (folder / MAIN).is_file() and not (folder / "model_index.json").is_file()


def how_to_fetch(name: str) -> str:
    """What to do with the hub id of a release."""
    folder = f"models/{name.split('/')[-1]}"
    return (
        f"if {name} is Tango as its authors release it: `hf download {name} --local-dir {folder}`, put the denoiser's config that "
        f"its {MAIN} names into that folder (from github.com/declare-lab/tango, configs or tango2/configs), and set model.source={folder}"
    )


def read_parts(folder: Path, dtype: torch.dtype, text_encoder: str | None) -> dict[str, Any]:
    """The arguments of `TangoPipeline`.

    text_encoder  folder or hub id of the text encoder's tokenizer and config; None: what main_config.json names
    ValueError or FileNotFoundError where something is not as released.
    """
    main, vae_config, stft = (_config(folder / f"{name}_config.json", needed) for name, needed in NEEDED.items())
    weights = _weights(folder, "main")
    encoder, tokenizer = _text_encoder(text_encoder or main["text_encoder_name"], folder)
    unet = UNet2DConditionModel.from_config(_config(_inside(folder, main["unet_model_config_path"])))
    _fill(unet, _under(weights, "unet."), f"the denoiser of {folder}")
    _fill(encoder, _under(weights, "text_encoder."), f"the text encoder of {folder}")
    vae_weights = _weights(folder, "vae")
    parts = {
        "vae": _autoencoder(vae_config, vae_weights, folder), "text_encoder": encoder, "unet": unet,
        "vocoder": _vocoder(_under(vae_weights, "vocoder."), stft["n_mel_channels"], folder),
    }  # fmt: skip
    return {
        **{name: part.to(dtype) for name, part in parts.items()}, "tokenizer": tokenizer,
        "scheduler": _scheduler(main["scheduler_name"], folder), "mel": _mel(stft, folder),
    }  # fmt: skip


def _inside(folder: Path, name: Any) -> Path:
    """The file that a config names. By its name alone: files of a hub's cache are links that lead elsewhere."""
    path = Path(normpath(folder / str(name)))
    if not path.is_relative_to(normpath(folder)):
        raise ValueError(f"{folder / MAIN} names {str(name)!r}, which is outside of the folder; copy that file into it and name it there")
    return path


def _config(path: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; copy it from the release (the denoiser's is in the repository declare-lab/tango, in configs or "
            f"tango2/configs), or give a folder that TangoPipeline saved"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it from the release again") from error
    _check_keys(found, needed, path)
    return found


def _check_keys(found: Any, needed: Iterable[str], where: object) -> None:
    lacks = [key for key in needed if key not in found] if isinstance(found, dict) else ["everything"]
    if lacks:
        raise ValueError(f"{where} lacks {', '.join(lacks)}; give the folder as released")


def _weights(folder: Path, part: str) -> dict[str, Tensor]:
    """Of safetensors where they are, else of the released file, of which tensors alone are read."""
    from safetensors.torch import load_file

    path = folder / f"pytorch_model_{part}.safetensors"
    is_safe = path.is_file()
    path = path if is_safe else path.with_suffix(".bin")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, nor is it as .safetensors; fetch the whole release")
    try:
        return load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format and torch release has its own; the chain keeps it
        raise ValueError(f"{path} is damaged, or holds more than tensors, which is not opened; fetch it again") from error


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _fill(module: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """ValueError where the weights are not those of the module, all of them."""
    try:
        missing, unknown = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{what} is of other sizes than its config says: {' '.join(str(error).split())[:200]}") from error
    missing = [name for name in missing if name != TIED]
    if missing or unknown:
        raise ValueError(f"{what} lacks {missing[:3] or 'nothing'} and has {unknown[:3] or 'nothing'} beside; give the folder as released")


def _text_encoder(name: str, folder: Path) -> tuple[nn.Module, Any]:
    from transformers import AutoConfig, AutoTokenizer, T5EncoderModel

    try:
        config, tokenizer = (kind.from_pretrained(name, trust_remote_code=False) for kind in (AutoConfig, AutoTokenizer))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{folder} needs the tokenizer and config of {name!r}; give a folder with them as model.settings.text_encoder, "
            f"or a hub id that can be reached"
        ) from error
    if config.model_type != "t5":
        raise ValueError(f"{name!r} is the config of a {config.model_type}, and Tango's text encoder is a T5; give that of FLAN-T5")
    return T5EncoderModel(config).eval(), tokenizer


def _scheduler(name: str, folder: Path) -> DDIMScheduler:
    """Stable Diffusion 2.1's noise levels, v prediction. The release samples with DDPM on them, DDIM needs fewer steps."""
    if "stable-diffusion-2-1" not in str(name):
        raise ValueError(
            f"{folder / MAIN} names the noise levels of {name!r}; those of Stable Diffusion 2.1 alone are known here, which Tango has. "
            f"Make a TangoPipeline with that scheduler, save it, and give its folder"
        )
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip


def _autoencoder(config: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> AutoencoderKL:
    inner = config["ddconfig"]
    _check_keys(inner, AUTOENCODER, f"{folder}/vae_config.json: ddconfig")
    if inner["attn_resolutions"] or config.get("subband", 1) != 1 or inner["z_channels"] != config["embed_dim"]:
        raise ValueError(f"{folder}/vae_config.json is of another autoencoder than Tango's: attention, sub-bands or widths differ")
    levels = len(inner["ch_mult"])
    vae = AutoencoderKL(
        in_channels=inner["in_channels"], out_channels=inner["out_ch"], latent_channels=config["embed_dim"],
        block_out_channels=[inner["ch"] * each for each in inner["ch_mult"]], layers_per_block=inner["num_res_blocks"],
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=inner["resolution"], scaling_factor=config["scale_factor"],
    )  # fmt: skip
    own = {name: value for name, value in weights.items() if not name.startswith("vocoder.")}
    found = convert_ldm_vae_checkpoint(own, dict(vae.config))
    _fill(vae, found, f"the autoencoder of {folder}")
    return vae.eval()


def _vocoder(weights: dict[str, Tensor], bins: int, folder: Path) -> nn.Module:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    if "conv_pre.weight" not in weights:
        raise ValueError(f"{folder}: pytorch_model_vae has no vocoder.conv_pre.weight; give the folder as released")
    config = SpeechT5HifiGanConfig(
        model_in_dim=bins, sampling_rate=16_000, upsample_initial_channel=len(weights["conv_pre.weight"]), upsample_rates=list(RATES),
        upsample_kernel_sizes=list(KERNELS), resblock_kernel_sizes=list(RESIDUAL_KERNELS),
        resblock_dilation_sizes=[list(DILATIONS)] * len(RESIDUAL_KERNELS), normalize_before=False,
    )  # fmt: skip
    found = {f"upsampler.{name.removeprefix('ups.')}" if name.startswith("ups.") else name: value for name, value in weights.items()}
    vocoder = SpeechT5HifiGan(config)
    _fill(vocoder, {"mean": torch.zeros(bins), "scale": torch.ones(bins), **found}, f"the vocoder of {folder}")
    return vocoder.eval()


def _mel(stft: dict[str, Any], folder: Path) -> dict[str, Any]:
    if stft["mel_fmin"] != 0 or stft["win_length"] != stft["filter_length"] or stft["hop_length"] != torch.tensor(RATES).prod():
        raise ValueError(f"{folder}/stft_config.json: the spectrograms are not Tango's, which begin at 0 Hz, with whole windows every 160")
    return {
        "sample_rate_hz": stft["sampling_rate"], "n_fft": stft["filter_length"], "hop": stft["hop_length"],
        "bins": stft["n_mel_channels"], "highest_hz": float(stft["mel_fmax"]), "peak": PEAK,
    }  # fmt: skip
