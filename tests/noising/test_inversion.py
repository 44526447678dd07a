"""Inversion, on a Gaussian whose sampling path is known in closed form: x_t = α_t·μ + (x_0 − μ)·√V_t/s, V_t = α_t²s² + σ_t²."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor
from torch.nn.functional import conv2d

from diffalign.noising import Draw, Noised, load_noising
from diffalign.noising.inversion import _deviation
from diffalign.training.randomness import generator

MU, S = 0.7, 0.5
NAMES = ["ddim_inversion", "renoise_inversion"]


class GaussianPath:
    """Stable Diffusion's levels (or a rectified flow's), and the exact denoiser of x_0 ~ N(μ, s²)."""

    def __init__(self, prediction: str = "epsilon", count: int = 1000):
        self.prediction, self.timestep_count = prediction, count
        self.clean_timestep = 0 if prediction == "velocity" else -1
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64) ** 2
        self.cumulative = torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction == "velocity":
            share = timestep.double() / self.timestep_count
            return 1 - share, share
        cumulative = self.cumulative[timestep.long() + 1]
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def _at(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (level.view(-1, *[1] * (like.ndim - 1)) for level in self.levels(timestep))
        return alpha, sigma

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, latents)
        return alpha * latents + sigma * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, latents)
        return {"epsilon": epsilon, "v": alpha * epsilon - sigma * latents, "velocity": epsilon - latents}[self.prediction]

    def epsilon(self, prediction: Tensor, noised: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, noised)
        return {"epsilon": prediction, "v": alpha * prediction + sigma * noised, "velocity": noised + alpha * prediction}[self.prediction]

    def network(self, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        """E[target | x_t]."""
        self.asked.append((x, timestep, rows))
        timestep = timestep.clamp(min=0)
        alpha, sigma = self._at(timestep, x)
        epsilon = sigma * (x - alpha * MU) / (alpha**2 * S**2 + sigma**2)
        clean = (x - sigma * epsilon) / alpha
        return self.target(clean, epsilon, timestep)

    def on_path(self, latents: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = self._at(timestep, latents)
        return alpha * MU + (latents - MU) * (alpha**2 * S**2 + sigma**2).sqrt() / S


def clean(groups: int = 4, samples: int = 2, shape: tuple[int, ...] = (4, 3, 3)) -> Tensor:
    return MU + S * torch.randn(groups, samples, *shape, generator=generator("clean"), dtype=torch.float64)


def inverted(name: str, path: GaussianPath, latents: Tensor, timestep: Tensor, **arguments: Any) -> Noised:
    generators = [generator("inversion", group) for group in range(len(latents))]
    networks = {"policy": path.network, "reference": path.network}
    return load_noising(name, **arguments)(Draw(path, latents, timestep, generators, networks))


def error(name: str, steps: int, prediction: str = "epsilon", **arguments: Any) -> float:
    """Largest distance to the known path, over groups that each have a t of their own."""
    path, latents, timestep = GaussianPath(prediction), clean(), torch.tensor([5, 130, 555, 900])
    found = inverted(name, path, latents, timestep, steps=steps, **arguments)
    return float((found.sample - path.on_path(latents.flatten(0, 1), timestep.repeat_interleave(2)).view_as(latents)).abs().max())


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_ddim_inversion_converges_to_the_path_at_each_group_s_own_t(prediction: str) -> None:
    coarse, fine = (error("ddim_inversion", steps, prediction, eta=0.0) for steps in (50, 500))
    assert fine < 0.02 and coarse / fine == pytest.approx(10, rel=0.4)  # first order


def test_renoise_is_of_second_order_on_straight_levels() -> None:
    """Ten times the steps, a hundredth of the error; on Stable Diffusion's levels, whose σ starts as a root, less is gained."""
    coarse, fine = (error("renoise_inversion", steps, "velocity") for steps in (10, 100))
    assert fine < 1e-3 and coarse / fine > 50


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_renoise_is_nearer_to_the_path_for_the_same_forwards(prediction: str) -> None:
    assert error("renoise_inversion", 10, prediction) < 0.4 * error("ddim_inversion", 20, prediction, eta=0.0)


