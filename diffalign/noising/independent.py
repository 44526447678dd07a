"""An ε of its own for each sample of a group."""

from diffalign.noising import Draw, Noised, apply


def independent(draw: Draw) -> Noised:
    """Wallace et al. 2023, eq. 14 as written."""
    return apply(draw, draw.normal(draw.latents.shape[1:]))
