"""implicit: how much likelier a trained model finds a medium than the model that it was trained from; as a reward for any medium.

It is what an objective with a reference trains. It says which of its own samples a policy would prefer (DICE: Chen et al. 2024,
arXiv:2406.09760), and how well a preference set was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.backbones import family_of
from diffalign.data.modalities import Media, modality_of
from diffalign.model_source import source_path
from pipelines.config import Config, Model, files_fingerprint
from pipelines.model import load_model
from reward_models.contract import check_call, check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffalign.backbones import Backbone


class Implicit:
    """r̂ = −(β/2)·mean over draws of (e_policy − e_reference), e the mean squared error of the denoiser at x_t: `score`.

    checkpoint  what training wrote (RUN/train/final), or a diffusers folder
    model       the section `model` of the run's config: what it was trained from
    draws       of (t, ε), t evenly over `timesteps`; the same for all media of one size, or differences would be of noise
    beta        in the convention of every config; it scales the score and orders nothing
    timesteps   (low, high) in [0, 1], as training has it
    batch_size  media a forward: speed and memory only
    ValueError: counts below 1, a range that is none, a family that needs conditions; media of another modality than the model's.
    FileNotFoundError: no such checkpoint.
    """

    name = "implicit"
    modalities = frozenset({"image", "video", "audio"})
    dimensions = ("score",)
    groupwise = False

    def __init__(self, *, checkpoint: str, model: Mapping[str, Any], draws: int = 16, beta: float = 1000.0,
                 timesteps: Sequence[float] = (0.0, 1.0), batch_size: int = 16):  # fmt: skip
        check_counts(self.name, draws=draws, batch_size=batch_size)
        if len(timesteps) != 2 or not 0 <= timesteps[0] < timesteps[1] <= 1:
            raise ValueError(f"{self.name} got timesteps = {list(timesteps)}; give [low, high] in [0, 1], low first")
        place = source_path(checkpoint)
        if place is None:
            raise FileNotFoundError(f"{self.name} got checkpoint = {checkpoint!r}, which is no folder here; give RUN/train/final of a run")
        self.checkpoint, self.draws, self.beta = place, draws, float(beta)
        self.timesteps, self.batch_size = (float(timesteps[0]), float(timesteps[1])), batch_size
        self.config = Config(run=Path("runs"), model=Model.model_validate(dict(model)))
        if family_of(self.config.model.backbone).takes_condition:
            raise ValueError(
                f"{self.name} reads prompts and media, and backbone {self.config.model.backbone!r} needs a condition with each"
            )
        told = f"draws {draws}, beta {beta:g}, timesteps {list(self.timesteps)}"
        self.revision = f"{files_fingerprint(place)} against {self.config.model.fingerprint()}, {told}"

    @cached_property
    def _networks(self) -> tuple[Backbone, nn.Module]:
        """The reference's backbone, and the policy; of the latter the denoiser alone stays."""
        from pipelines.evaluate import load_aligned

        reference = load_model(self.config.model)
        return reference, load_aligned(self.config, [self.checkpoint], reference.identity(), offload_encoders=True).denoiser

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        check_call(self, prompts, media)
        backbone, _ = self._networks
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, medium in enumerate(media):
            if modality_of(medium) != backbone.modality:
                raise ValueError(f"{self.name} got {modality_of(medium)}, and {backbone.source!r} makes {backbone.modality}")
            size = backbone.whole(type(medium).shape_of(medium.columns, backbone.rate))
            if not all(size):
                raise ValueError(f"{self.name} got a medium of {medium.columns}, smaller than one latent of {backbone.source!r}")
            alike.setdefault(size, []).append(index)
        scores = [0.0] * len(media)
        for size, places in alike.items():
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                drift = self._drift([prompts[index] for index in batch], [media[index] for index in batch], size)
                for index, value in zip(batch, drift.tolist(), strict=True):
                    scores[index] = -0.5 * self.beta * value
        return {"score": scores}

    def _drift(self, prompts: list[str], media: list[Any], size: tuple[int, ...]) -> Tensor:
        """Mean over the draws of policy error − reference error, (N,); errors in float32."""
        import numpy as np
        import torch

        from diffalign.sampling import predict_rounded
        from diffalign.tensors import mean_squared_error

        backbone, policy = self._networks
        low, high = self.timesteps
        with torch.no_grad():
            stacked = np.stack([medium.tensor(size, backbone.rate, backbone.channels) for medium in media])
            latents, embeds = backbone.encode(torch.from_numpy(stacked), seeds=None).float(), backbone.embed(prompts)
            latents = latents.to(next(policy.parameters()).device)
            total = latents.new_zeros(len(media), dtype=torch.float64)
            for draw in range(self.draws):
                generator = torch.Generator().manual_seed(draw)
                uniform = low + (high - low) * (draw + torch.rand(1, generator=generator)) / self.draws
                epsilon = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
                timestep = backbone.process.timestep(uniform, tuple(latents.shape[2:])).to(latents.device).expand(len(media))
                noised, target = (make(latents, epsilon, timestep) for make in (backbone.process.noise, backbone.process.target))
                ours, theirs = (
                    mean_squared_error(predict_rounded(backbone, denoiser, noised, timestep, embeds)[:, None], target[:, None])[:, 0]
                    for denoiser in (policy, backbone.denoiser)
                )
                total += (ours - theirs).double()
        return total / self.draws