class RandomPath(GaussianPath):
    """The same levels under a small random network: two convolutions and a wave of the timestep."""

    def network(self, x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        draws = generator("network")
        into, out = (0.1 * torch.randn(channels, generator=draws, dtype=x.dtype) for channels in ((8, 4, 3, 3), (4, 8, 3, 3)))
        wave = torch.sin(timestep.to(x).view(-1, 1, 1, 1) / 300 + torch.arange(8).view(-1, 1, 1))
        return conv2d(torch.tanh(conv2d(x, into, padding=1) + wave), out, padding=1)


def there_and_back(name: str, steps: int, path: GaussianPath, **arguments: Any) -> float:
    """Largest distance from the clean samples after inversion to t and DDIM down again, by the same network on the same grid."""
    latents, goals = clean(), [160, 400, 650, 900]
    arguments |= {"eta": 0.0} if name == "ddim_inversion" else {}
    found = inverted(name, path, latents, torch.tensor(goals), steps=steps, **arguments).sample
    farthest = 0.0
    for x, start, goal in zip(found, latents, goals, strict=True):
        points = [int(path.clean_timestep + index * path.timestep_count / steps) for index in range(steps + 1)]
        points = [point for point in points if point < goal] + [goal]
        for there, here in reversed(list(pairwise(points))):
            every = torch.full((len(x),), here)
            epsilon = path.epsilon(path.network(x, every, every), x, every)
            (alpha, sigma), (alpha_there, sigma_there) = path._at(every, x), path._at(torch.full((len(x),), there), x)
            x = alpha_there * (x - sigma * epsilon) / alpha + sigma_there * epsilon
        farthest = max(farthest, float((x - start).abs().max()))
    return farthest


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
@pytest.mark.parametrize("process", [GaussianPath, RandomPath])
@pytest.mark.parametrize("name", NAMES)
def test_sampling_leads_back_to_the_clean_sample(name: str, process: type[GaussianPath], prediction: str) -> None:
    """The more steps, the nearer: ten times as many, a tenth of the distance, which is that of DDIM's way down."""
    coarse, fine = (there_and_back(name, steps, process(prediction)) for steps in (25, 250))
    assert fine < 0.2 and coarse / fine > 4


@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
@pytest.mark.parametrize("process", [GaussianPath, RandomPath])
def test_sampling_leads_nearer_to_the_clean_sample_from_renoise(process: type[GaussianPath], prediction: str) -> None:
    """A step and its way back differ by the change of ε̂ over it; half of that where the step took the mean of both ends."""
    for steps in (10, 50):
        plain, renoised = (there_and_back(name, steps, process(prediction)) for name in NAMES)
        assert renoised < 0.75 * plain


@pytest.mark.parametrize("process", [GaussianPath, RandomPath])
def test_one_renoised_step_too_leads_back(process: type[GaussianPath]) -> None:
    """The way back of its last step is halved, the others' are DDIM's."""
    for steps in (25, 250):
        plain = there_and_back("ddim_inversion", steps, process())
        last, every = (there_and_back("renoise_inversion", steps, process(), renoise=renoise) for renoise in ("last", "every"))
        assert every < last < plain < 0.2 * 250 / steps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["epsilon", "v", "velocity"])
