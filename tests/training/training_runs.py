"""Training runs on the tiny road, as the tests of training start them, in this process or in another."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.backbones import Backbone, load_backbone
from diffalign.data.latents import LatentCache
from diffalign.data.records import Preference, read_preferences
from diffalign.noising import load_noising
from diffalign.objectives import OBJECTIVES, Needs, build_objective, defaults
from diffalign.training.alignment import AlignmentTask, Sampling
from diffalign.training.groups import CachedGroups
from diffalign.training.loop import train
from diffalign.training.lora import Lora, add_lora
from diffalign.training.masks import Mask
from diffalign.training.own_samples import Buffer, OwnSamples
from diffalign.training.reference import FrozenCopy, ReferenceSettings, build_reference
from diffalign.training.reference_errors import errors_ahead
from diffalign.training.settings import Settings

FAST: dict[str, Any] = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "tracker": None}
SETTINGS = Settings(**FAST)


NOTHING_DROPPED = Sampling()
INITIAL = ReferenceSettings()
FEW = OwnSamples(size=6, refresh=2, steps=4)


def make_task(pipeline: Path, road: Path, *, objective: str = "diffusion_dpo", lora: Lora | None = None, noising: str = "shared",
              sampling: Sampling = NOTHING_DROPPED, beta: float | None = 100.0, reference: ReferenceSettings = INITIAL,
              settings: Settings = SETTINGS, own: OwnSamples = FEW,
              samples_per_forward: int | None = None, draws: int = 1) -> AlignmentTask:  # fmt: skip
    """settings: of the run, for a reference that changes with its stages."""
    needs = OBJECTIVES[objective]
    noising = "trajectory" if needs.own_samples else noising
    backbone = load_backbone("stable_diffusion", str(pipeline))
    preferences = rows_of(read_preferences(road / "preferences"), needs)
    scores = {sample: (1.0 - place, 0.5 - 0.3 * place) for row in preferences for place, sample in enumerate(row.samples)}
    groups = CachedGroups(
        LatentCache(road / "latents"), preferences, needs.rows, mismatched="mismatched" in needs.reads,
        scores=scores if any("scores" in field for field in needs.reads) else None,
    )  # fmt: skip
    identity = {"kind": "full" if lora is None else "lora", "base": backbone.identity()}
    if lora is not None:
        add_lora(backbone.denoiser, lora, 3)
    else:
        backbone.denoiser.requires_grad_(True)
    measured_from = build_reference(backbone.denoiser, reference, settings) if needs.reference else None
    buffer = None
    if needs.own_samples:
        buffer = Buffer(own, backbone, groups, prompt_dropout=sampling.prompt_dropout, timesteps=sampling.timesteps, seed=7)
    arguments = {"beta": beta} if beta is not None and needs.reference is not None and "beta" in defaults(objective) else {}
    return AlignmentTask(
        backbone, groups, build_objective(objective, **arguments), needs, load_noising(noising), measured_from,
        teacher=_teacher(backbone) if "teacher" in needs.reads else None, mask=Mask() if "mask" in needs.reads else None,
        own_samples=buffer, samples_per_forward=samples_per_forward, draws=draws,
        sampling=sampling, seed=7, identity=identity, write_weights=lambda denoiser, folder: backbone.save_trained(folder),
    )  # fmt: skip


def rows_of(pairs: Sequence[Preference], needs: Needs) -> list[Preference]:
    """The pairs as the rows that an objective reads."""
    match needs.rows:
        case "lists":
            return [replace(pair, kind="list") for pair in pairs]
        case "labelled":
            return [replace(pair, kind="labelled", labels=(1, 0), scores=None) for pair in pairs]
        case "segments":
            return [replace(pair, segment_labels=(1, 0, -1)) for pair in pairs]
        case _:
            return list(pairs)


def _teacher(backbone: Backbone) -> FrozenCopy:
    """The denoiser, a little further on."""
    teacher = FrozenCopy(backbone.denoiser)
    with torch.no_grad():
        for parameter in teacher.denoiser.parameters():
            parameter.mul_(1.01)
    return teacher


def know_errors_ahead(task: AlignmentTask, settings: Settings, folder: Path) -> None:
    """Gives the reference away for its errors, made or read in the folder."""
    task.reference = None
    task.known_error = errors_ahead(task, settings, folder, {}).of


def weights(task: AlignmentTask) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in task.modules["denoiser"].named_parameters() if parameter.requires_grad}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, two: Path) -> None:
    """Bit for bit: the metrics, and every tensor of the result and of the last checkpoint."""
    from safetensors.torch import load_file

    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    last = max(path.name for path in (one / "checkpoints").iterdir())
    files = [
        sorted(path.relative_to(run) for part in ("final", f"checkpoints/{last}") for path in (run / part).rglob("*.safetensors"))
        for run in (one, two)
    ]
    assert files[0] and files[0] == files[1]
    for name in files[0]:
        a, b = load_file(one / name), load_file(two / name)
        assert set(a) == set(b)
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)


if __name__ == "__main__":
    # python training_runs.py PIPELINE ROAD FOLDER OPTIONS, these as JSON:
    # {"objective": …, "settings": …, "lora": …, "reference": …, "samples_per_forward": …, "draws": …, "buffer": …, "slow": seconds a step,
    # "ahead": whether the reference's errors are known ahead, "stop_after": …}
    import time

    torch.set_num_threads(1)
    options = json.loads(sys.argv[4])
    settings = Settings(**{**FAST, **options.get("settings", {})})
    lora = Lora(**options["lora"]) if options.get("lora") else None
    reference = ReferenceSettings(**options.get("reference", {}))
    objective = options.get("objective", "diffusion_dpo")
    task = make_task(
        Path(sys.argv[1]), Path(sys.argv[2]), objective=objective, lora=lora, reference=reference, settings=settings,
        samples_per_forward=options.get("samples_per_forward"), draws=options.get("draws", 1),
    )  # fmt: skip

    if options.get("buffer"):
        task.modules["denoiser"].register_buffer("unread", torch.zeros(1), persistent=False)

    if options.get("ahead"):
        know_errors_ahead(task, settings, Path(sys.argv[3]))

    def advance(steps: int) -> None:
        print("step", flush=True)
        time.sleep(options.get("slow", 0))

    train(task, settings, Path(sys.argv[3]), advance=advance, stop_after=options.get("stop_after"))
