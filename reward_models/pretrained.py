"""Models of transformers as rewards load them: a folder or a hub id, all weights matched, and a digest of what was loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.contract import check_counts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = ("auto", "float32", "bfloat16", "float16")  # auto: as the checkpoint is stored
INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}  # of a config: no number depends on them


def torch_device(reward: str, device: str) -> torch.device:
    """ "auto" is CUDA where there is one; ValueError where CUDA is asked for and there is none."""
    import torch

    found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{reward} got device = {device!r}, but torch finds no CUDA here; give 'cpu' or 'auto'")
    return found


def checked_dtype(reward: str, dtype: str) -> str:
    """A name of PRECISIONS; ValueError for another."""
    if dtype not in PRECISIONS:
        raise ValueError(f"{reward} got dtype = {dtype!r}; choose one of: {', '.join(PRECISIONS)}")
    return dtype


def checked_batch(reward: str, batch: int) -> int:
    """Items per forward; ValueError for fewer than 1."""
    check_counts(reward, batch=batch)
    return batch


def from_pretrained(reward: str, kind: Any, checkpoint: str, revision: str | None, **settings: Any) -> Any:
    """kind.from_pretrained of a folder, or of a hub id at a revision (a branch, tag or commit).

    Nothing but tensors is opened and no code of a checkpoint runs. FileNotFoundError for a path that is not there; ValueError, with the
    reason, for what does not load; ModuleNotFoundError where it needs torchvision, as the processors of Qwen-VL do, and there is none.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_dir() and (checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1):
        raise FileNotFoundError(
            f"{reward} got checkpoint = {checkpoint!r}, which is no folder; give one that transformers saved, or a hub id like owner/name"
        )
    if path.is_dir() and revision is not None:
        raise ValueError(f"{reward} got revision = {revision!r} with the folder {checkpoint!r}; a revision is of a hub id, leave it out")
    if path.is_dir():
        settings |= {"local_files_only": True}
    elif revision is not None:
        settings |= {"revision": revision}
    try:
        return kind.from_pretrained(str(path) if path.is_dir() else checkpoint, trust_remote_code=False, **settings)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each format and release has its own; the chain keeps it
        if isinstance(error, ImportError) and "torchvision" in str(error).lower():
            raise ModuleNotFoundError(
                f"{reward} got checkpoint = {checkpoint!r}, whose {kind.__name__} needs torchvision, which is not installed: "
                "pip install 'diffalign[clip]'",
                name="torchvision",
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{reward} got checkpoint = {checkpoint!r}, which does not load as {kind.__name__} ({reason}); it must be a folder that "
            "transformers saved (of tensors alone: nothing else is opened), or the hub id of one"
        ) from error


def pillow_processor(reward: str, checkpoint: str, revision: str | None) -> Any:
    """The image processor of a checkpoint that resizes with Pillow, as the releases of CLIP and its kin do.

    transformers 5 resizes tensors with torchvision unless told otherwise, and the numbers differ.
    """
    import transformers

    pillow = {"use_fast": False} if int(transformers.__version__.partition(".")[0]) < 5 else {"backend": "pil"}
    return from_pretrained(reward, transformers.AutoImageProcessor, checkpoint, revision, **pillow)


def pretrained_model(reward: str, kind: Any, checkpoint: str, revision: str | None, dtype: Any) -> Any:
    """The model in its mode for evaluation, on the CPU. ValueError where the checkpoint leaves a weight out: it would be random."""
    model, report = from_pretrained(
        reward, kind, checkpoint, revision, dtype=dtype, weights_only=True, output_loading_info=True
    )  # fmt: skip
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{reward} got checkpoint = {checkpoint!r}, which lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}; give a checkpoint of that architecture"
        )
    return model.eval()


def unit_embeddings(output: Any) -> Tensor:
    """Unit embeddings (N, D) float32 of what get_text_features and its kin give: transformers 4 bare, transformers 5 as `pooler_output`."""
    from torch import Tensor
    from torch.nn.functional import normalize

    return normalize((output if isinstance(output, Tensor) else output.pooler_output).float(), dim=1)


def weights_digest(model: Any) -> str:
    """The first 12 hex digits of the sha256 of a model's tensors, by name: the same weights in any file and folder agree."""
    import torch

    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def settings_digest(*settings: Any) -> str:
    """The first 12 hex digits of the sha256 of configs, without what says only where and by what they were saved."""
    return sha256(json.dumps(_essential(settings), sort_keys=True).encode()).hexdigest()[:12]


def _essential(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _essential(each) for key, each in value.items() if key not in INCIDENTAL}
    return [_essential(each) for each in value] if isinstance(value, list | tuple) else value


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The items in order, at most `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
