"""Noising: x_t and target consistent at each group's own t, shared or not within a group, normal noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffalign.noising import Draw, load_noising
from diffalign.training.randomness import generator

FORWARD = ["shared", "independent"]  # noise that is drawn; the inversions have tests of their own


class Plain:
    """x_t = (1 − t/10)·x + t/10·ε, target ε: a process whose arithmetic is done by hand below."""

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        share = (timestep / 10).view(-1, *[1] * (latents.ndim - 1))
        return (1 - share) * latents + share * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return epsilon


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (16,)], ids=["image", "video", "audio"])
@pytest.mark.parametrize("name", FORWARD)
def test_noised_and_target_agree_at_each_group_s_own_timestep(name: str, shape: tuple[int, ...]) -> None:
    latents = torch.randn(3, 2, 4, *shape, generator=generator("latents"))
    timestep = torch.tensor([0, 5, 10])
    noised = load_noising(name)(Draw(Plain(), latents, timestep, [generator("noise", group) for group in range(3)]))
    assert noised.sample.shape == noised.target.shape == latents.shape
    assert torch.equal(noised.sample[0], latents[0])
    assert torch.equal(noised.sample[2], noised.target[2])
    assert torch.allclose(noised.sample[1], 0.5 * latents[1] + 0.5 * noised.target[1], atol=1e-6)
    assert torch.equal(noised.target[:, 0], noised.target[:, 1]) is (name == "shared")
    assert not torch.equal(noised.target[0], noised.target[1])


@pytest.mark.parametrize("name", FORWARD)
def test_noise_is_standard_normal(name: str) -> None:
    """Not uniform, as where a port wrote rand_like for randn_like (DiffSynth): mean 0, variance 1, kurtosis 3, half of it negative."""
    epsilon = load_noising(name)(
        Draw(Plain(), torch.zeros(4, 2, 4, 64, 64), torch.full((4,), 10), [generator("moments", group) for group in range(4)])
    ).target
    values = epsilon[:, 0].flatten().double()
    assert abs(values.mean()) < 5 / len(values) ** 0.5
    assert abs(values.var() - 1) < 5 * (2 / len(values)) ** 0.5
    assert abs(values.pow(4).mean() - 3) < 0.1
    assert abs((values < 0).double().mean() - 0.5) < 0.01


@pytest.mark.parametrize("name", FORWARD)
def test_a_group_s_noise_does_not_depend_on_its_batch(name: str) -> None:
    latents = torch.randn(3, 2, 4, 4, 4, generator=generator("latents"))
    timestep = torch.tensor([1, 5, 9])
    together = load_noising(name)(Draw(Plain(), latents, timestep, [generator(group) for group in range(3)]))
    alone = [load_noising(name)(Draw(Plain(), latents[i : i + 1], timestep[i : i + 1], [generator(i)])) for i in range(3)]
    assert torch.equal(together.sample, torch.cat([one.sample for one in alone]))


def test_an_unknown_noising_is_named() -> None:
    with pytest.raises(ValueError, match="unknown noising 'shard'; choose one of: shared, independent"):
        load_noising("shard")
