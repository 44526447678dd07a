"""Expert against own sample: index 0 is noised forward, index 1 is where the policy was while it sampled, at the same t."""

import torch

from diffalign.noising import Draw, Noised
from diffalign.noising.independent import independent


def trajectory(draw: Draw) -> Noised:
    """Wu et al. 2025 (Diffusion-DRO), arXiv:2510.18353. The own sample's target is what the policy predicted there, not an ε.

    Raises ValueError where the run makes no own samples.
    """
    if draw.own is None:
        raise ValueError(
            "noising 'trajectory' is of the policy's own samples, and this run makes none; choose an objective that reads them: dro"
        )
    expert = independent(draw)
    return Noised(torch.cat([expert.sample, draw.own.sample], 1), torch.cat([expert.target, draw.own.target], 1))
