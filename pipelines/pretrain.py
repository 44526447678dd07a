"""pretrain: a miniature pipeline from random weights, on the renders of a world. Resumable; the bundled models were made by it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from diffalign.model_source import source_path
from diffalign.training.settings import FREE, RECORDED, Settings
from pipelines.config import Config, Section, files_fingerprint
from pipelines.progress import Progress
from pipelines.stage import open_stage

if TYPE_CHECKING:
    from torch import Tensor

    from diffalign.backbones.miniature import Miniature
    from diffalign.data.modalities import Media
    from diffalign.training.visits import Visit

# report.json counts seconds, and stage.json has what it says; checkpoints are for resuming alone.
RESULT = ("pipeline/**/*", "*/metrics.jsonl")


class Pretrain(Section):
    """A world, the sizes of the pipeline, and the trainings: autoencoder, on stills first where told, then denoiser with text encoder."""

    world: str
    renders: int = Field(default=20000, ge=1, description="media to train on, of captions of the train split")
    shares: dict[str, float] | None = Field(
        default=None, exclude_if=lambda shares: shares is None, description="of the world's tasks among the renders; None: the world's own"
    )
    architecture: dict[str, Any] = Field(default={}, description="sizes, of the Architecture in diffalign/backbones/miniature/BACKBONE.py")
    kl_weight: float = Field(default=1e-3, ge=0)
    edge_weight: float = Field(
        default=0.0, ge=0, description="after the stills, of the error of differences between neighbours: small shapes are edges"
    )
    crop: int | None = Field(
        default=None, ge=8, description="side of the squares, about what stands out, that the autoencoder trains on; None: the whole media"
    )
    prompt_dropout: float = Field(default=0.1, ge=0, lt=1)
    min_snr: float | None = Field(default=None, gt=0, description="γ of the min-SNR weighting of the denoiser's error; None: none")
    start: str | None = Field(
        default=None, exclude_if=lambda source: source is None, description="a local pipeline that pretrain made, whose denoiser goes on"
    )
    autoencoder_of: str | None = Field(
        default=None, exclude_if=lambda source: source is None, description="a local pipeline whose autoencoder is taken: none is trained"
    )
    stills: Settings | None = Field(
        default=None, description="of the autoencoder on single frames first, where a video's are learned sooner"
    )
    autoencoder: Settings = Settings()
    denoiser: Settings = Settings()
    check_prompts: int = Field(default=400, ge=1, description="held-out captions that the finished pipeline is measured on")


def run(config: Config, *, redo: bool = False, progress: Progress) -> None:
    """Pretrains into RUN/pretrain: pipeline/ is a diffusers folder in float16, report.json its accuracy per task."""
    section = config.pretrain
    if section is None:
        raise ValueError("the config has no `pretrain` section; see configs/worlds/shapes.yaml")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("pretrain runs on one process: the autoencoder's two halves are called apart; start it without accelerate launch")
    free = FREE - RECORDED
    settings = section.model_dump(mode="json", exclude={"stills": free, "autoencoder": free, "denoiser": free}) | {"seed": config.seed}
    if section.start is not None and section.autoencoder_of is not None:
        raise ValueError("pretrain.start goes on with its own autoencoder; leave pretrain.autoencoder_of out, or pretrain.start")
    folders = {}
    for name in ("start", "autoencoder_of"):
        source = getattr(section, name)
        if source is None:
            continue
        folder = source_path(source)
        if folder is None:
            raise ValueError(f"pretrain.{name} is {source!r}, which is no folder here; give RUN/pretrain/pipeline of a run, or null")
        folders[name], settings[name] = folder, files_fingerprint(folder)
    with open_stage(config, "pretrain", settings=settings, outputs=RESULT, redo=redo) as stage:
        if stage.is_complete:
            progress.say("pretrain: nothing to do, it is complete")
            return
        from diffalign.backbones.miniature import load_miniature

        miniature = load_miniature(config.model.backbone)
        architecture = miniature.Architecture(**section.architecture)  # a mistake in it shows before anything is rendered
        made = Made(miniature, architecture, section.crop, config.seed, *_render(section, config.seed, progress))
        pipeline, tokenizer = _begin(config.model.backbone, section, folders, made, stage.path, progress)
        _train_denoiser(config.model.backbone, section, pipeline, made, stage.path, progress)
        miniature.finish(stage.path / "pipeline", tokenizer)
        report = measure(config.model.backbone, section, stage.path / "pipeline", config.seed, progress)
        (stage.path / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        progress.say(f"pretrain: {json.dumps(report)}")
        stage.finish(report)


@dataclass(frozen=True)
class Made:
    """What both trainings start from: the renders, with their captions, as the family's miniature reads them."""

    miniature: Miniature
    architecture: Any
    crop: int | None
    seed: int
    media: list[Media]
    captions: list[str]

    def of(self, visits: Sequence[Visit]) -> Tensor:
        """What the autoencoder reads and makes of the renders that some visits are of."""
        return self._cropped(self.features([visit.group for visit in visits]), visits)

    def stills_of(self, visits: Sequence[Visit]) -> Tensor:
        """A frame of each, (n, C, 1, H, W): another one at each visit."""
        import torch

        clips = self.features([visit.group for visit in visits])
        places = [(visit.group + 7 * visit.draw) % clips.shape[2] for visit in visits]
        return self._cropped(torch.stack([clip[:, place : place + 1] for clip, place in zip(clips, places)]), visits)

    def _cropped(self, media: Tensor, visits: Sequence[Visit]) -> Tensor:
        from diffalign.training.autoencoder import crop_about
        from diffalign.training.randomness import generator

        if self.crop is None:
            return media
        return crop_about(media, self.crop, [generator(self.seed, "crop", visit.group, visit.draw) for visit in visits])

    def features(self, rows: Sequence[int]) -> Tensor:
        """What the autoencoder reads and makes (n, C, *S) of some renders."""
        import torch

        size = self.media[0].shape_of(self.media[0].columns, None)
        tensors = torch.from_numpy(np.stack([self.media[row].tensor(size, None) for row in rows]))
        return self.miniature.features(self.architecture, tensors)


