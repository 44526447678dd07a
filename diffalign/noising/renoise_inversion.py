"""ReNoise inversion: DDIM inversion whose every step is averaged over both of its ends."""

from diffalign.arguments import Count
from diffalign.noising import Draw, Noised
from diffalign.noising.inversion import Grid, Network, invert


def renoise_inversion(draw: Draw, *, steps: Count = 10, network: Network = "policy", grid: Grid = "exact") -> Noised:
    """Lu et al. 2025 (SmPO), arXiv:2506.02698: 10 steps for SDXL, 5 for SD1.5. Two forwards a step and sample, without gradient.

    network, grid  as in ddim_inversion
    """
    return invert(draw, steps=steps, eta=0.0, network=network, grid=grid, renoise=True)
