"""Models of transformers as rewards load them: a folder or a hub id, all weights matched, and a digest of what was loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}  # of a config: no number depends on them


def torch_device(reward: str, device: str) -> torch.device:
    """ "auto" is CUDA where there is one; ValueError where CUDA is asked for and there is none."""
    import torch

    found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{reward} got device = {device!r}, but torch finds no CUDA here; give 'cpu' or 'auto'")
    return found


def from_pretrained(reward: str, kind: Any, checkpoint: str, revision: str | None, **settings: Any) -> Any:
    """kind.from_pretrained of a folder, or of a hub id at a revision (a branch, tag or commit).

    Nothing but tensors is opened and no code of a checkpoint runs. FileNotFoundError for a path that is not there; ValueError, with the
    reason, for what does not load.
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{reward} got checkpoint = {checkpoint!r}, which does not load as {kind.__name__} ({reason}); it must be a folder that "
            "transformers saved (of tensors alone: nothing else is opened), or the hub id of one"
        ) from error


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