def _render(section: Pretrain, seed: int, progress: Progress) -> tuple[list[Media], list[str]]:
    from diffalign.training.randomness import seed_of
    from reward_models.worlds import load_world

    world = load_world(section.world)
    captions = [prompt.text for prompt in world.prompts("train", section.renders, seed, section.shares)]
    with progress.bar("render", len(captions)) as advance:
        media = []
        for index, caption in enumerate(captions):
            media.append(world.medium(caption, seed_of(seed, "render", index) % 2**31))
            advance()
    return media, captions


def _train_autoencoder(section: Pretrain, made: Made, folder: Path, progress: Progress) -> Any:
    import torch

    from diffalign.training.autoencoder import AutoencoderTask
    from diffalign.training.loop import train
    from diffalign.training.randomness import seed_of

    torch.manual_seed(seed_of(made.seed, "vae"))
    model = made.miniature.build_autoencoder(made.architecture)
    phases = (("stills", section.stills, made.stills_of, 0.0), ("autoencoder", section.autoencoder, made.of, section.edge_weight))
    for name, settings, media, edge_weight in phases:  # edges from the start would keep a picture blank
        if settings is None:
            continue
        with progress.bar(name, settings.steps) as advance:
            weights = {"kl_weight": section.kl_weight, "edge_weight": edge_weight}
            task = AutoencoderTask(model.to(_device()), media, len(made.media), **weights, seed=made.seed)
            final = train(task, settings, folder / name, advance=advance, logger=progress.logger(name))
        model = type(model).from_pretrained(final / "vae")
    return model.to(_device()).eval()


