"""A package in the place of audiobox_aesthetics, whose scores say what it was given."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


class FakePredictor:
    """CE is the mean of the samples, CU the channels, PC the samples, PQ the rate; remembers the sizes of its batches."""

    def __init__(self, checkpoint: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.batches: list[int] = []

    def forward(self, asked: list[dict[str, Any]]) -> list[Any]:
        self.batches.append(len(asked))
        return [
            {"CE": float(each["path"].mean()), "CU": each["path"].shape[0], "PC": each["path"].shape[1], "PQ": each["sample_rate"]}
            for each in asked
        ]


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> list[FakePredictor]:
    """Makes it importable; the predictors that were asked for are in the list."""
    made: list[FakePredictor] = []

    def initialize_predictor(checkpoint: str | None = None) -> FakePredictor:
        made.append(FakePredictor(checkpoint))
        return made[-1]

    package, infer = ModuleType("audiobox_aesthetics"), ModuleType("audiobox_aesthetics.infer")
    infer.initialize_predictor = initialize_predictor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", package)
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.infer", infer)
    return made