def test_sample_and_target_agree_exactly_at_the_sample_s_own_t(name: str, prediction: str) -> None:
    """However coarse the path is: the target is the one that leads from x_t back to the clean sample."""
    path, latents, timestep = GaussianPath(prediction), clean(), torch.tensor([1, 99, 100, 999])
    found = inverted(name, path, latents, timestep, steps=3)
    every = timestep.repeat_interleave(2)
    flat, target = found.sample.flatten(0, 1), found.target.flatten(0, 1)
    epsilon = path.epsilon(target, flat, every)
    alpha, sigma = path._at(every, flat)
    assert torch.allclose((flat - sigma * epsilon) / alpha, latents.flatten(0, 1), atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    """One t, one probability, one label for a whole batch: the released code is right at batch size 1 only."""
    path, latents, timestep = GaussianPath(), clean(), torch.tensor([640, 3, 999, 250])
    together = inverted(name, path, latents, timestep)
    for group in range(4):
        draw = Draw(
            path, latents[group : group + 1], timestep[group : group + 1], [generator("inversion", group)], {"policy": path.network}
        )
        alone = load_noising(name)(draw)
        assert torch.allclose(alone.sample[0], together.sample[group], rtol=0, atol=1e-12)


def test_a_sample_that_has_arrived_is_not_run_again() -> None:
    path = GaussianPath()
    inverted("ddim_inversion", path, clean(), torch.tensor([5, 130, 555, 900]), steps=10)
    assert [len(rows) for _, _, rows in path.asked] == [8, 6, 4, 4, 4, 4, 2, 2, 2, 2]
    assert path.asked[1][2].tolist() == [2, 3, 4, 5, 6, 7]


def test_the_network_is_told_where_x_is() -> None:
    path = GaussianPath()
    inverted("ddim_inversion", path, clean(1), torch.tensor([250]), steps=10)
    assert [timestep[0].item() for _, timestep, _ in path.asked] == [0, 99, 199]  # the last step is the short one, to 250


def test_noise_of_each_transition_has_the_ddim_deviation() -> None:
    """From t = 99 to t = 199, by hand: σ² = (1 − ᾱ_99)/(1 − ᾱ_199)·(1 − ᾱ_199/ᾱ_99); none from the clean sample; a flow's by its own."""
    path = GaussianPath()
    near, far = path.cumulative[100].item(), path.cumulative[200].item()
    levels = [path.levels(torch.tensor([timestep])) for timestep in (-1, 99, 199)]
    assert _deviation(levels[1], levels[2]).item() == pytest.approx(math.sqrt((1 - near) / (1 - far) * (1 - far / near)), rel=1e-12)
    assert _deviation(levels[0], levels[1]).item() == 0
    (alpha, sigma), (alpha_end, sigma_end) = flow = [(1 - t, t) for t in torch.tensor([[0.1], [0.2]], dtype=torch.float64)]
    by_steps = (alpha_end / alpha * sigma).square() + (_deviation(*flow) * sigma_end / sigma).square()  # noised to s, and on to t
    assert by_steps.item() == pytest.approx(0.2**2, rel=1e-12) and _deviation(*flow).item() == pytest.approx(0.0896, abs=1e-4)
    latents, timestep = clean(64), torch.full((64,), 199)
    plain, noisy = (inverted("ddim_inversion", path, latents, timestep, eta=eta).sample for eta in (0.0, 0.5))
    assert (noisy - plain).std().item() == pytest.approx(0.5 * _deviation(levels[1], levels[2]).item(), rel=0.05)


def test_without_eta_nothing_is_drawn() -> None:
    path, latents, timestep = GaussianPath(), clean(), torch.tensor([640, 3, 999, 250])
    generators = [torch.Generator().manual_seed(7) for _ in range(4)]
    load_noising("ddim_inversion", eta=0.0)(Draw(path, latents, timestep, generators, {"policy": path.network}))
    assert all(torch.equal(each.get_state(), torch.Generator().manual_seed(7).get_state()) for each in generators)


def bent(x: Tensor, timestep: Tensor) -> Tensor:
    """A network that tells every timestep from its neighbours, negative ones too."""
    return torch.sin(1.3 * x + 0.01 * timestep.double().view(-1, *[1] * (x.ndim - 1)))


@pytest.mark.parametrize(("name", "eta"), [("ddim_inversion", 0.0), ("ddim_inversion", 0.1), ("renoise_inversion", 0.0)])
@pytest.mark.parametrize("steps", [5, 10])
def test_the_released_grid_is_the_release_s_loop(name: str, eta: float, steps: int) -> None:
    """Timesteps 1 − h, 1, 1 + h, … of diffusers 0.20: those below the goal, each told to the network as it is, both times, x going on by h.

    One transition by the scheduler of diffusers, which today names it by its end.
    """
    path, span, arguments = GaussianPath(), 1000 // steps, {"eta": eta} if name == "ddim_inversion" else {}
    path.network = lambda x, timestep, rows: bent(x, timestep)  # type: ignore[method-assign]
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}
    inverse, forward = (kind(**settings, steps_offset=1) for kind in (DDIMInverseScheduler, DDIMScheduler))
    inverse.set_timesteps(steps)
    for timestep in (1, 2, 40, 101, 555, 950, 999):
        latents = clean(1)
        found = inverted(name, path, latents, torch.tensor([timestep]), steps=steps, grid="released", **arguments)
        x, draws = latents[0], generator("inversion", 0)
        for told in range(1 - span, timestep, span):
            if told + span > 999:
                break
            every, end = torch.full((len(x),), told), told + span
            epsilon = bent(x, every)
            if name == "renoise_inversion":
                there = inverse.step(epsilon, end, x).prev_sample
                epsilon = (epsilon + bent(there, every)) / 2
            x = inverse.step(epsilon, end, x).prev_sample
            if eta:
                x = x + eta * forward._get_variance(end, told) ** 0.5 * torch.randn(x.shape, generator=draws).double()
        torch.testing.assert_close(found.sample[0], x, rtol=1e-5, atol=1e-5)  # the scheduler's levels are in float32


