"""Both directions on clips and sounds, from random weights: held-out pairs come to be judged by the policy as the labels say, or swapped,
against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tiny_timed import save_tiny_tango, save_tiny_wan
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.data.latents import (
    CacheDescription,
    LatentCache,
    write_cache_description,
    write_dropout_embeds,
    write_embeds_shard,
    write_latents_shard,
)
from diffalign.data.records import Preference
from diffalign.noising import load_noising
from diffalign.objectives import OBJECTIVES, build_objective
from diffalign.training.alignment import AlignmentTask, Sampling
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import Visit, train
from diffalign.training.reference import FrozenCopy
from diffalign.training.settings import Settings
from reward_models.worlds import load_world, motion, tones

pytestmark = pytest.mark.integration

TRAINED, HELD_OUT, DRAWS = 192, 64, 8
SETTINGS = Settings(steps=120, batch_size=16, learning_rate=1e-3, warmup_steps=5, checkpoint_every=1000, tracker=None)


def clip(scene: Any, seed: int) -> Tensor:
    """(3, 9, 16, 16) in [−1, 1]: what the tiny Wan takes, at half the world's size."""
    frames = torch.from_numpy(motion.render(scene, seed, 9)).permute(3, 0, 1, 2) / 127.5 - 1
    return torch.nn.functional.avg_pool3d(frames, (1, 2, 2))


def sound(scene: Any, seed: int) -> Tensor:
    """(1, 16384): a third of the world's length, in which up to four events fit."""
    return torch.from_numpy(tones.render(scene, seed, 16384)).view(1, -1)


@dataclass(frozen=True)
class Case:
    """A family of tiny models, and how a scene of a world becomes what they take."""

    family: str
    save: Callable[[Path], Path]
    render: Callable[[Any, int], Tensor]
    strategy: str  # a mistake that weights of chance can learn to see in seconds: something more than was asked for


CASES = {"motion": Case("wan", save_tiny_wan, clip, "insert"), "tones": Case("tango", save_tiny_tango, sound, "inserted")}


@dataclass(frozen=True)
class Pairs:
    case: Case
    pipeline: Path
    cache: LatentCache
    rows: list[Preference]


@pytest.fixture(scope="module", params=CASES)
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """A render of its caption over one of the mistake."""
    case, world, folder = CASES[request.param], load_world(request.param), tmp_path_factory.mktemp("pairs")
    pipeline = case.save(tmp_path_factory.mktemp("model"))
    backbone = load_backbone(case.family, str(pipeline))
    mistakes = [(one.text, wrong) for one in world.prompts("train", 3000, 0) if (wrong := world.perturb(one.text).get(case.strategy))]
    made = mistakes[: TRAINED + HELD_OUT]
    assert len(made) == TRAINED + HELD_OUT
    media = [
        case.render(scene, 2 * at + place)
        for at, (text, wrong) in enumerate(made)
        for place, scene in enumerate((text, Random(at).choice(wrong)))
    ]
    latents = torch.cat([backbone.encode(torch.stack(media[start : start + 32]), seeds=None) for start in range(0, len(media), 32)])
    write_latents_shard(folder, 0, [f"{at}-{place}" for at in range(len(made)) for place in "wl"], latents)
    texts = sorted({text for text, _ in made})
    write_embeds_shard(folder, 0, texts, backbone.embed(texts))
    write_dropout_embeds(folder, backbone.embed([""]))
    write_cache_description(folder, CacheDescription("float32", "mean", backbone.encoder_identity()))
    rows = [Preference(f"g{at}", text, (f"{at}-w", f"{at}-l")) for at, (text, _) in enumerate(made)]
    return Pairs(case, pipeline, LatentCache(folder), rows)


def margins_after(pairs: Pairs, folder: Path, *, swapped: bool) -> Tensor:
    """Of each held-out pair the margin that Diffusion-DPO sees, in the mean over draws, after training on the others."""
    backbone = load_backbone(pairs.case.family, str(pairs.pipeline))
    backbone.denoiser.requires_grad_(True)
    reference = FrozenCopy(backbone.denoiser)

    def task(preferences: list[Preference], seed: int) -> AlignmentTask:
        return AlignmentTask(
            backbone, CachedGroups(pairs.cache, preferences, "pairs"), build_objective("diffusion_dpo", beta=500.0),
            OBJECTIVES["diffusion_dpo"], load_noising("shared"), reference, sampling=Sampling(), seed=seed, identity={"kind": "full"},
            write_weights=lambda denoiser, folder: None,
        )  # fmt: skip

    trained = [replace(row, samples=row.samples[::-1]) if swapped else row for row in pairs.rows[:TRAINED]]
    train(task(trained, 3), SETTINGS, folder)
    held_out = task(pairs.rows[TRAINED:], 5)
    with torch.no_grad():
        found = [held_out.measure([Visit(group, draw) for group in range(HELD_OUT)]).numbers["rewards/margins"] for draw in range(DRAWS)]
    return torch.stack(found).mean(0)


def test_held_out_pairs_follow_the_labels_and_swapped_labels_turn_them_around(pairs: Pairs, tmp_path: Path) -> None:
    """Over 8 seeds of weights and prompts 64 to 80 % of the held-out clips follow the labels, and 19 to 38 % where they are swapped; over
    7 of sounds 64 to 84 %, and 13 to 33 %.
    """
    aligned, swapped = (margins_after(pairs, tmp_path / str(swapped), swapped=swapped) for swapped in (False, True))
    assert aligned.mean() > 0.1 and (aligned > 0).float().mean() > 0.55
    assert swapped.mean() < -0.1 and (swapped > 0).float().mean() < 0.45
