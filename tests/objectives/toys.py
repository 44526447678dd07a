"""Three models whose right answer is known in closed form, in float64: a softmax, a Gaussian whose mean moves, a first step.

Notation: u stands for log π_θ/π_ref of a sample; drift = −u/κ; β_LM = β/(2κ) (then the implicit reward −(β/2)·drift is β_LM·u).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from objective_checks import Objective, close, outputs_of_errors
from torch import Tensor

from diffalign.noising import Draw, load_noising
from diffalign.tensors import Outputs

Fit = Callable[[Callable[[], Tensor], Tensor], None]


def minimise(loss: Callable[[], Tensor], parameter: Tensor) -> None:
    """Moves the parameter to a stationary point of a smooth loss, to machine precision."""
    optimizer = torch.optim.LBFGS(
        [parameter], lr=1, max_iter=300, history_size=20, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def descend(loss: Callable[[], Tensor], parameter: Tensor) -> None:
    """Moves the parameter to a minimum of a loss that may have corners, to about 1e-5: gradient descent whose rate falls to nothing."""
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.97**step
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


# T1: tabular ----------------------------------------------------------------------------------------


def tabular_optimum(
    objective: Objective, rewards: Tensor, reference_logits: Tensor, *, beta_lm: float, kappa: float, fit: Fit = minimise
) -> tuple[Tensor, Tensor]:
    """Trains a K-way softmax on every ordered pair (i, j), weighted by P_ij = σ(R_i − R_j); (log π trained, log π* in closed form).

    π* ∝ π_ref·exp(R/β_LM): Rafailov et al. 2023, arXiv:2305.18290, eq. 4. Errors are made to order: e = 50 − u/κ, reference 50.
    """
    count = len(rewards)
    winners, losers = torch.tensor([(i, j) for i in range(count) for j in range(count) if i != j]).T
    weight = torch.sigmoid(rewards[winners] - rewards[losers])
    reference = reference_logits.log_softmax(0)
    logits = reference_logits.clone().requires_grad_()

    def loss() -> Tensor:
        u = logits.log_softmax(0) - reference
        error = 50 - torch.stack([u[winners], u[losers]], 1) / kappa
        outputs = outputs_of_errors(error, torch.full_like(error, 50.0))
        return (weight * objective(outputs, beta=2 * kappa * beta_lm).value).sum()

    fit(loss, logits)
    return logits.detach().log_softmax(0), (reference + rewards / beta_lm).log_softmax(0)


def check_tabular_optimum(objective: Objective, name: str = "diffusion_dpo") -> None:
    rewards = torch.tensor([0.3, -0.4, 0.9, 0.0], dtype=torch.float64)
    reference_logits = torch.tensor([0.2, 0.5, -0.3, 0.1], dtype=torch.float64)
    trained, optimum = tabular_optimum(objective, rewards, reference_logits, beta_lm=0.7, kappa=2.0)
    close(trained, optimum, rtol=0, atol=1e-6)


# T2: Gaussian mean shift ----------------------------------------------------------------------------

Prediction = Literal["epsilon", "v", "velocity"]


@dataclass(frozen=True)
class Gaussian:
    """x0 ~ N(μ, s²) noised at one fixed level; a forward process as noisings take it, and the exact denoiser of any μ.

    prediction  epsilon, v = αε − σx0 (α² + σ² = 1), or the velocity ε − x0 of rectified flow (α = 1 − t, σ = t)
    """

    prediction: Prediction
    alpha: float
    sigma: float
    s: float = 0.8
    mu_reference: float = 0.4

    @property
    def variance(self) -> float:
        """V, of x_t."""
        return self.alpha**2 * self.s**2 + self.sigma**2

    @property
    def snr(self) -> float:
        return self.alpha**2 / self.sigma**2

    @property
    def kappa(self) -> float:
        """κ: −κ·Δ is the log-ratio, up to a constant in x0."""
        kappa = self.variance**2 / (2 * self.s**2 * self.sigma**2)
        return kappa / self.alpha**2 if self.prediction == "epsilon" else kappa

    def noise(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        return self.alpha * latents + self.sigma * epsilon

    def target(self, latents: Tensor, epsilon: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return epsilon
        return self.alpha * epsilon - self.sigma * latents if self.prediction == "v" else epsilon - latents

    def denoise(self, noised: Tensor, mu: Tensor | float) -> Tensor:
        """E[target | x_t] where x0 ~ N(μ, s²)."""
        epsilon = self.sigma * (noised - self.alpha * mu) / self.variance
        if self.prediction == "epsilon":
            return epsilon
        latents = (noised - self.sigma * epsilon) / self.alpha
        return self.target(latents, epsilon, torch.zeros(()))

    def log_ratio(self, latents: Tensor, mu: Tensor | float) -> Tensor:
        """log π_μ(x0) − log π_ref(x0)."""
        return ((latents - self.mu_reference) ** 2 - (latents - mu) ** 2) / (2 * self.s**2)

    def outputs(self, pairs: Tensor, mu: Tensor | float, noising: str = "shared", seed: int = 0) -> Outputs:
        """Outputs of N pairs (N, 2) at a policy mean μ, noised by a noising of the table, one generator for each group."""
        latents = pairs[:, :, None]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + index) for index in range(len(pairs))]
        noised = load_noising(noising)(Draw(self, latents, torch.zeros(len(pairs)), generators))
        return Outputs(
            self.denoise(noised.sample, mu),
            noised.target,
            torch.zeros(len(pairs)),
            reference=self.denoise(noised.sample, self.mu_reference),
        )


# Low, middle and high noise for each prediction.
GAUSSIANS = [
    *(Gaussian(prediction, (1 - sigma**2) ** 0.5, sigma) for prediction in ("epsilon", "v") for sigma in (0.2, 0.6, 0.95)),
    *(Gaussian("velocity", 1 - t, t) for t in (0.2, 0.5, 0.9)),
]


def gauss_hermite(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(z)], z ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def check_gaussian_optimum(objective: Objective, name: str = "diffusion_dpo", *, model: Gaussian = GAUSSIANS[1]) -> None:
    """Reward R = g·x0 with Bradley–Terry labels: the trained mean is μ_ref + g·s²/β_LM, β_LM = β/(2κ)."""
    g, beta_lm = 0.9, 0.6
    nodes, weights = gauss_hermite(24)
    samples = model.mu_reference + model.s * nodes
    pairs = torch.cartesian_prod(samples, samples)
    weight = torch.cartesian_prod(weights, weights).prod(1) * torch.sigmoid(g * (pairs[:, 0] - pairs[:, 1]))
    mu = torch.tensor(model.mu_reference, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return 2 * (weight * objective(model.outputs(pairs, mu), beta=2 * beta_lm * model.kappa).value).sum()

    minimise(loss, mu)
    close(mu, model.mu_reference + g * model.s**2 / beta_lm, rtol=0, atol=1e-6)


# T3: the first step ---------------------------------------------------------------------------------


def check_first_step(objective: Objective, name: str = "diffusion_dpo") -> None:
    """At policy = reference: m = 0, L = ln 2, and ∂L/∂θ = (β/4)·∇(e_w − e_l), for every logistic loss without offset."""
    beta = 5000.0
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    noised, target, first, second = normal(4, 2, 3, 7), normal(4, 2, 3, 7), normal(7, 11), normal(11, 7)
    parameters = (first.requires_grad_(), second.requires_grad_())

    def predict() -> Tensor:
        return torch.tanh(noised @ first) @ second

    outputs = Outputs(predict(), target, torch.zeros(4), reference=predict().detach())
    loss = objective(outputs, beta=beta)
    assert loss.margin is not None
    close(loss.margin, np.zeros(4))
    close(loss.value, np.full(4, np.log(2)))
    gradients = torch.autograd.grad(loss.value.mean(), parameters, retain_graph=True)
    gap = (outputs.error[:, 0] - outputs.error[:, 1]).mean()
    for actual, expected in zip(gradients, torch.autograd.grad(gap, parameters), strict=True):
        close(actual, beta / 4 * expected, rtol=1e-9, atol=1e-9)


def check_output_gradients(objective: Objective, name: str = "diffusion_dpo") -> None:
    """∂L/∂p_w = β·σ(−m)·(p_w − y)/D and ∂L/∂p_l = −β·σ(−m)·(p_l − y)/D, D elements to a sample."""
    generator = torch.Generator().manual_seed(1)
    policy, reference, target = torch.randn(3, 4, 2, 3, 5, generator=generator, dtype=torch.float64)
    policy.requires_grad_()
    outputs = Outputs(policy, target, torch.zeros(4), reference=reference)
    loss = objective(outputs, beta=2.5)
    assert loss.margin is not None
    loss.value.sum().backward()
    factor = (2.5 * torch.sigmoid(-loss.margin) / 15)[:, None, None, None] * torch.tensor([1.0, -1.0])[:, None, None]
    assert policy.grad is not None
    close(policy.grad, factor * (policy - target))


# Checks of logistic objectives, beside those of every objective in objective_checks.
LOGISTIC_CHECKS = {
    "tabular optimum": check_tabular_optimum,
    "gaussian optimum": check_gaussian_optimum,
    "first step": check_first_step,
    "output gradients": check_output_gradients,
}
