"""Reading, writing and naming weights: what every family does alike with a diffusers pipeline and its denoiser."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from diffalign.model_source import LORA_FILE, PEFT_FILE, source_path

SECOND = {"transformer_2": {"load_into_transformer_2": True}}  # a part that diffusers loads a LoRA into when asked alone: Wan 2.2's
FOLDER = "a diffusers folder with safetensors weights (model_index.json in it)"
ADAPTER_FIX = "give a folder that training with LoRA wrote (RUN/train/final), or a hub id that can be reached"
VARIANT = re.compile(r"[^.]+\.(\w+)(?:-\d+-of-\d+)?\.safetensors")  # of a file's name: model.fp16.safetensors, also in shards
KEPT = "kept_"  # the beginning of the names of adapters beside the weights that belong to the model and are not trained
# Values that a hash sums at a time, in three copies of 8 bytes each; sums wrap, so those of parts add up to that of the whole.
CHUNK = 2**24
Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def read_pipeline(family: type[Pipeline], source: str, dtype: torch.dtype | dict[str, torch.dtype], revision: str | None,
                  variant: str | None = None, **options: Any) -> Pipeline:  # fmt: skip
    """A pipeline of a local diffusers folder, a hub id or, where diffusers reads such of the family, one .safetensors file.

    Nothing is unpickled.
    dtype    of all parts, or by part, with that of the others as "default"
    variant  which of several files of a part is read, of a folder or hub id: fp16 is model.fp16.safetensors
    ValueError or FileNotFoundError where it cannot be read as `family`.
    """
    if source.endswith(".ckpt"):
        raise ValueError(f"{source}: .ckpt files are pickles and are not opened; convert to .safetensors first")
    takes_file = hasattr(family, "from_single_file")
    if not takes_file:
        refuse_file(source)
    path = str(source_path(source) or source)
    options |= dtype_argument(dtype)
    try:
        if path.endswith(".safetensors"):
            # A single file holds weights alone. Where it lies in a diffusers folder, the configs there are its own; else the hub has them.
            beside = {"config": str(Path(path).parent)} if (Path(path).parent / "model_index.json").is_file() else {}
            pipeline = family.from_single_file(path, **beside, **options)  # type: ignore[attr-defined]  # of a mixin
            for part in pipeline.components.values():
                if hasattr(part, "tie_weights"):
                    part.tie_weights()  # a T5 shares its embedding, and diffusers fills one of its two names
            return pipeline
        return family.from_pretrained(path, revision=revision, variant=variant, use_safetensors=True, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except SingleFileComponentError as error:  # which says how to call diffusers
        missing = re.search(r"Failed to load (\w+)", str(error))
        raise ValueError(
            f"model source {source!r} is a file without the weights of a {missing[1] if missing else 'part'}, as files of a denoiser alone "
            f"are; give {FOLDER}, a file of the whole model, or a hub id, and a denoiser beside it as model.denoiser"
        ) from error
    except Exception as error:  # diffusers raises whatever it stumbles over in a damaged file, or in one of another kind
        there = variants_of(Path(path))
        if variant is None and there:
            raise ValueError(
                f"model source {source!r} has weights of variant {', '.join(there)} alone; set model.variant={there[0]}"
            ) from error
        if variant is not None and Path(path).is_dir() and variant not in there:
            known = f"which it has: {', '.join(there)}" if there else "or remove it: the weights there have plain names"
            raise ValueError(f"model source {source!r} has no weights of variant {variant!r}; set model.variant to one {known}") from error
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(
            f"model source {source!r} could not be loaded: {' '.join(str(error).split())[:300]}; give {FOLDER},"
            f"{' a .safetensors file of a whole model (in such a folder where there is no network),' if takes_file else ''} "
            f"or a hub id that can be reached; fetch damaged files again"
        ) from error


def refuse_file(source: str) -> None:
    """ValueError where it is one .safetensors file, of a family that diffusers does not read out of such a file."""
    if source.endswith(".safetensors"):
        raise ValueError(
            f"{source}: diffusers reads no single file of this family; give {FOLDER}, or a hub id, and a file of its denoiser alone as "
            f"model.denoiser"
        )


def variants_of(folder: Path) -> list[str]:
    """Variants of the parts of a diffusers folder that have no weights of plain names: fp16 of unet/….fp16.safetensors alone."""
    found = set()
    for part in {file.parent for file in folder.glob("*/*.safetensors")}:
        names = [VARIANT.fullmatch(file.name) for file in part.glob("*.safetensors")]
        found |= {match[1] for match in names if match} if all(names) else set()
    return sorted(found)


def dtype_argument(dtype: torch.dtype | dict[str, torch.dtype]) -> dict[str, Any]:
    """The keyword by which diffusers takes a dtype: `torch_dtype` until 0.40, `dtype` since."""
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 41) else "torch_dtype": dtype}


def fuse_adapter(pipeline: Any, part: str, adapter: str, source: str) -> None:
    """Adds a LoRA to the weights of the denoiser, `part` of the pipeline, for good. ValueError where it does not fit."""
    if not takes_lora(type(pipeline)):
        _fuse_by_peft(getattr(pipeline, part), adapter, source)
        return
    _load_adapter(pipeline, part, adapter, source)
    pipeline.fuse_lora(**({"components": [part]} if part in SECOND else {}))
    pipeline.unload_lora_weights()


def keep_adapters(pipeline: Any, part: str, adapters: Sequence[str], source: str) -> None:
    """Adds LoRAs beside the weights of the denoiser, frozen, all of them active. ValueError where one does not fit."""
    for place, adapter in enumerate(adapters):
        _add_beside(pipeline, part, adapter, f"{KEPT}{place}", source)
    for module in pipeline.components.values():  # what an adapter has for text encoders too
        if kept_adapters(module):
            take_adapters(module)


def kept_adapters(module: Any) -> list[str]:
    """The names of the adapters beside a denoiser's weights that belong to the model."""
    return [name for name in getattr(module, "peft_config", {}) if name.startswith(KEPT)]


