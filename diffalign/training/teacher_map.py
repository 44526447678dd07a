"""What a teacher prefers at each position of a sample, by several draws of noise: one draw says more of the noise than of the sample."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from diffalign.backbones import Backbone
from diffalign.tensors import squared_error
from diffalign.training.groups import GroupBatch
from diffalign.training.predict import predict_in_parts
from diffalign.training.randomness import generator
from diffalign.training.reference import Reference
from diffalign.training.reference_cache import ReferenceCache, key_of

KEPT = 1 << 28  # numbers of all maps that are remembered: 1 GiB


class TeacherMap:
    """(B, K, 1, *S): the teacher's error − the reference's at each position, a mean over channels and over draws of (t, ε).

    t lies evenly over `timesteps`, and both are the same for all samples of one shape. A map is of its samples and prompt alone, made in
    forwards of its own, and so the same bits whatever is beside it and whenever it is made; it is remembered for the next visit. No `Work`
    counts these forwards, for how many there are depends on what is remembered.

    cache  of what the reference predicts, or None
    """

    def __init__(self, backbone: Backbone, teacher: Reference, reference: Reference, *, draws: int, timesteps: tuple[float, float],
                 at_once: int | None, seed: int, cache: ReferenceCache | None = None):  # fmt: skip
        self.backbone, self.teacher, self.reference = backbone, teacher, reference
        self.draws, self.timesteps, self.at_once, self.seed = draws, timesteps, at_once, seed
        self.cache, self.kept = cache, 0
        self.found: dict[str, Tensor] = {}

    def __call__(self, batch: GroupBatch) -> Tensor:
        maps = []
        for row, latents in enumerate(batch.latents):
            embeds = {name: value[row : row + 1] for name, value in batch.embeds.items()}
            key = key_of("", (latents, embeds))
            found = self.found.get(key)
            if found is None:
                found = self._made(latents, embeds)
                if self.kept + found.numel() <= KEPT:
                    self.kept += found.numel()
                    self.found[key] = found.cpu()
            maps.append(found.to(latents.device))
        return torch.stack(maps)

    @torch.no_grad()
    def _made(self, latents: Tensor, embeds: dict[str, Tensor]) -> Tensor:
        process, (low, high), count = self.backbone.process, self.timesteps, len(latents)
        total = latents.new_zeros(count, 1, *latents.shape[2:], dtype=torch.float32)
        for draw in range(self.draws):
            source = generator(self.seed, "teacher", draw)
            uniform = low + (high - low) * (draw + torch.rand(1, generator=source)) / self.draws
            epsilon = torch.randn(latents.shape[1:], generator=source).to(latents.device).expand(latents.shape)
            timestep = process.timestep(uniform, tuple(latents.shape[2:])).to(latents.device).expand(count)
            noised, target = (make(latents.float(), epsilon, timestep) for make in (process.noise, process.target))
            own = {name: value.repeat_interleave(count, 0) for name, value in embeds.items()}
            errors = []
            for network, cache in ((self.teacher, None), (self.reference, self.cache)):
                with network.use() as denoiser:
                    made = partial(predict_in_parts, self.backbone, denoiser, noised, timestep, own, self.at_once)
                    predicted = made() if cache is None else cache.recall(made, noised, timestep, own)
                errors.append(squared_error(predicted, target))
            total += (errors[0] - errors[1]).mean(1, keepdim=True)
        return total / self.draws
