"""pretrain: a miniature pipeline from random weights, on the renders of a world. Resumable; the bundled models were made by it."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from pydantic import Field

from diffalign.training.settings import FREE, Settings
from pipelines.config import Config, Section
from pipelines.progress import Progress
from pipelines.stage import open_stage

# report.json counts seconds, and stage.json has what it says; checkpoints are for resuming alone.
RESULT = ("pipeline/**/*", "*/metrics.jsonl")


class Pretrain(Section):
    """A world, the sizes of the pipeline, and the two trainings: autoencoder, then denoiser with text encoder."""

    world: str
    renders: int = Field(default=20000, ge=1, description="pictures to train on, of captions of the train split")
    architecture: dict[str, Any] = Field(default={}, description="of diffalign.backbones.miniature.Architecture")
    kl_weight: float = Field(default=1e-3, ge=0)
    prompt_dropout: float = Field(default=0.1, ge=0, lt=1)
    min_snr: float | None = Field(default=None, gt=0, description="γ of the min-SNR weighting of the denoiser's error; None: none")
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
    settings = section.model_dump(mode="json", exclude={"autoencoder": FREE, "denoiser": FREE}) | {"seed": config.seed}
    with open_stage(config, "pretrain", settings=settings, outputs=RESULT, redo=redo) as stage:
        if stage.is_complete:
            progress.say("pretrain: nothing to do, it is complete")
            return
        from diffalign.backbones.miniature import Architecture

        Architecture(**section.architecture)  # a mistake in it shows before anything is rendered
        pictures, captions = _render(section, config.seed, progress)
        autoencoder = _train_autoencoder(section, config.seed, pictures, stage.path / "autoencoder", progress)
        _train_denoiser(section, config.seed, autoencoder, pictures, captions, stage.path, progress)
        report = measure(section, stage.path / "pipeline", config.seed, progress)
        (stage.path / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        progress.say(f"pretrain: {json.dumps(report)}")
        stage.finish(report)


def _render(section: Pretrain, seed: int, progress: Progress):
    import numpy as np

    from diffalign.training.randomness import seed_of
    from reward_models.worlds import load_world

    world = load_world(section.world)
    captions = [prompt.text for prompt in world.prompts("train", section.renders, seed)]
    with progress.bar("render", len(captions)) as advance:
        pictures = []
        for index, caption in enumerate(captions):
            pictures.append(world.render(caption, seed_of(seed, "render", index) % 2**31))
            advance()
    return np.stack(pictures), captions


def _train_autoencoder(section: Pretrain, seed: int, pictures, folder: Path, progress: Progress):
    import torch
    from diffusers import AutoencoderKL

    from diffalign.backbones.miniature import Architecture, build_autoencoder
    from diffalign.training.autoencoder import AutoencoderTask
    from diffalign.training.loop import train
    from diffalign.training.randomness import seed_of

    torch.manual_seed(seed_of(seed, "vae"))
    model = build_autoencoder(Architecture(**section.architecture)).to(_device())
    with progress.bar("autoencoder", section.autoencoder.steps) as advance:
        task = AutoencoderTask(model, pictures, kl_weight=section.kl_weight, seed=seed)
        final = train(task, section.autoencoder, folder, advance=advance, logger=progress.logger("autoencoder"))
    return AutoencoderKL.from_pretrained(final / "vae").to(_device()).eval()


def _train_denoiser(section: Pretrain, seed: int, autoencoder, pictures, captions: list[str], folder: Path, progress: Progress) -> None:
    import torch

    from diffalign.backbones import load_backbone, quiet_loading
    from diffalign.backbones.miniature import Architecture, build_pipeline, build_tokenizer
    from diffalign.backbones.stable_diffusion import StableDiffusion
    from diffalign.training.denoiser import DenoiserTask
    from diffalign.training.loop import train
    from diffalign.training.randomness import seed_of

    quiet_loading()
    architecture = Architecture(**section.architecture)
    tokenizer = build_tokenizer(captions, folder / "tokenizer", architecture.token_limit)
    torch.manual_seed(seed_of(seed, "denoiser"))
    pipeline = build_pipeline(architecture, tokenizer, autoencoder)
    backbone = StableDiffusion(pipeline.to(_device()), f"pretrain:{section.world}")
    latents = []
    with progress.bar("encode", len(pictures)) as advance:
        for start in range(0, len(pictures), 128):
            pixels = torch.from_numpy(pictures[start : start + 128]).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents.append(backbone.encode(pixels, seeds=None).cpu() / autoencoder.config.scaling_factor)
            advance(len(pixels))
    scale = 1 / float(torch.cat(latents).std())
    autoencoder.register_to_config(scaling_factor=scale)
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    empty = tokenizer("", padding="max_length", truncation=True, return_tensors="pt").input_ids[0]
    pipeline.unet.requires_grad_(True)
    pipeline.text_encoder.requires_grad_(True)
    task = DenoiserTask(
        backbone, pipeline.text_encoder, torch.cat(latents) * scale, tokens, empty,
        embed=lambda encoder, ids: {"prompt_embeds": encoder(ids)[0]}, prompt_dropout=section.prompt_dropout,
        min_snr=section.min_snr, seed=seed,
        write_weights=lambda path: pipeline.save_pretrained(path / "pipeline"),
    )  # fmt: skip
    with progress.bar("denoiser", section.denoiser.steps) as advance:
        final = train(task, section.denoiser, folder / "denoiser", advance=advance, logger=progress.logger("denoiser"))
    load_backbone("stable_diffusion", str(final / "pipeline"), dtype=torch.float16).save(folder / "pipeline")
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes tokenizer.json alone, transformers 4 reads these two
        shutil.copy(folder / "tokenizer" / name, folder / "pipeline" / "tokenizer" / name)
    for path in (folder / "pipeline").rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:  # a folder of this machine
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # transformers 5 loads the dtype that its config names, diffusers float32: a plain from_pretrained would mix them.
    path = folder / "pipeline" / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def measure(section: Pretrain, pipeline: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Accuracy of a pipeline on held-out captions (CFG 3, 20 DDIM steps): share that holds, over all and per task; and the round trip's."""
    import torch

    from diffalign.backbones import load_backbone
    from diffalign.training.randomness import seed_of
    from reward_models.worlds import load_world

    world, backbone = load_world(section.world), load_backbone("stable_diffusion", str(pipeline), device=_device())
    prompts = world.prompts("heldout", section.check_prompts, seed)
    held, score, trip = defaultdict(list), [], []
    with progress.bar("measure", len(prompts)) as advance:
        for start in range(0, len(prompts), 100):
            part = prompts[start : start + 100]
            pictures = backbone.sample(
                [prompt.text for prompt in part], [seed_of(seed, "check", start + i) for i in range(len(part))], steps=20, guidance=3.0
            )
            renders = torch.stack([torch.from_numpy(world.render(prompt.text, start + i)) for i, prompt in enumerate(part)])
            decoded = (
                backbone.decode(backbone.encode(renders.permute(0, 3, 1, 2).float() / 127.5 - 1, seeds=None)).permute(0, 2, 3, 1).cpu()
            )
            back = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            for prompt, picture, render in zip(part, pictures, back):
                result = world.verify(prompt.text, picture)
                held[prompt.task].append(result["overall"])
                score.append(result["score"])
                trip.append(world.verify(prompt.text, render)["overall"])
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
