"""Wan 2.1, and the bundled miniature of the motion world: a video transformer with rectified flow, T5 text conditioning, a causal VAE."""

from __future__ import annotations

import json
from math import lcm
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.pipeline import VideoPipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of
from diffalign.model_source import source_path

# What Wan was trained at. A local pipeline of another size says so in a file beside its model_index.json, as the miniature does.
SIZE, FPS, MEDIA_FILE = (81, 480, 832), 16.0, "media.json"
TOKEN_LIMIT = 512
PIXELS = 16  # what the pipeline wants its sides to be multiples of, whatever the autoencoder and the patches are


class Wan(VideoPipeline):
    """A loaded pipeline: see `Backbone` for the contract."""

    PIPELINE = WanPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "text_dim", "num_layers", "patch_size")
    FLOAT32 = ("vae",)

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
        self.size, self.rate = tuple(size), fps
        spatial = pipeline.vae_scale_factor_spatial
        rows, columns = (lcm(PIXELS, spatial * each) for each in pipeline.transformer.config.patch_size[1:])
        self.step = (pipeline.vae_scale_factor_temporal, rows, columns)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> dict[str, Tensor]:
        """{"prompt_embeds": (N, L, D)}, zeros after a prompt's last token."""
        embeds, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.token_limit, device=self.device
        )
        return {"prompt_embeds": embeds}

    def statistics(self) -> tuple[float | Tensor, float | Tensor]:
        config = self.pipeline.vae.config
        return torch.tensor(config.latents_mean), 1 / torch.tensor(config.latents_std)

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        return denoiser(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

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
