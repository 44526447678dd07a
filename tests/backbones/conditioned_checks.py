"""What every family that takes a condition is asked beside the questions of family_checks, and how those are put with conditions."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from family_checks import PROMPTS, STEPS, FamilyChecks, normal, pixels, spied
from run_checks import PLAIN
from torch import Tensor

from diffalign.backbones import BACKBONES, load_backbone
from diffalign.data.latents import LatentCache
from diffalign.data.modalities import media_class
from diffalign.data.modalities.image import Image, fit
from diffalign.data.records import read_candidates, read_preferences
from diffalign.training.groups import CachedGroups


def picture(prompt: str, size: tuple[int, int]) -> Image:
    """Blocks of its own for each prompt; size is (height, width)."""
    blocks = np.random.default_rng(int(sha256(prompt.encode()).hexdigest()[:8], 16)).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.from_pixels(np.asarray(PIL.Image.fromarray(blocks).resize(size[::-1], PIL.Image.Resampling.BICUBIC)))


class ConditionedChecks(FamilyChecks):
    """Every prompt with a picture of its own."""

    @classmethod
    def conditions(cls, prompts: list[str]) -> list[Image]:
        height, width = cls.size[-2:]
        return [picture(prompt, (height, width)) for prompt in prompts]

    @classmethod
    def images(cls, prompts: list[str]) -> list[PIL.Image.Image]:
        """The same as a pipeline takes them."""
        return [PIL.Image.fromarray(condition.pixels()) for condition in cls.conditions(prompts)]

    def embedded(self, loaded: Any, prompts: list[str]) -> dict[str, Tensor]:
        return loaded.embed(prompts) | self.of_conditions(loaded, self.conditions(prompts), prompts)

    def of_conditions(self, loaded: Any, conditions: list[Image], prompts: list[str]) -> dict[str, Tensor]:
        """What `embed_condition` gives, which takes the prompts where the family reads both together."""
        return loaded.embed_condition(conditions, self.size, *([prompts] if BACKBONES[self.family].reads_together else []))

    def given(self, prompts: list[str]) -> dict[str, Any]:
        return {"conditions": self.conditions(prompts)}

    def given_plainly(self, prompts: list[str]) -> dict[str, Any]:
        return {"image": self.images(prompts)}

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
        embeds, swapped = self.embedded(loaded, PROMPTS), self.of_conditions(loaded, self.conditions(PROMPTS[::-1]), PROMPTS)
        noised, timestep = normal(2, *self.latents), torch.tensor([300.0, 700.0])
        with torch.no_grad():
            own, other = (loaded.predict(loaded.denoiser, noised, timestep, each) for each in (embeds, embeds | swapped))
        assert not torch.allclose(own, other, atol=1e-4)
        height, width = self.size[-2:]
        larger = [picture(prompt, (height + 8, 2 * width)) for prompt in PROMPTS]
        cut = [Image.from_pixels(fit(each.pixels(), (height, width))) for each in larger]
        wanted = self.of_conditions(loaded, cut, PROMPTS)
        for name, value in self.of_conditions(loaded, larger, PROMPTS).items():
            assert torch.allclose(value, wanted[name], atol=1e-6), name
        options: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": self.size}
        first, second, third = (
            pixels(loaded.sample(PROMPTS, [1, 2], conditions=each, **options)) for each in (larger, cut, self.conditions(PROMPTS))
        )
        assert np.array_equal(first, second) and not np.array_equal(first, third)

    def test_conditions_are_one_for_each_prompt(self, loaded: Any) -> None:
        with pytest.raises(ValueError, match="2 prompts and 1 conditions; give one image per prompt"):
            loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, size=self.size, conditions=self.conditions(PROMPTS[:1]))


class AloneChecks(ConditionedChecks):
    """A family whose pipeline takes one prompt with its picture in a call."""

    def made(self, pipeline: Any, seeds: list[int], prompts: list[str] = PROMPTS, **options: Any) -> Any:
        """Each prompt with its own picture."""
        shared = self.guidance | options
        alone = {"negative_prompt": shared["negative_prompt"][:1]} if shared.get("negative_prompt") else {}
        parts = [super(AloneChecks, self).made(pipeline, [seed], [prompt], **options | alone) for seed, prompt in zip(seeds, prompts)]
        return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)

    @pytest.mark.parity
    def test_predict_is_what_the_pipeline_s_steps_take(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As of every family, a prompt at a time."""
        pipeline = self.plain(folder)
        calls = spied(pipeline, monkeypatch)
        self.made(pipeline, [1, 2], **self.unguided)
        assert len(calls) == 2 * STEPS and calls[0][2].std() > 0
        for place, (sample, timestep, output) in enumerate(calls):
            embeds = self.embedded(loaded, [PROMPTS[place // STEPS]])
            with torch.no_grad():
                ours = loaded.predict(loaded.denoiser, self.unpacked(sample), timestep.expand(1), embeds)
            assert torch.allclose(ours, self.unpacked(output), atol=1e-5)


class TogetherChecks(AloneChecks):
    """Of a family that reads prompt and condition together; its pipeline is asked for a prompt at a time."""

    def given_plainly(self, prompts: list[str]) -> dict[str, Any]:
        """The pipeline takes one picture."""
        return {"image": self.images(prompts)[0]}

    def test_embeds_are_the_pipeline_s(self, loaded: Any, folder: Path) -> None:
        """Of prompt and picture, so that batches of others join in the cache; another picture gives the text other embeds."""
        expected, found = self.embeds_of(self.plain(folder), PROMPTS), self.embedded(loaded, PROMPTS)
        for name, value in expected.items():
            assert torch.allclose(found[name].to(value.dtype), value, atol=1e-6), name
        alone = [self.embedded(loaded, [prompt]) for prompt in PROMPTS]
        for name, value in found.items():
            assert torch.allclose(value, torch.cat([each[name] for each in alone]), atol=1e-5), name
        other = self.of_conditions(loaded, self.conditions(PROMPTS[::-1]), PROMPTS)["prompt_embeds"]
        last = found["prompt_mask"].sum(1).long() - 1
        assert not any(torch.allclose(other[row, place], found["prompt_embeds"][row, place], atol=1e-5) for row, place in enumerate(last))
        assert loaded.token_count("a red circle") <= loaded.token_limit < loaded.token_count("a red circle " * 200)
        with pytest.raises(ValueError, match="0 prompts and 2 conditions; give one image per prompt"):
            loaded.embed_condition(self.conditions(PROMPTS), self.size)

    def test_the_limit_of_tokens_is_where_the_encoder_cuts(self, loaded: Any) -> None:
        """As of every family, beside one picture."""
        words, picture = ["a "] * (2 * loaded.token_limit), self.conditions(PROMPTS[:1])
        [fits] = [count for count in range(len(words)) if loaded.token_count("".join(words[:count]) + "red") == loaded.token_limit]

        def tells_apart(count: int) -> bool:
            texts = ["".join(words[:count]) + last for last in ("red", "blue")]
            return not torch.allclose(*(self.of_conditions(loaded, picture, [text])["prompt_embeds"] for text in texts), atol=1e-6)

        assert tells_apart(fits) and not tells_apart(fits + 12)

    @pytest.mark.integration
    def test_a_dropped_prompt_is_read_with_its_condition(self, folder: Path, tmp_path: Path) -> None:
        """In the cache that a run trains on each condition stands with its prompt and with the empty one, mirrored too."""
        self.trained_by_config(folder, tmp_path, *PLAIN, "encode.flip=true", "train.steps=1", "evaluate=null", "gallery=null")
        cache, loaded = LatentCache(tmp_path / "run/latents"), load_backbone(self.family, str(folder))
        row = read_preferences(tmp_path / "run/preferences")[0]
        [condition] = [
            candidate.condition
            for candidate in read_candidates(tmp_path / "run/candidates")
            if candidate.candidate_id == row.samples[0] and candidate.condition is not None
        ]
        own = Image.from_pixels(fit(condition.pixels(), self.size[-2:]))  # type: ignore[attr-defined]
        mirrored = Image.from_pixels(own.pixels()[:, ::-1].copy())
        groups = CachedGroups(cache, [row], "pairs")
        for is_dropped, is_flipped, prompt, picture in (
            (False, False, row.prompt, own), (True, False, "", own), (False, True, row.prompt, mirrored), (True, True, "", mirrored)
        ):  # fmt: skip
            found = groups.fetch([0], dropped=[is_dropped], flipped=[is_flipped]).embeds
            wanted = loaded.embed([prompt]) | self.of_conditions(loaded, [picture], [prompt])
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                assert torch.allclose(found[name].to(value), value, atol=2e-2 * float(value.abs().max())), (name, prompt)
        with pytest.raises(ValueError, match="the model reads each prompt together with its own condition; choose another objective"):
            CachedGroups(cache, read_preferences(tmp_path / "run/preferences"), "pairs", mismatched=True)


class FirstFrameChecks(ConditionedChecks):
    """A family whose condition is the first place in time of the latents themselves: it is given, and in no error.

    shift  of the tiny pipeline's scheduler
    """

    shift: ClassVar[float]

    def test_noise_and_target_are_the_scheduler_s(self, loaded: Any) -> None:
        """But for the first place in time, which is given: it stays, and its velocity is 0."""
        x0, epsilon = normal(3, *self.latents), normal(3, *self.latents, seed=1)
        training: Any = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        training.set_timesteps(8)
        timestep = training.timesteps[[0, 3, 7]]
        noised, target = loaded.process.noise(x0, epsilon, timestep), loaded.process.target(x0, epsilon, timestep)
        assert torch.allclose(noised[:, :, 1:], training.scale_noise(x0, timestep, epsilon)[:, :, 1:], atol=1e-6)
        assert torch.equal(target[:, :, 1:], (epsilon - x0)[:, :, 1:])
        assert torch.equal(noised[:, :, 0], x0[:, :, 0]) and not target[:, :, 0].any()
        assert torch.allclose(loaded.process.clean(target, noised, timestep), x0, atol=1e-6)

    def test_what_stands_in_the_first_place_in_time_changes_nothing(self, loaded: Any) -> None:
        """The condition does, and the first place is in no error."""
        noised, timestep, embeds = normal(2, *self.latents), torch.tensor([300.0, 600.0]), self.embedded(loaded, PROMPTS)
        other = noised.clone()
        other[:, :, 0] = 7
        with torch.no_grad():
            first, second = (loaded.predict(loaded.denoiser, each, timestep, embeds) for each in (noised, other))
        assert torch.equal(first, second) and not first[:, :, 0].any() and bool(first[:, :, 1:].any())