@pytest.mark.parametrize(("name", "often"), [("ddim_inversion", 1), ("renoise_inversion", 2)])
def test_the_released_grid_begins_below_0_and_stops_beside_t(name: str, often: int) -> None:
    path, latents, asked = GaussianPath(), clean(3, 1), []

    def network(x: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        asked.append((timestep, rows))
        return x

    path.network = network  # type: ignore[method-assign]
    inverted(name, path, latents, torch.tensor([40, 101, 950]), steps=10, grid="released")
    told = {row: [int(t[rows == row]) for t, rows in asked if (rows == row).any()] for row in range(3)}
    points = {0: [-99, 1], 1: [-99, 1], 2: [-99, *range(1, 900, 100)]}
    assert told == {row: [point for point in points[row] for _ in range(often)] for row in range(3)}


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_the_last_step_alone_is_renoised_where_asked(prediction: str) -> None:
    """Sample by sample, in a loop of its own: DDIM to the last grid point before t, and from there to t by the mean of both ends' ε̂."""
    path, latents, goals = GaussianPath(prediction), clean(5, 1), [0, 99, 130, 555, 999]
    path.network = lambda x, timestep, rows: bent(x, timestep)  # type: ignore[method-assign]
    kind = torch.float64 if prediction == "velocity" else torch.long
    found = inverted("renoise_inversion", path, latents, torch.tensor(goals, dtype=kind), renoise="last")
    for row, goal in enumerate(goals):
        grid = [path.clean_timestep + 100 * index for index in range(11)]
        points = [point for point in grid if point < goal] + [goal]
        x = latents[row]

        def predicted(x: Tensor, told: float) -> Tensor:
            every = torch.tensor([max(told, 0)], dtype=kind)
            return path.epsilon(bent(x, every), x, every)

        def stepped(x: Tensor, epsilon: Tensor, start: float, end: float) -> Tensor:
            (alpha, sigma), (alpha_end, sigma_end) = (path._at(torch.tensor([each], dtype=kind), x) for each in (start, end))
            return alpha_end * (x - sigma * epsilon) / alpha + sigma_end * epsilon

        for start, end in pairwise(points):
            epsilon = predicted(x, start)
            there = stepped(x, epsilon, start, end)
            if end == goal:
                there = stepped(x, (epsilon + predicted(there, end)) / 2, start, end)
            x = there
        torch.testing.assert_close(found.sample[row], x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("grid", ["exact", "released"])
def test_one_renoised_step_costs_one_forward_more(grid: str) -> None:
    """At the timestep where a sample's own path ends, be it in step with the others' or not."""
    latents, goals = clean(4, 1), torch.tensor([40, 101, 555, 950])
    told: dict[str, list[list[int]]] = {}
    for name, arguments in (("ddim_inversion", {"eta": 0.0}), ("renoise_inversion", {"renoise": "last"})):
        path = GaussianPath()
        inverted(name, path, latents, goals, grid=grid, **arguments)
        told[name] = [[int(t[rows == row]) for _, t, rows in path.asked if (rows == row).any()] for row in range(4)]
    ends = [[40], [101], [555], [950]] if grid == "exact" else [[1], [1], [501], [801]]
    assert told["renoise_inversion"] == [plain + end for plain, end in zip(told["ddim_inversion"], ends)]


def test_the_only_step_of_a_path_is_its_last() -> None:
    path, latents, goals = GaussianPath(), clean(), torch.tensor([640, 3, 999, 250])
    last, every = (inverted("renoise_inversion", path, latents, goals, steps=1, renoise=renoise).sample for renoise in ("last", "every"))
    assert torch.equal(last, every)
    assert not torch.equal(last, inverted("ddim_inversion", path, latents, goals, steps=1, eta=0.0).sample)


@pytest.mark.parametrize(("prediction", "steps", "said"), [("velocity", 10, "1000 continuous"), ("epsilon", 1000, "1000 discrete")])
def test_the_released_grid_is_of_discrete_timesteps_alone(prediction: str, steps: int, said: str) -> None:
    timestep = torch.tensor([5.0, 130.0, 555.0, 900.0]) if prediction == "velocity" else torch.tensor([5, 130, 555, 900])
    with pytest.raises(ValueError, match=rf"'released' with {steps} steps on {said} timesteps; .* set noising\.grid=exact"):
        inverted("renoise_inversion", GaussianPath(prediction), clean(), timestep, steps=steps, grid="released")


def test_the_released_grid_s_x_is_not_at_its_t() -> None:
    """The known flaw, in numbers: one x for every t between two grid points, at the upper one, about 40 timesteps too high on average."""
    path, latents = GaussianPath(), clean(1).expand(3, -1, -1, -1, -1)
    found = inverted("renoise_inversion", path, latents, torch.tensor([102, 150, 201]), grid="released")
    assert torch.equal(found.sample[0], found.sample[2]) and torch.equal(found.sample[1], found.sample[2])
    assert not torch.equal(found.target[0], found.target[2])
    reached = [max([1, *(told + 100 for told in range(1, t, 100) if told + 100 < 1000)]) for t in range(1000)]
    assert sum(reached) / 1000 - 499.5 == pytest.approx(40, abs=2)


def test_inversion_needs_its_network_and_runs_without_gradient() -> None:
    path, latents, timestep = GaussianPath(), clean().requires_grad_(), torch.tensor([640, 3, 999, 250])
    with pytest.raises(ValueError, match=r"inversion by the 'reference' network, and this run has: policy; set noising\.network"):
        load_noising("ddim_inversion", network="reference")(Draw(path, latents, timestep, [], {"policy": path.network}))
    assert not inverted("renoise_inversion", path, latents, timestep).sample.requires_grad


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="noising 'shared' has no argument 'steps'; it takes: none"):
        load_noising("shared", steps=3)


@pytest.mark.parametrize(("name", "arguments"), [("ddim_inversion", {"eta": 0.1}), ("renoise_inversion", {})])
def test_latents_in_float32_stay_float32_under_levels_in_float64(name: str, arguments: dict[str, float]) -> None:
    latents, timestep = clean(), torch.tensor([5, 300, 600, 999])
    path = GaussianPath()
    path.network = lambda x, timestep, rows: GaussianPath.network(path, x.double(), timestep, rows).float()  # type: ignore[method-assign]
    single = inverted(name, path, latents.float(), timestep, **arguments)
    double = inverted(name, GaussianPath(), latents, timestep, **arguments)
    assert (single.sample.dtype, single.target.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(single.sample.double(), double.sample, rtol=1e-4, atol=1e-4)
