"""The hash that names weights."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from diffalign.backbones import weights


def whole(tensors: dict[str, Tensor]) -> str:
    """The same, of each tensor at once: runs and caches hold such hashes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        bits = tensor.float().flatten().view(torch.int32).to(torch.int64)
        place = torch.arange(1, len(bits) + 1)
        digest.update(f"{name} {tuple(tensor.shape)} {int(bits.sum())} {int((bits * place).sum())}".encode())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("chunk", [1, 7, 12, 2**24])
def test_a_hash_in_parts_is_that_of_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tensors are no block of memory, hold one value or none, or are of another type."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "half": torch.randn(3, 4, generator=draw).bfloat16(), "turned": torch.randn(5, 7, generator=draw).T,
        "one": torch.tensor(2.5), "none": torch.zeros(0, 3), "numbers": torch.arange(12), "bits": torch.tensor([True, False]),
    }  # fmt: skip
    monkeypatch.setattr(weights, "CHUNK", chunk)
    assert weights.weights_hash(tensors) == whole(tensors)


def test_sums_in_parts_wrap_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    large = torch.full((2**17,), 3e38)
    assert int(large.view(torch.int32)[0]) * sum(range(1, 2**17 + 1)) > 2**63
    monkeypatch.setattr(weights, "CHUNK", 10_000)
    assert weights.weights_hash({"large": large}) == whole({"large": large})
