"""How many decoded media are in memory at once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from diffalign.data.modalities import media_class


@dataclass
class Decoded:
    """What a modality has decoded since `watch`, of which `most` were alive at one time."""

    arrays: list[weakref.ref[Any]] = field(default_factory=list)
    most: int = 0

    @property
    def alive(self) -> int:
        return sum(array() is not None for array in self.arrays)


def watch(monkeypatch: pytest.MonkeyPatch, modality: str) -> Decoded:
    media, seen = media_class(modality), Decoded()
    decode = media._decode

    def decoded(self: Any) -> Any:
        found = decode(self)
        seen.arrays.append(weakref.ref(found))
        seen.most = max(seen.most, seen.alive)
        return found

    monkeypatch.setattr(media, "_decode", decoded)
    return seen
