"""Audiobox aesthetics: how much people enjoy a sound, could use it, how complex and how well produced it is, whatever its prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call
from reward_models.pretrained import checked_batch, chunks
from reward_models.waveforms import Waveform
from reward_models.weights import file_digest, weights_file

PACKAGE = "audiobox_aesthetics"
DOWNLOAD = "hf download facebook/audiobox-aesthetics checkpoint.pt"


class AudioboxAesthetics:
    """CE, CU, PC and PQ, each about 1 to 10: content enjoyment and usefulness, production complexity and quality.

    Tjandra et al. 2025, arXiv:2502.05139, by the package audiobox_aesthetics, which is no dependency of ours: it is used where it is
    installed. It mixes to mono, resamples to 16 kHz, and averages over windows of 10 s by how much of each the sound fills. No prompt.

    checkpoint  the released checkpoint.pt; None: the one that the package fetches
    batch       sounds per forward
    """

    name = "audiobox_aesthetics"
    modalities = frozenset({"audio"})
    dimensions = ("CE", "CU", "PC", "PQ")
    groupwise = False

    def __init__(self, checkpoint: str | None = None, *, batch: int = 8) -> None:
        self.batch = checked_batch(self.name, batch)
        path = None if checkpoint is None else weights_file(self.name, checkpoint, DOWNLOAD)
        self.predictor: Any = inference().initialize_predictor(*([] if path is None else [str(path)]))
        self.revision = f"{installed_version()}/{'released' if path is None else file_digest(path)}"

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """One list per dimension. Prompts are ignored."""
        import torch

        check_call(self, prompts, media)
        rows: list[Mapping[str, float]] = []
        for sounds in chunks(cast("Sequence[Waveform]", media), self.batch):
            asked = [{"path": torch.from_numpy(sound.waveform().copy()), "sample_rate": sound.sample_rate_hz} for sound in sounds]
            # Some versions answer with objects, others with their JSON.
            rows += [json.loads(row) if isinstance(row, str) else row for row in self.predictor.forward(asked)]
        return {dimension: [float(row[dimension]) for row in rows] for dimension in self.dimensions}


def inference() -> Any:
    """The package's module of inference; ModuleNotFoundError or ImportError that says what to do where it does not import."""
    try:
        return import_module(f"{PACKAGE}.infer")
    except ModuleNotFoundError as error:
        if error.name not in (PACKAGE, f"{PACKAGE}.infer"):
            raise
        raise ModuleNotFoundError(
            f"reward 'audiobox_aesthetics' needs the package {PACKAGE}, which is not installed and is no extra of ours: "
            f"pip install {PACKAGE}",
            name=error.name,
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"the package {PACKAGE} does not import here ({error}); it needs a torchaudio that fits the installed torch", name=PACKAGE
        ) from error


def installed_version() -> str:
    """Of the package; "unknown" where it was not installed as one."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"
