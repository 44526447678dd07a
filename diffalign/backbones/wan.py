"""Wan 2.1, and the bundled miniature of the motion world: a video transformer with rectified flow, T5 text conditioning, a causal VAE."""

from __future__ import annotations

import json
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import LoadedPipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of
from diffalign.backbones.seeded import generators
from diffalign.backbones.weights import to_uint8
from diffalign.data.modalities.video import Video
from diffalign.model_source import source_path

# What Wan was trained at. A local pipeline of another size says so in a file beside its model_index.json, as the miniature does.
SIZE, FPS, MEDIA_FILE = (81, 480, 832), 16.0, "media.json"
TOKEN_LIMIT = 512
PIXELS = 16  # what the pipeline wants its sides to be multiples of, whatever the autoencoder and the patches are


class Wan(LoadedPipeline):
    """A loaded pipeline: see `Backbone` for the contract."""

    modality = "video"
    PIPELINE = WanPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "text_dim", "num_layers", "patch_size")

    def __init__(self, pipeline: WanPipeline, source: str, size: tuple[int, ...] = SIZE, fps: float = FPS):
        if pipeline.config.get("boundary_ratio") is not None or pipeline.transformer_2 is not None:
            raise ValueError(
                f"{source} has two denoisers, one for each half of the timesteps, and one is trained; give a model of Wan 2.1, or of "
                f"Wan 2.2 with a single transformer"
            )
        if pipeline.config.get("expand_timesteps"):
            raise ValueError(f"{source} gives each patch a timestep of its own (Wan 2.2 TI2V), which is not supported; give Wan 2.1")
        super().__init__(pipeline, source)
        self.process = Flow(shift_of(pipeline.scheduler))
        self.token_limit: int = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)
        vae = pipeline.vae.config
        self._mean, self._std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.latents_mean, vae.latents_std))
        self.size, self.rate = tuple(size), fps

    def whole(self, size: tuple[int, ...]) -> tuple[int, ...]:
        time, (_, *patch) = self.pipeline.vae_scale_factor_temporal, self.pipeline.transformer.config.patch_size
        steps = [lcm(PIXELS, self.pipeline.vae_scale_factor_spatial * each) for each in patch]
        frames, *sides = size
        return (max(0, (frames - 1) // time * time + 1), *(side // step * step for side, step in zip(sides, steps)))

    def time_edges(self, length: int) -> list[float]:
        """The first latent is the first frame alone, each other one as many frames as the autoencoder compresses into it."""
        frames = 1 + (length - 1) * self.pipeline.vae_scale_factor_temporal
        return [0.0, *((1 + index * self.pipeline.vae_scale_factor_temporal) / frames for index in range(length))]

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}, zeros after a prompt's last token."""
        embeds, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.token_limit, device=self.device
        )
        return {"prompt_embeds": embeds}

    def scaled(self, latents: Tensor) -> Tensor:
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents * self._std.to(latents) + self._mean.to(latents)

    def media(self, decoded: Tensor) -> list[Video]:
        return [Video.from_frames(frames, self.rate) for frames in to_uint8(decoded).transpose(0, 2, 3, 4, 1)]

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, negative_prompt: str = "",
               size: tuple[int, ...] | None = None, scheduler: str | None = None) -> list[Video]:  # fmt: skip
        frames, height, width = size or self.size
        made: Any = self.pipeline(
            prompts, negative_prompt=[negative_prompt] * len(prompts), num_frames=frames, height=height, width=width,
            num_inference_steps=steps, guidance_scale=guidance, max_sequence_length=self.token_limit,
            generator=generators(prompts, seeds), output_type="np",
        )  # fmt: skip
        return [Video.from_frames(np.rint(video * 255).astype(np.uint8), self.rate) for video in made.frames]

    def save(self, folder: Path) -> None:
        super().save(folder)
        if (self.size, self.rate) != (SIZE, FPS):
            (Path(folder) / MEDIA_FILE).write_text(json.dumps({"size": self.size, "fps": self.rate}) + "\n", encoding="utf-8")


def load(source: str, loading: Loading) -> Wan:
    """See `load_backbone`."""
    pipeline = load_pipeline(Wan, source, loading)
    path = source_path(source)
    media = path / MEDIA_FILE if path is not None and path.is_dir() else None
    own = json.loads(media.read_text(encoding="utf-8")) if media is not None and media.is_file() else {}
    return Wan(pipeline, source, **own)