def take_adapters(module: nn.Module, *names: str) -> None:
    """Makes those active that belong to the model, and of the others these alone, which are trained where there is a gradient."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    kept = kept_adapters(module)
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter([*kept, *names])
    for name, parameter in module.named_parameters() if kept else ():
        if f".{KEPT}" in name:
            parameter.requires_grad_(False)


def _add_beside(pipeline: Any, part: str, adapter: str, name: str, source: str) -> None:
    denoiser = getattr(pipeline, part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)  # peft's, at the second: it is meant
        if takes_lora(type(pipeline)):
            _load_adapter(pipeline, part, adapter, source, adapter_name=name)
        else:
            _keep_by_peft(denoiser, adapter, source, name)
    if name not in getattr(denoiser, "peft_config", {}):  # another is there
        raise _strange(adapter, source)


def keep_reference(pipeline: Any, part: str, adapter: str, name: str, source: str) -> str:
    """Adds a LoRA beside the denoiser's own, frozen, under a name; a short hash of its weights. ValueError where it does not fit.

    Which of them are active afterwards is for the caller to say.
    """
    denoiser = getattr(pipeline, part)
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    _add_beside(pipeline, part, adapter, name, source)
    denoiser.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return weights_hash({key: value for key, value in denoiser.state_dict().items() if f".{name}." in key} | _scales(denoiser, name))


def _scales(denoiser: nn.Module, adapter: str) -> dict[str, Tensor]:
    """α/rank of an adapter's layers."""
    return {
        f"{place}.scale": torch.tensor(float(module.scaling[adapter]))
        for place, module in denoiser.named_modules()
        if adapter in getattr(module, "scaling", {})
    }


def _load_adapter(pipeline: Any, part: str, adapter: str, source: str, **options: Any) -> None:
    place = str(source_path(adapter) or adapter)
    # Without a network only new releases of diffusers look which file a folder has.
    named = {"weight_name": LORA_FILE} if (Path(place) / LORA_FILE).is_file() else {}
    try:
        pipeline.load_lora_weights(place, **named, **SECOND.get(part, {}), **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unfit(adapter, source, error) from error
    if not getattr(getattr(pipeline, part), "peft_config", None):  # diffusers only logs where no key fits
        raise _strange(adapter, source)


def _strange(adapter: str, source: str) -> ValueError:
    return ValueError(f"adapter {adapter!r} has no weights for the denoiser of {source!r}; {ADAPTER_FIX}")


def _fuse_by_peft(denoiser: Any, adapter: str, source: str) -> None:
    """As `fuse_adapter`, of a folder in peft's layout."""
    from peft import PeftModel

    place = _peft_folder(adapter)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")  # peft goes on without them
            PeftModel.from_pretrained(denoiser, place).merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError, UserWarning) as error:
        raise _unfit(adapter, source, error) from error


def _keep_by_peft(denoiser: Any, adapter: str, source: str, name: str) -> None:
    """Adds a LoRA in peft's layout beside what the denoiser has, under a name of its own. ValueError where it does not fit."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    place = _peft_folder(adapter)
    try:
        config: Any = LoraConfig.from_pretrained(place)
        config.lora_dropout = 0.0  # it is not trained
        layers = {key.removeprefix("base_model.model."): value for key, value in load_peft_weights(place, device="cpu").items()}
        inject_adapter_in_model(config, denoiser, name)
        missing = sorted(get_peft_model_state_dict(denoiser, adapter_name=name).keys() - layers.keys())
        if missing:
            raise ValueError(f"missing adapter keys: {', '.join(missing[:3])}")
        set_peft_model_state_dict(denoiser, layers, adapter_name=name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unfit(adapter, source, error) from error


def _peft_folder(adapter: str) -> str:
    """The folder or hub id of an adapter in peft's layout; ValueError for a folder without one."""
    place = source_path(adapter) or adapter
    if Path(place).is_dir() and not (Path(place) / PEFT_FILE).is_file():
        raise ValueError(f"adapter {adapter!r} holds no {PEFT_FILE}; {ADAPTER_FIX}")
    return str(place)


