"""How the questions of family_checks are put to sounds: they are compared as the 16 bits that they are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from family_checks import PROMPTS, STEPS, FamilyChecks
from tiny_media import flac

SAMPLES = 768  # of every tiny pipeline's window


class SoundFamilyChecks(FamilyChecks):
    size: ClassVar[tuple[int, ...]] = (SAMPLES,)
    fused_rounding: ClassVar[int] = 16

    def save_pairs(self, folder: Path) -> Path:
        for side, start in (("chosen", 0), ("rejected", 10)):
            (folder / side).mkdir(parents=True)
            for number in range(4):
                (folder / side / f"{number}.flac").write_bytes(flac(start + number, SAMPLES))
                (folder / side / f"{number}.txt").write_text(PROMPTS[number % 2])
        return folder

    def made(self, pipeline: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> Any:
        arguments = {"output_type": "np", "num_inference_steps": STEPS} | self.own | self.guidance | options
        return pipeline(prompt=prompts, generator=[torch.Generator().manual_seed(seed) for seed in seeds], **arguments).audios

    def plain_pixels(self, pipeline: Any, seeds: list[int], **options: Any) -> np.ndarray:
        return np.rint(self.made(pipeline, seeds, **options) * 32768).clip(-32768, 32767).astype(int)

    def our_pixels(self, backbone: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> np.ndarray:
        sounds = backbone.sample(prompts, seeds, steps=STEPS, guidance=3.0, size=self.size, **options)
        return np.stack([np.rint(sound.waveform() * 32768).astype(int) for sound in sounds])
