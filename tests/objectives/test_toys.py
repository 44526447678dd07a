"""The analytic toys, and the noisings on them: what sharing the noise of a pair is worth, in numbers."""

from __future__ import annotations

import math

import pytest
import torch
from objective_checks import close
from toys import GAUSSIANS, LOGISTIC_CHECKS, Gaussian, check_gaussian_optimum, descend, gauss_hermite, minimise, tabular_optimum

from diffalign.objectives import objective_function
from diffalign.objectives.diffusion_dpo import diffusion_dpo

LOGISTIC = ["diffusion_dpo"]
each_gaussian = pytest.mark.parametrize("model", GAUSSIANS, ids=lambda model: f"{model.prediction} at σ = {model.sigma}")


@pytest.mark.parametrize("check", LOGISTIC_CHECKS)
@pytest.mark.parametrize("name", LOGISTIC)
def test_logistic(name, check) -> None:
    LOGISTIC_CHECKS[check](objective_function(name), name)


# T1 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta_lm", "kappa"), [(0.1, 1.0), (0.5, 20.0), (2.0, 0.25)])
def test_tabular_optimum_depends_on_beta_lm_alone(beta_lm, kappa) -> None:
    """The same π* whichever κ turns log-ratios into drifts, as long as β = 2·κ·β_LM."""
    rewards = torch.tensor([0.2, -0.1, 0.25], dtype=torch.float64)
    trained, optimum = tabular_optimum(diffusion_dpo, rewards, torch.zeros(3, dtype=torch.float64), beta_lm=beta_lm, kappa=kappa)
    close(trained, optimum, rtol=0, atol=1e-6)


def test_equal_rewards_leave_the_reference() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    trained, _ = tabular_optimum(diffusion_dpo, torch.zeros(3, dtype=torch.float64), logits, beta_lm=0.5, kappa=1.0)
    close(trained, logits.log_softmax(0), rtol=0, atol=1e-8)


def trained_margin(name: str, gap: float) -> float:
    """Of two samples, the first preferred in σ(gap) of their comparisons, on a softmax of the two; β_LM = 1."""
    logits = torch.tensor([0.2, 0.5], dtype=torch.float64)
    rewards = torch.tensor([gap, 0.0], dtype=torch.float64)
    fit = descend if name == "hinge" else minimise
    trained, _ = tabular_optimum(objective_function(name), rewards, logits, beta_lm=1.0, kappa=2.0, fit=fit)
    learnt = trained - logits.log_softmax(0)
    return (learnt[0] - learnt[1]).item()


@pytest.mark.parametrize("probability", [0.3, 0.5, 0.6, 0.9])
def test_each_link_has_its_own_optimal_margin(probability) -> None:
    """Logistic: the log-odds. IPO: P − ½, finite even for a certain label. Hinge: ±1, however unsure the label is."""
    log_odds = torch.logit(torch.tensor(probability, dtype=torch.float64)).item()
    assert trained_margin("diffusion_dpo", log_odds) == pytest.approx(log_odds, abs=1e-6)
    assert trained_margin("ipo", log_odds) == pytest.approx(probability - 0.5, abs=1e-6)
    if probability != 0.5:  # there every margin from −1 to 1 is as good
        assert trained_margin("hinge", log_odds) == pytest.approx(math.copysign(1, log_odds), abs=1e-4)


# T2 -------------------------------------------------------------------------------------------------


@each_gaussian
def test_drift_is_the_log_ratio(model: Gaussian) -> None:
    """−κ·(Δ(x) − Δ(x′)) = log-ratio(x) − log-ratio(x′), exactly, for every draw of shared noise."""
    pairs = torch.linspace(-2, 2, 22, dtype=torch.float64).view(11, 2)
    for mu in (-0.5, 0.1, 1.3):
        for seed in range(3):
            drift = model.outputs(pairs, mu, seed=seed).drift
            ratio = model.log_ratio(pairs, mu)
            close(-model.kappa * (drift[:, 0] - drift[:, 1]), ratio[:, 0] - ratio[:, 1], rtol=1e-8, atol=1e-8)


