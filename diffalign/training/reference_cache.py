"""What a frozen reference predicted, kept on disk: runs that draw the same need each prediction once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Input = Tensor | Mapping[str, Tensor] | None
SECONDS = "seconds"  # in a file's metadata: what the prediction took


class ReferenceCache:
    """Predictions by what they were made from, to the bit: a cache can be cold, and never wrong.

    Draws are a function of seed and group (diffalign/training/randomness.py), not of the method: methods compared on the same rows with the
    same seed have their reference's predictions in common, and the points of a grid those of an inversion by the reference too.

    An entry is a whole forward, not a row: of 32 rows of the shapes model none has the same bits in forwards of 8 as in one of 32, so that
    rows from forwards of another size would make a run depend on which run came first.

    folder    shared by any number of runs and processes; may be deleted at any time
    identity  the reference's weights and the number format it runs in
    saved     seconds that recalled predictions had taken when they were made
    """

    def __init__(self, folder: Path, identity: str):
        self.folder, self.identity, self.saved = folder, identity, 0.0

    def recall(self, predict: Callable[[], Tensor], first: Tensor, *others: Input) -> Tensor:
        """What `predict()` gives for these inputs, read where it was made before; on the device of the first."""
        inputs = (first, *others)
        file = self.folder / f"{key_of(self.identity, inputs)}.safetensors"
        try:
            with safe_open(file, "pt") as stored:
                self.saved += float(stored.metadata()[SECONDS])
                return stored.get_tensor("prediction").to(first.device)
        except (FileNotFoundError, SafetensorError):  # not made yet, or cut short by a lost machine
            began = time.perf_counter()
            made = predict()
            on_disk = made.detach().cpu().contiguous()
            seconds = time.perf_counter() - began
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        save_file({"prediction": on_disk}, partial, metadata={SECONDS: repr(seconds)})
        partial.replace(file)
        return made


def key_of(identity: str, inputs: tuple[Input, ...]) -> str:
    """A hash of what a prediction is made from, to the bit."""
    digest = blake2b(identity.encode(), digest_size=16)
    for tensor in _tensors(inputs):
        digest.update(f"|{tensor.device.type} {tensor.dtype} {tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(inputs: tuple[Input, ...]) -> list[Tensor]:
    """All tensors in order, those of a mapping by name."""
    named = [{"": each} if isinstance(each, Tensor) else each or {} for each in inputs]
    return [each[name] for each in named for name in sorted(each)]
