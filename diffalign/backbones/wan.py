"""Wan 2.1 and 2.2, and the bundled miniature of the motion world: a video transformer with rectified flow, T5 and a causal autoencoder.

Wan team 2025, arXiv:2503.20314. Version 2.2 has an expert for the timesteps from a boundary on, and one for those below.

Timesteps are logit-normal in the report, then shifted by the size of the clips, by 2 at 480p (https://github.com/Wan-Video/Wan2.1/issues/291).
Ours have the shift that the model's scheduler has, which is not published for training; mean 0 and deviation 1 are an assumption.
"""

from __future__ import annotations

import json
from math import lcm
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from diffalign.backbones import Loading
from diffalign.backbones.density import DENSITIES, number_of
from diffalign.backbones.pipeline import VideoPipeline, load_pipeline
from diffalign.backbones.process import Flow, shift_of
from diffalign.model_source import source_path

# What Wan was trained at. A local pipeline of another size or other timesteps says so in a file beside its model_index.json, as the
# miniature does. Its timesteps are uniform, as are those of any such file that does not speak of them.
SIZE, FPS, TIMESTEPS, MEDIA_FILE = (81, 480, 832), 16.0, "logit_normal", "media.json"
SIZE_TI2V, FPS_TI2V = (121, 704, 1280), 24.0  # of the small version 2.2, which samples with a timestep for each patch
TOKEN_LIMIT = 512
EXPERTS = ("high", "low")
PIXELS = 16  # what the pipeline wants its sides to be multiples of, whatever the autoencoder and the patches are


class Wan(VideoPipeline):
    """A loaded pipeline: see `Backbone` for the contract. Of two experts this trains the one for high noise.

    The other stays as it is: it samples, and predicts where a path comes out of the trained one's timesteps.

    timesteps  how often each level is trained, a name of DENSITIES; ValueError for another
    """

    PIPELINE = WanPipeline
    DENOISER = "transformer"
    ALIKE = ("in_channels", "out_channels", "text_dim", "num_layers", "patch_size")
    FLOAT32 = ("vae",)

    def __init__(self, pipeline: WanPipeline, source: str, size: tuple[int, ...] | None = None, fps: float | None = None,
                 timesteps: str = TIMESTEPS):  # fmt: skip
        if timesteps not in DENSITIES:
            raise ValueError(f"{source}: timesteps is {timesteps!r} in {MEDIA_FILE}; choose one of: {', '.join(DENSITIES)}")
        ratio = pipeline.config.get("boundary_ratio")
        if (ratio is None) != (pipeline.transformer_2 is None):
            raise ValueError(
                f"{source} has boundary_ratio {ratio!r} and {'no' if pipeline.transformer_2 is None else 'a'} transformer_2; two experts "
                f"need both, a single one neither: mend its model_index.json"
            )
        super().__init__(pipeline, source)
        shift, density, self.timesteps = shift_of(pipeline.scheduler), DENSITIES[timesteps], timesteps
        self.process, self.boundary = Flow(shift, density), None
        self.other: nn.Module | None = pipeline.transformer if self.DENOISER == "transformer_2" else pipeline.transformer_2
        if self.other is not None:
            own_part = self.part_of(number_of(density, ratio / (shift - (shift - 1) * ratio)))
            self.process, self.boundary = Flow(shift, density, own_part), 1000 * ratio
            self.other.requires_grad_(False).eval()
        self.token_limit: int = min(TOKEN_LIMIT, pipeline.tokenizer.model_max_length)
        own_size, own_fps = (SIZE_TI2V, FPS_TI2V) if pipeline.config.get("expand_timesteps") else (SIZE, FPS)
        self.size, self.rate = tuple(size or own_size), fps or own_fps
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

    @staticmethod
    def part_of(boundary: float) -> tuple[float, float]:
        """Of the uniform numbers that timesteps are made of, those of the trained expert; boundary: the one where the other begins."""
        return boundary, 1.0

    def predict(self, denoiser: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """Of the expert for each sample's timestep: `denoiser` stands for the trained one.

        A clip of text alone has one timestep for all patches, so it is told one, where the pipeline of TI2V tells it again for each.
        """
        if self.boundary is None or self.other is None:
            return self.predicted(denoiser, noised, timestep, embeds)
        is_own = (timestep >= self.boundary) == (self.DENOISER == "transformer")
        if bool(is_own.all()):
            return self.predicted(denoiser, noised, timestep, embeds)
        found = torch.zeros_like(noised)
        self.other.to(noised.device)  # where it was offloaded: a path that leaves the trained expert's timesteps brings it back
        for expert, rows in ((denoiser, is_own), (self.other, ~is_own)):
            if bool(rows.any()):
                given = {name: value[rows] for name, value in embeds.items()}
                found[rows] = self.predicted(expert, noised[rows], timestep[rows], given).to(found)
        return found

    def predicted(self, expert: nn.Module, noised: Tensor, timestep: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        """`predict` of one of them, whatever its timesteps."""
        return expert(noised, timestep, encoder_hidden_states=embeds["prompt_embeds"], return_dict=False)[0]

    def save(self, folder: Path) -> None:
        super().save(folder)
        if (self.size, self.rate, self.timesteps) != (SIZE, FPS, TIMESTEPS):
            said = {"size": self.size, "fps": self.rate, "timesteps": self.timesteps}
            (Path(folder) / MEDIA_FILE).write_text(json.dumps(said) + "\n", encoding="utf-8")


class LowNoiseWan(Wan):
    """A Wan of two experts, of which the one for low noise is trained."""

    DENOISER = "transformer_2"

    @staticmethod
    def part_of(boundary: float) -> tuple[float, float]:
        return 0.0, boundary * (1 - 1e-6)  # the boundary itself is the other's


def is_low(expert: str) -> bool:
    """Whether it is that for low noise; ValueError for a name that is not in EXPERTS."""
    if expert not in EXPERTS:
        raise ValueError(f"expert is {expert!r}; choose one of: {', '.join(EXPERTS)}")
    return expert == "low"


def load(source: str, loading: Loading, *, expert: str = "high") -> Wan:
    """See `load_backbone`.

    expert  of Wan 2.2: which of the two is trained, `high` noise or `low`; ValueError for another
    """
    family = LowNoiseWan if is_low(expert) else Wan
    pipeline = load_pipeline(family, source, loading)
    path = source_path(source)
    media = path / MEDIA_FILE if path is not None and path.is_dir() else None
    own = {"timesteps": "uniform"} | json.loads(media.read_text(encoding="utf-8")) if media is not None and media.is_file() else {}
    return family(pipeline, source, **own)