def _unfit(adapter: str, source: str, error: Exception) -> ValueError:
    return ValueError(f"adapter {adapter!r} cannot be loaded onto {source!r}: {' '.join(str(error).split())[:300]}; {ADAPTER_FIX}")


def adapters_of(adapter: str | Path | Sequence[str | Path] | None) -> list[str]:
    """None, one or several adapters as a list."""
    return [str(adapter)] if isinstance(adapter, str | Path) else [str(each) for each in adapter or ()]


def takes_lora(pipeline: type) -> bool:
    """Whether diffusers loads a LoRA of this kind of pipeline; of others peft does."""
    return hasattr(pipeline, "load_lora_weights")


def has_lora(denoiser: nn.Module) -> bool:
    """Whether there is an adapter beside the weights that is not a part of the model."""
    return any("lora_" in name and f".{KEPT}" not in name for name, _ in denoiser.named_parameters())


def lora_layers(denoiser: Any) -> dict[str, Tensor]:
    """The LoRA of a denoiser in diffusers' keys, or in peft's, which diffusers reads as well, where it has none for every layer."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    config = denoiser.peft_config["default"]  # set by add_adapter; beside it there may be one that is a reference
    # Readers take α = rank where the file does not say otherwise, and few read what diffusers could say: the scale α/rank goes into B.
    scaled = {
        name: value * (config.lora_alpha / config.r) if ".lora_B." in name else value
        for name, value in get_peft_model_state_dict(denoiser).items()
    }
    converted = convert_state_dict_to_diffusers(scaled)
    # Of joint attention's layers it converts a part, and readers take a file for all of one kind or all of the other.
    return scaled if any(".lora_A." in name for name in converted) else converted


def save_by_peft(denoiser: Any, folder: Path) -> None:
    """The LoRA of a denoiser in peft's layout: `PeftModel.from_pretrained(pipeline.transformer, folder)` loads it."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = denoiser.peft_config["default"]
    config.save_pretrained(folder)
    layers = get_peft_model_state_dict(denoiser)
    save_file({f"base_model.model.{name}": value.contiguous() for name, value in layers.items()}, folder / PEFT_FILE)


def denoiser_identity(denoiser: nn.Module) -> str:
    """A short hash of a denoiser's weights, with those adapters beside them that belong to the model, and no others."""
    own = {name: tensor for name, tensor in denoiser.state_dict().items() if "lora_" not in name or f".{KEPT}" in name}
    for adapter in kept_adapters(denoiser):
        own |= {f"{adapter}.{place}": scale for place, scale in _scales(denoiser, adapter).items()}
    return weights_hash(own)


def encoder_identity(parts: Mapping[str, Any], dtype: torch.dtype) -> str:
    """ "dtype:hash" of the modules that make latents and embeds."""
    tensors = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
    return f"{str(dtype).removeprefix('torch.')}:{weights_hash(tensors)}"


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of names, shapes and values."""
    digest = hashlib.sha256()
    plain_ones = [part for name, tensor in tensors.items() for part in _plain(name.replace(".base_layer", ""), tensor)]
    for name, tensor in sorted(plain_ones, key=itemgetter(0)):
        # Integer sums over the bits, plain and by place: exact, so the same on every device and with any number of threads.
        values = tensor.detach().flatten()
        plain, by_place = values.new_zeros((2,), dtype=torch.int64)
        for start in range(0, len(values), CHUNK):
            bits = values[start : start + CHUNK].float().view(torch.int32).to(torch.int64)
            plain += bits.sum()
            by_place += (bits * torch.arange(start + 1, start + len(bits) + 1, device=bits.device)).sum()
        digest.update(f"{name} {tuple(tensor.shape)} {int(plain)} {int(by_place)}".encode())
    return digest.hexdigest()[:16]


def _plain(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A tensor, or the ones that one of torchao's is made of: quantised values, scales."""
    if not is_traceable_wrapper_subclass(tensor):
        return [(name, tensor)]
    parts, _ = tensor.__tensor_flatten__()
    return [each for part in parts for each in _plain(f"{name}.{part}", getattr(tensor, part))]


def to_uint8(decoded: Tensor) -> np.ndarray:
    """Values in [−1, 1] as 0–255, of the same shape."""
    return ((decoded.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
