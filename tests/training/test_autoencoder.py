"""Crops about what stands out, and the error of edges, by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from diffalign.training.autoencoder import AutoencoderTask, crop_about
from diffalign.training.loop import Visit


def draws(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(count)]


def test_a_crop_has_in_it_what_stands_out() -> None:
    """One point in a corner of a wide ground, in one moment of two: it is in nearly every crop, at every place of it."""
    clip = torch.zeros(3, 2, 16, 16)
    clip[:, 1, 0, 15] = 1.0
    crops = crop_about(clip.expand(400, 3, 2, 16, 16), 5, draws(400))
    assert crops.shape == (400, 3, 2, 5, 5)
    assert float((crops.amax((1, 2, 3, 4)) > 0).float().mean()) > 0.95  # 3 of 3 + 256 · 1e-4 · 1 of the weight
    inside = torch.zeros(3, 1, 16, 16)
    inside[:, 0, 8, 8] = 1.0
    places = crop_about(inside.expand(400, 3, 1, 16, 16), 5, draws(400))[:, 0, 0].flatten(1)
    found = places[places.amax(1) > 0].argmax(1).bincount(minlength=25)
    assert int((found > 0).sum()) == 25


def test_crops_are_cut_from_the_media_and_follow_their_generators() -> None:
    media = torch.arange(2 * 64.0).view(2, 1, 8, 8)
    crops = crop_about(media, 4, draws(2))
    first = crops[:, :, :1, :1]
    grid = torch.arange(4.0).view(4, 1) * 8 + torch.arange(4.0)
    assert torch.equal(crops, first + grid)  # squares of neighbours
    assert torch.equal(crops, crop_about(media, 4, draws(2)))
    assert torch.equal(crop_about(media, 8, draws(2)), media)


def test_a_crop_larger_than_the_media_is_refused() -> None:
    with pytest.raises(ValueError, match="crops of 9 out of 8×16; give a side of at most 8"):
        crop_about(torch.zeros(1, 1, 8, 16), 9, draws(1))


class Shifted(nn.Module):
    """An autoencoder that adds a ramp along the last axis."""

    config: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def encode(self, media: Tensor) -> Any:
        zeros = torch.zeros_like(media)
        posterior = type("Posterior", (), {"mean": media, "std": zeros, "var": torch.ones_like(media), "logvar": zeros})
        return type("Encoded", (), {"latent_dist": posterior})

    def decode(self, latents: Tensor) -> Any:
        return type("Decoded", (), {"sample": latents + self.slope * torch.arange(latents.shape[-1])})


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.75 + 0.875), (4.0, 0.75 + 0.875 + 4 * 0.5)])
def test_the_error_of_edges(weight: float, expected: float) -> None:
    """Errors 0, 0.5, 1, 1.5: absolute 0.75, squared 0.875; neighbours differ by 0.5 along the last axis and by 0 along the other."""
    task = AutoencoderTask(Shifted(), lambda visits: torch.zeros(len(visits), 1, 4, 4), 3, kl_weight=0.0, edge_weight=weight, seed=0)
    measured = task.measure([Visit(0, 0), Visit(1, 0)])
    assert measured.value.tolist() == pytest.approx([expected, expected])
    assert ("edges" in measured.numbers) == bool(weight)