def _begin(name: str, section: Pretrain, given: dict[str, Path], made: Made, folder: Path, progress: Progress) -> tuple[Any, Path]:
    """The pipeline whose denoiser is to be trained, and the folder of its tokenizer: one to go on with, or around an autoencoder."""
    import torch

    from diffalign.backbones import load_backbone, quiet_loading
    from diffalign.training.randomness import seed_of

    quiet_loading()
    if "start" in given:
        backbone: Any = load_backbone(name, str(given["start"]), device=_device())
        return backbone.pipeline, given["start"] / "tokenizer"
    if "autoencoder_of" in given:
        backbone = load_backbone(name, str(given["autoencoder_of"]), device=_device())
        autoencoder = backbone.pipeline.vae
    else:
        autoencoder = _train_autoencoder(section, made, folder, progress)
    torch.manual_seed(seed_of(made.seed, "denoiser"))
    pipeline = made.miniature.build_pipeline(made.architecture, made.captions, autoencoder, folder / "tokenizer")
    return pipeline.to(_device()), folder / "tokenizer"


def _train_denoiser(name: str, section: Pretrain, pipeline: Any, made: Made, folder: Path, progress: Progress) -> None:
    import torch

    from diffalign.backbones import load_backbone
    from diffalign.training.denoiser import DenoiserTask
    from diffalign.training.loop import train

    miniature, autoencoder = made.miniature, pipeline.vae
    backbone = miniature.wrap(made.architecture, pipeline, f"pretrain:{section.world}")
    parts = []
    with torch.no_grad(), progress.bar("encode", len(made.media)) as advance:
        for start in range(0, len(made.media), 128):
            rows = range(start, min(start + 128, len(made.media)))
            parts.append(autoencoder.encode(made.features(rows).to(_device())).latent_dist.mean.cpu())
            advance(len(rows))
    latents = miniature.normalise(autoencoder, torch.cat(parts))
    backbone.denoiser.requires_grad_(True)
    pipeline.text_encoder.requires_grad_(True)
    task = DenoiserTask(
        backbone, pipeline.text_encoder, latents, miniature.tokens(pipeline, made.captions), miniature.tokens(pipeline, [""])[0],
        embed=miniature.embed, prompt_dropout=section.prompt_dropout, min_snr=section.min_snr, seed=made.seed,
        write_weights=lambda path: backbone.save(path / "pipeline"),
    )  # fmt: skip
    with progress.bar("denoiser", section.denoiser.steps) as advance:
        final = train(task, section.denoiser, folder / "denoiser", advance=advance, logger=progress.logger("denoiser"))
    load_backbone(name, str(final / "pipeline"), dtype=torch.float16).save(folder / "pipeline")
    for path in (folder / "pipeline").rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:  # a folder of this machine
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # transformers 5 loads the dtype that its config names, diffusers float32: a plain from_pretrained would mix them.
    path = folder / "pipeline" / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def measure(name: str, section: Pretrain, pipeline: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Accuracy of a pipeline on held-out captions (CFG 3, 20 steps): share that holds, over all and per task; and the round trip's."""
    import torch

    from diffalign.backbones import load_backbone
    from diffalign.training.randomness import seed_of
    from reward_models import load_reward
    from reward_models.worlds import load_world

    world, reward = load_world(section.world), load_reward(section.world)
    backbone = load_backbone(name, str(pipeline), device=_device())
    prompts = world.prompts("heldout", section.check_prompts, seed)
    held, score, trip = defaultdict(list), [], []
    with progress.bar("measure", len(prompts)) as advance:
        for start in range(0, len(prompts), 100):
            part = prompts[start : start + 100]
            captions = [prompt.text for prompt in part]
            seeds = [seed_of(seed, "check", start + place) for place in range(len(part))]
            found = reward(captions, backbone.sample(captions, seeds, steps=20, guidance=3.0))
            renders = [world.medium(caption, start + place) for place, caption in enumerate(captions)]
            tensors = torch.from_numpy(np.stack([render.tensor(backbone.size, backbone.rate) for render in renders]))
            back = backbone.media(backbone.decode(backbone.encode(tensors, seeds=None)))
            for prompt, holds in zip(part, found["overall"]):
                held[prompt.task].append(holds)
            score += found["score"]
            trip += reward(captions, back)["overall"]
            advance(len(part))
    every = [value for values in held.values() for value in values]

    def share(values: list[float]) -> float:
        return round(100 * sum(values) / len(values), 2)

    return {
        "overall": share(every),
        "score": round(sum(score) / len(score), 4),
        "round_trip": share(trip),
        **{task: share(held[task]) for task in sorted(held)},
    }


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
