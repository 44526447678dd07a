"""Where the samples of a group come from, beside independent seeds: variations of one real medium, and slightly wrong prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from diffalign.endpoint import Endpoint
from pipelines.config import Section, files_fingerprint
from pipelines.unanswered import MOST
from reward_models.worlds import WORLDS, load_world

if TYPE_CHECKING:
    from diffalign.backbones import Backbone
    from diffalign.data.modalities import Media


@dataclass(frozen=True)
class Real:
    """A real medium, and the id of the candidate that it is of, where it is one's."""

    media: Media
    candidate_id: str | None = None


Source = Callable[[str, tuple[int, ...], float | None], Real]  # a prompt, the size that its samples have, at so many a second


class Guided(Section):
    """Samples denoised from one real medium of the prompt, noised to one level: Wu et al. 2025 (DenseDPO), arXiv:2506.03517, section 4.1.

    They share what stands out, as the motion of a video, and differ in the rest. Exactly one of `world` and `media` says what is real.
    """

    world: str | None = None  # its renders
    media: Path | None = None  # a folder of candidates (shard-*.parquet): for each prompt the first with that text
    low: float = Field(default=0.65, gt=0, lt=1)  # of the timesteps, the least and the greatest that a group is noised to
    high: float = Field(default=0.8, gt=0, lt=1)
    same_strength: bool = True  # False: a level for each sample, which a loss can learn instead of the preference (control)

    @model_validator(mode="after")
    def _check(self) -> Guided:
        if (self.world is None) == (self.media is None):
            raise ValueError("guided: give exactly one of world (its renders are the real media) and media (a folder of candidates)")
        if self.world is not None and self.world not in WORLDS:
            raise ValueError(f"unknown world {self.world!r}; choose one of: {', '.join(WORLDS)}")
        if self.low > self.high:
            raise ValueError(f"guided: low {self.low} is above high {self.high}; swap them")
        return self

    def source(self, seed: int) -> Source:
        """Prompt → its real medium, the same for every sample of a size; ValueError for a prompt that has none."""
        if self.media is not None:
            return _first_of(self.media.expanduser())
        world = load_world(str(self.world))
        return lambda prompt, *size: Real(world.medium(prompt, random.Random(f"{seed}\0real\0{prompt}").getrandbits(31), *size))

    @property
    def fingerprint(self) -> str | None:
        """What identifies the media of the folder, whatever else lies beside them; None of a world."""
        return None if self.media is None else files_fingerprint(self.media.expanduser(), names="shard-*.parquet")

    def strength(self, seed: int, group: str, sample: int) -> float:
        """The share of the timesteps that a sample is noised to."""
        place = group if self.same_strength else f"{group}\0{sample}"
        return random.Random(f"{seed}\0strength\0{place}").uniform(self.low, self.high)


def _first_of(folder: Path) -> Source:
    from diffalign.data.candidate_files import CandidateFiles
    from diffalign.data.shards import read_rows

    files, first = CandidateFiles(folder), dict[str, str]()
    for row in read_rows(folder, ["candidate_id", "prompt"]):
        first.setdefault(row["prompt"], row["candidate_id"])

    def find(prompt: str, size: tuple[int, ...], rate: float | None) -> Real:
        if prompt not in first:
            raise ValueError(f"guided: no candidate in {folder} has the prompt {prompt!r}; draw the prompts from that set")
        return Real(files[first[prompt]].media, first[prompt])

    return find


class Perturbed(Section):
    """More samples of each group, of prompts that are slightly wrong: Majumder et al. 2024 (Tango 2), arXiv:2404.09956, section 3.

    A language model writes them (pipelines/wrong_prompts.py), or a world's own rules. Their samples answer the group's prompt badly:
    pair.rule own_vs_rest.
    """

    world: str | None = None  # its rules; default without an endpoint: the world the prompts are of
    endpoint: Endpoint | None = None  # a language model instead
    count: int = Field(default=1, ge=1)  # samples of each group, each of another wrong prompt while there are
    # Of each of them; default: the most of generate.steps. Few steps would be a second reason to lose.
    steps: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    strategies: tuple[str, ...] = ()  # of the world's, by name; empty: all of them
    at_once: int = Field(default=4, ge=1, exclude_if=lambda value: value == 4)  # questions under way; speed only
    # Prompts that the language model may leave without wrong ones.
    max_unanswered: int = Field(default=MOST, ge=0, exclude_if=lambda value: value == MOST)

    @model_validator(mode="after")
    def _check(self) -> Perturbed:
        if self.world is not None and self.endpoint is not None:
            raise ValueError("perturbed: give world or endpoint, not both: one of them writes the wrong prompts")
        if self.world is not None and self.world not in WORLDS:
            raise ValueError(f"unknown world {self.world!r}; choose one of: {', '.join(WORLDS)}")
        if self.endpoint is not None and self.strategies:
            raise ValueError("perturbed.strategies are a world's; a language model is told what to do by perturbed.endpoint: remove one")
        return self

    def wrong(self, prompt: str, world: str | None, seed: int, group: str) -> list[tuple[str, str]]:
        """`count` pairs of strategy and wrong prompt by a world's rules, or as many as there are; a strategy comes again only after all
        others."""
        name = self.world or world
        if name is None:
            raise ValueError("perturbed needs rules or a language model: the prompts are of no world; set perturbed.endpoint")
        rules = load_world(name).STRATEGIES
        if unknown := [strategy for strategy in self.strategies if strategy not in rules]:
            raise ValueError(f"perturbed.strategies has {unknown[0]!r}, which the {name} world has not; it has: {', '.join(rules)}")
        by_strategy = {
            strategy: [load_world(name).caption(scene) for scene in scenes]
            for strategy, scenes in load_world(name).perturb(prompt).items()
            if scenes and (not self.strategies or strategy in self.strategies)
        }
        draw = random.Random(f"{seed}\0perturbed\0{group}")
        order = draw.sample(sorted(by_strategy), len(by_strategy))
        left = {strategy: draw.sample(texts, len(texts)) for strategy, texts in sorted(by_strategy.items())}
        found: list[tuple[str, str]] = []
        while len(found) < self.count and any(left.values()):
            found += [(strategy, left[strategy].pop()) for strategy in order if left[strategy]]
        return found[: self.count]


def vary_media(backbone: Backbone, media: Sequence[Media], prompts: Sequence[str], seeds: Sequence[int], strengths: Sequence[float], *,
               steps: int, guidance: float, negative_prompt: str, size: tuple[int, ...] | None) -> Sequence[Media]:  # fmt: skip
    """Variations of real media by the backbone, each with noise of its own seed; on the way in float32, whatever the model's dtype is."""
    import numpy as np
    import torch

    from diffalign.sampling import vary

    device = next(backbone.denoiser.parameters()).device
    shape = size or backbone.size
    tensors = np.stack([item.tensor(shape, backbone.rate, backbone.channels) for item in media])
    latents = backbone.encode(torch.from_numpy(tensors), seeds=None).to(device, torch.float32)
    noise = torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(latents)
    found = vary(
        backbone, latents, noise, backbone.embed(list(prompts)), _repeated(backbone.embed([negative_prompt]), len(prompts)),
        strength=torch.tensor(strengths), steps=steps, guidance=guidance,
    )  # fmt: skip
    return backbone.media(backbone.decode(found))


def _repeated(embeds: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in embeds.items()}
