"""Noising: x_t and target consistent at each group's own t, shared or not within a group, normal noise."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from diffalign.arguments import defaults
from diffalign.noising import NOISINGS, WITHOUT_NETWORKS, Draw, load_noising
from diffalign.training.randomness import generator
from pipelines.train import Train

FORWARD = WITHOUT_NETWORKS  # noise that is drawn; the inversions have tests of their own


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


def check_moments(name: str) -> None:
    """Mean 0, variance 1, kurtosis 3, half of it negative."""
    epsilon = load_noising(name)(
        Draw(Plain(), torch.zeros(4, 2, 4, 64, 64), torch.full((4,), 10), [generator("moments", group) for group in range(4)])
    ).target
    values = epsilon[:, 0].flatten().double()
    assert abs(values.mean()) < 5 / len(values) ** 0.5
    assert abs(values.var() - 1) < 5 * (2 / len(values)) ** 0.5
    assert abs(values.pow(4).mean() - 3) < 0.1
    assert abs((values < 0).double().mean() - 0.5) < 0.01


def check_best_denoiser(name: str) -> None:
    """Of x_0 ~ N(0, 1), at x_t = (x_0 + ε)/2: it is linear, ε̂ = x_t, its error is ½, and what it leaves has nothing to do with x_t."""
    latents = torch.randn(4, 2, 4, 64, 64, generator=generator("clean"))
    draw = Draw(Plain(), latents, torch.full((4,), 5), [generator("denoiser", group) for group in range(4)])
    noised = load_noising(name)(draw)
    x, left = noised.sample.flatten().double(), (noised.target - noised.sample).flatten().double()
    count = len(x) / 2  # that may be alike
    assert abs(left.mean()) < 5 * (0.5 / count) ** 0.5 and abs(left.square().mean() - 0.5) < 0.02
    for power in (1, 3):
        products = left * x**power
        assert abs(products.mean()) < 5 * products.std() / count**0.5


NOISE_CHECKS = (check_moments, check_best_denoiser)


@pytest.mark.parametrize("check", NOISE_CHECKS)
@pytest.mark.parametrize("name", FORWARD)
def test_noise_is_standard_normal(name: str, check: Callable[[str], None]) -> None:
    check(name)


WRONG_NOISE = {
    "uniform": lambda shape, generator: torch.rand(
        shape, generator=generator
    ),  # as where a port wrote rand_like for randn_like (DiffSynth)
    "uniform of variance 1": lambda shape, generator: 12**0.5 * (torch.rand(shape, generator=generator) - 0.5),
    "signs": lambda shape, generator: torch.randn(shape, generator=generator).sign(),
    "twice as loud": lambda shape, generator: 2 * torch.randn(shape, generator=generator),
}


@pytest.mark.parametrize("wrong", WRONG_NOISE)
@pytest.mark.parametrize("name", FORWARD)
def test_wrong_noise_fails_both_checks(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(self: Draw, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([WRONG_NOISE[wrong](shape, generator) for generator in self.generators])

    monkeypatch.setattr(Draw, "normal", drawn)
    for check in NOISE_CHECKS:
        with pytest.raises(AssertionError):
            check(name)


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


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ddim_inversion", {"grid": "exakt"}, r"grid is 'exakt'; input should be 'exact' or 'released' \(default: 'exact'\)"),
        ("ddim_inversion", {"network": "teacher"}, "network is 'teacher'; input should be 'policy' or 'reference'"),
        ("ddim_inversion", {"steps": 0}, r"steps is 0; input should be greater than 0 \(default: 10\)"),
        ("ddim_inversion", {"steps": 2.5}, "steps is 2.5; input should be a valid integer"),
        ("ddim_inversion", {"eta": -0.1}, "eta is -0.1; input should be greater than or equal to 0"),
        ("ddim_inversion", {"eta": float("nan")}, "eta is nan; input should be a finite number"),
        ("renoise_inversion", {"steps": True}, "steps is True; input should be a valid integer"),
        ("renoise_inversion", {"grid": "exakt"}, "grid is 'exakt'"),
        ("renoise_inversion", {"step": 5}, r"has no argument 'step' \(did you mean 'steps'\?\); it takes: steps, network, grid"),
    ],
)
def test_an_argument_of_another_value_is_named(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"noising '{name}':? {message}"):
        load_noising(name, **given)
    with pytest.raises(ValidationError, match=rf"noising '{name}':? {message}"):
        Train.model_validate({"noising": {"name": name, **given}})


@pytest.mark.parametrize("name", NOISINGS)
def test_a_noising_s_defaults_are_in_range(name: str) -> None:
    load_noising(name, **defaults(import_module(f"diffalign.noising.{name}").__dict__[name]))
