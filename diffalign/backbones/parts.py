"""What is put in the place of a pipeline's own parts: another denoiser, another autoencoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diffalign.backbones.weights import dtype_argument
from diffalign.model_source import source_path

# Settings of an autoencoder that the denoiser and the sizes of latents depend on, as diffusers' classes call them, where they have them.
AUTOENCODER = (
    "latent_channels", "z_dim", "decoder_input_channels", "in_channels", "out_channels", "patch_size", "scaling_factor", "shift_factor",
    "latents_mean", "latents_std", "spatial_compression_ratio", "temporal_compression_ratio",
)  # fmt: skip
VAE_FIX = "give a diffusers folder of an autoencoder (config.json in it, or in its subfolder vae), its .safetensors file, or a hub id"


def read_denoiser(own: Any, folder: Path, part: str, dtype: torch.dtype, alike: Sequence[str], **options: Any) -> Any:
    """The denoiser in `folder`, or in its subfolder `part`, of `own`'s class; ValueError where a setting of `alike` is another one.

    folder    or one .safetensors file of a denoiser, of the same settings as `own`, under diffusers' names or its makers'
    options   of `from_pretrained`
    """
    if folder.suffix == ".safetensors":
        return _read_file(own, folder, dtype, "denoiser", **options)
    inner = folder / part if (folder / part).is_dir() else folder
    if not (inner / "config.json").is_file():
        raise FileNotFoundError(
            f"denoiser {str(folder)!r} holds no {part}/config.json; give a folder that full fine-tuning wrote (RUN/train/final)"
        )
    denoiser = type(own).from_pretrained(inner, use_safetensors=True, **dtype_argument(dtype), **options)
    for name in alike:
        if denoiser.config[name] != own.config[name]:
            raise ValueError(
                f"denoiser {str(folder)!r} has {name} {denoiser.config[name]}, the model {own.config[name]}: it is of another model"
            )
    return denoiser


def read_autoencoder(own: Any, source: str) -> Any:
    """The autoencoder that `source` names, to stand in the place of a model's `own`: of its class, in its dtype.

    source   a diffusers folder or hub id, of an autoencoder or of a model that has one; or one .safetensors file of an autoencoder alone,
             of the same settings as `own`, under diffusers' names or its makers'
    FileNotFoundError where there is none. ValueError for one of another class, of other channels or compression, or whose latents have
    another mean or scale: the denoiser was trained on those of `own`.
    """
    path = source_path(source)
    if source.endswith(".safetensors"):
        return _read_file(own, Path(path or source), own.dtype, "vae")
    if path is not None and path.is_file():
        raise ValueError(f"vae {source!r} is no .safetensors file, and no other is opened; {VAE_FIX}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument")  # diffusers', at every config of the hub
            found = _read_folder(own, str(path or source))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of whatever diffusers stumbles over
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(
            f"vae {source!r} could not be loaded: {' '.join(str(error).split())[:300]}; {VAE_FIX}"
        ) from error
    _check_latents(own, found, source)
    return found


def _read_folder(own: Any, place: str) -> Any:
    """The autoencoder at the top of a folder or hub id, or in its subfolder vae; ValueError where it is of another class or not whole."""
    kind, inside = type(own), ""
    try:
        config = kind.load_config(place)
    except OSError:
        inside = "vae"
        config = kind.load_config(place, subfolder=inside)
    if config.get("_class_name", kind.__name__) != kind.__name__:
        raise ValueError(f"it is of class {config['_class_name']}, the model's own of {kind.__name__}")
    options = {"subfolder": inside, "use_safetensors": True, "output_loading_info": True}
    found, report = kind.from_pretrained(place, **options, **dtype_argument(own.dtype))
    if report["missing_keys"]:
        raise ValueError(f"it lacks {', '.join(sorted(report['missing_keys'])[:3])}")
    return found


def _check_latents(own: Any, found: Any, source: str) -> None:
    """ValueError where latents of the one are not those of the other, as far as the settings say so."""
    here, there = ({name: _plain(each.config.get(name)) for name in AUTOENCODER} for each in (own, found))
    for each, settings in ((own, here), (found, there)):
        settings["levels"] = len(each.config.get("block_out_channels") or each.config.get("dim_mult") or ())
    other = next((name for name in here if here[name] != there[name]), None)
    if other is not None:
        raise ValueError(
            f"vae {source!r} has {other} {there[other]}, the model's own {here[other]}: the denoiser was trained on other latents; "
            f"give an autoencoder made for this model, or remove model.vae"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_file(own: Any, file: Path, dtype: torch.dtype, what: str, **options: Any) -> Any:
    """As parts alone are shared; the settings are not in the file, so they are `own`'s. ValueError where it cannot be read as such."""
    if not file.is_file():
        raise FileNotFoundError(f"{what} {str(file)!r} does not exist")
    if not hasattr(type(own), "from_single_file"):
        raise ValueError(f"{what} {str(file)!r}: diffusers reads no single file of a {type(own).__name__}; give a folder with config.json")
    with TemporaryDirectory() as settings:
        own.save_config(settings)
        try:
            found = type(own).from_single_file(str(file), config=settings, local_files_only=True, **dtype_argument(dtype), **options)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of whatever diffusers stumbles over
            raise ValueError(
                f"{what} {str(file)!r} could not be read as a {type(own).__name__} of the model's settings: "
                f"{' '.join(str(error).split())[:300]}; give a file of the same family and size"
            ) from error
    empty = [name for name, value in found.named_parameters() if value.is_meta]
    if empty:
        raise ValueError(f"{what} {str(file)!r} lacks weights of a {type(own).__name__}: {', '.join(empty[:3])}; give a whole one")
    return found
