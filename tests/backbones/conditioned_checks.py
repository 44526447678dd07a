"""What every family that takes a condition is asked beside the questions of family_checks, and how those are put with conditions."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from family_checks import PROMPTS, FamilyChecks, normal, pixels
from torch import Tensor

from diffalign.backbones import BACKBONES
from diffalign.data.modalities import media_class
from diffalign.data.modalities.image import Image, fit


def picture(prompt: str, size: tuple[int, int]) -> Image:
    """Blocks of its own for each prompt; size is (height, width)."""
    blocks = np.random.default_rng(int(sha256(prompt.encode()).hexdigest()[:8], 16)).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.from_pixels(np.asarray(PIL.Image.fromarray(blocks).resize(size[::-1], PIL.Image.Resampling.BICUBIC)))


class ConditionedChecks(FamilyChecks):
    """Every prompt with a picture of its own."""

    def conditions(self, prompts: list[str]) -> list[Image]:
        height, width = self.size[-2:]
        return [picture(prompt, (height, width)) for prompt in prompts]

    def embedded(self, loaded: Any, prompts: list[str]) -> dict[str, Tensor]:
        return loaded.embed(prompts) | loaded.embed_condition(self.conditions(prompts), self.size)

    def given(self, prompts: list[str]) -> dict[str, Any]:
        return {"conditions": self.conditions(prompts)}

    def given_plainly(self, prompts: list[str]) -> dict[str, Any]:
        return {"image": [PIL.Image.fromarray(condition.pixels()) for condition in self.conditions(prompts)]}

    def medium(self, number: int) -> Any:
        """A sample of the size, of random numbers."""
        values = np.random.default_rng(number).integers(0, 256, (*self.size, 3), np.uint8)
        family = media_class(BACKBONES[self.family].modality)
        return family.from_pixels(values) if len(self.size) == 2 else family.from_frames(values, 8.0)

    def data(self, folder: Path) -> tuple[str, ...]:
        """Four records of two samples and a condition, which is larger than they are."""
        height, width = self.size[-2:]
        suffix, lines, prompts = ".png" if len(self.size) == 2 else ".mp4", [], []
        for index in range(4):
            prompt = PROMPTS[index % 2]
            names = [f"{index}-{side}{suffix}" for side in "ab"]
            for place, name in enumerate(names):
                (folder / name).write_bytes(self.medium(2 * index + place).encoded())
            (folder / f"{index}.png").write_bytes(picture(prompt, (height + 8, 2 * width)).encoded())
            prompts.append({"prompt": prompt, "condition": f"{index}.png"})
            candidates, said = [{"path": name} for name in names], [{"type": "pair", "order": [0, 1]}]
            lines.append(prompts[-1] | {"candidates": candidates, "preferences": said})
        for name, rows in (("records.jsonl", lines), ("prompts.jsonl", prompts[:1])):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return f"pair.source={{importer: records, path: {folder / 'records.jsonl'}}}", f"evaluate.prompts.file={folder / 'prompts.jsonl'}"

    def test_the_condition_is_what_is_asked_for(self, loaded: Any) -> None:
        """Another picture gives another prediction and another sample; one that is larger is covered and cut as media are."""
        assert BACKBONES[self.family].takes_condition
        embeds, swapped = self.embedded(loaded, PROMPTS), loaded.embed_condition(self.conditions(PROMPTS[::-1]), self.size)
        noised, timestep = normal(2, *self.latents), torch.tensor([300.0, 700.0])
        with torch.no_grad():
            own, other = (loaded.predict(loaded.denoiser, noised, timestep, each) for each in (embeds, embeds | swapped))
        assert not torch.allclose(own, other, atol=1e-4)
        height, width = self.size[-2:]
        larger = [picture(prompt, (height + 8, 2 * width)) for prompt in PROMPTS]
        cut = [Image.from_pixels(fit(each.pixels(), (height, width))) for each in larger]
        for name, value in loaded.embed_condition(larger, self.size).items():
            assert torch.allclose(value, loaded.embed_condition(cut, self.size)[name], atol=1e-6), name
        options: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": self.size}
        first, second, third = (
            pixels(loaded.sample(PROMPTS, [1, 2], conditions=each, **options)) for each in (larger, cut, self.conditions(PROMPTS))
        )
        assert np.array_equal(first, second) and not np.array_equal(first, third)

    def test_conditions_are_one_for_each_prompt(self, loaded: Any) -> None:
        with pytest.raises(ValueError, match="2 prompts and 1 conditions; give one image per prompt"):
            loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=self.size, conditions=self.conditions(PROMPTS[:1]))