def test_drift_is_quadratic_in_the_distance_to_the_mean() -> None:
    """E over ε of Δ = (ασ/V)²·[(x0 − μ)² − (x0 − μ_ref)²] for ε-prediction: by quadrature over ε."""
    model, mu = Gaussian("epsilon", 0.8, 0.6), 1.1
    nodes, weights = gauss_hermite(8)
    for x0 in (-1.0, 0.2, 2.0):
        noised = model.noise(torch.tensor(x0, dtype=torch.float64), nodes, torch.zeros(()))
        drift = (model.denoise(noised, mu) - nodes) ** 2 - (model.denoise(noised, model.mu_reference) - nodes) ** 2
        expected = (0.8 * 0.6 / model.variance) ** 2 * ((x0 - mu) ** 2 - (x0 - model.mu_reference) ** 2)
        assert (weights * drift).sum().item() == pytest.approx(expected, rel=1e-12)


@each_gaussian
def test_shared_noise_has_no_variance_and_independent_noise_has_twice_the_snr(model: Gaussian) -> None:
    """Variance of u_w − u_l over ε at fixed samples: 0 when shared, 2·SNR·(Δμ)² when each sample has its own."""
    draws, mu = 20_000, 1.3
    pairs = torch.tensor([[1.0, -0.7]], dtype=torch.float64).expand(draws, 2)
    variance = {}
    for noising in ("shared", "independent"):
        drift = model.outputs(pairs, mu, noising).drift
        variance[noising] = (-model.kappa * (drift[:, 0] - drift[:, 1])).var().item()
    assert variance["shared"] < 1e-18
    # The sample variance of n normal draws has a relative standard deviation of √(2/n) = 1 %.
    assert variance["independent"] == pytest.approx(2 * model.snr * (mu - model.mu_reference) ** 2, rel=0.05)


@each_gaussian
def test_trained_mean_is_the_closed_form(model: Gaussian) -> None:
    check_gaussian_optimum(diffusion_dpo, model=model)


def test_independent_noise_moves_the_optimum() -> None:
    """The price of independent noise is not only variance: the trained mean falls short of the closed form, here by more than 10 %."""
    model, g, beta_lm = Gaussian("epsilon", 0.98, (1 - 0.98**2) ** 0.5), 0.9, 0.6
    generator = torch.Generator().manual_seed(0)
    pairs = model.mu_reference + model.s * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    weight = torch.sigmoid(g * (pairs[:, 0] - pairs[:, 1]))
    both, weights = torch.cat([pairs, pairs.flip(1)]), torch.cat([weight, 1 - weight])
    moved = {}
    for noising in ("shared", "independent"):
        mu = torch.tensor(model.mu_reference, dtype=torch.float64, requires_grad=True)

        def loss(mu=mu, noising=noising) -> torch.Tensor:
            value = diffusion_dpo(model.outputs(both, mu, noising), beta=2 * beta_lm * model.kappa).value
            return (weights * value).mean()

        minimise(loss, mu)
        moved[noising] = mu.item() - model.mu_reference
    assert moved["shared"] == pytest.approx(g * model.s**2 / beta_lm, rel=1e-5)
    assert 0 < moved["independent"] < 0.9 * moved["shared"]


@pytest.mark.parametrize(
    ("other", "alpha", "sigma"), [("v", 0.8, 0.6), ("v", 0.1, 0.99**0.5), ("velocity", 0.7, 0.3), ("velocity", 0.1, 0.9)]
)
def test_epsilon_errors_are_alpha_squared_times_velocity_errors(other, alpha, sigma) -> None:
    """e^ε = α²·e^v, so a β on ε and β·α² on v (or on velocity) are the same margin."""
    pairs = torch.linspace(-1, 2, 10, dtype=torch.float64).view(5, 2)
    on_epsilon, on_velocity = (Gaussian(prediction, alpha, sigma).outputs(pairs, 1.2) for prediction in ("epsilon", other))
    close(on_epsilon.error, alpha**2 * on_velocity.error)
    margins = [diffusion_dpo(on_epsilon, beta=70.0).margin, diffusion_dpo(on_velocity, beta=70.0 * alpha**2).margin]
    close(*margins)
