"""One ε for all samples of a group: what depends on (ε, t) alone then cancels in every difference of errors."""

from diffalign.noising import Draw, Noised, apply


def shared(draw: Draw) -> Noised:
    """Wallace et al. 2023, released code."""
    return apply(draw, draw.normal(draw.latents.shape[2:]).unsqueeze(1).expand_as(draw.latents))
