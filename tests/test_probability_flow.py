"""The probability-flow ODE against the closed form for Gaussian data and against other ways of writing it."""

import math

import numpy as np
import pytest
import torch

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, linear
from clearwater.levels import Level
from clearwater.probability_flow import norm_of, probability_flow
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.variances import FixedSmall

SCHEDULES = {"vp": VP(), "ve": VE(), "flow": RectifiedFlow()}
CHAINS = {name: Chain.from_schedule(schedule, 2000) for name, schedule in SCHEDULES.items()}
of_name = pytest.mark.parametrize("name", SCHEDULES)
DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.05, 0.1]))
)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slope(path, at, h=1e-4):
    """A derivative by differences, of fourth order."""
    return (8 * (path(at + h) - path(at - h)) - (path(at + 2 * h) - path(at - 2 * h))) / (12 * h)


def u_of(t):
    return float((t.sigma / t.alpha).log())


def test_the_norm_is_one_where_the_variance_is_preserved_and_known_elsewhere():
    np.testing.assert_allclose(norm_of(linear(1000).levels), 1.0, rtol=1e-14)
    ve, flow = CHAINS["ve"].levels, CHAINS["flow"].levels
    np.testing.assert_allclose(norm_of(ve), np.hypot(1, ve.sigma.numpy()), rtol=1e-14)
    t = flow.time.numpy()
    np.testing.assert_allclose(norm_of(flow), np.sqrt(1 - 2 * t + 2 * t**2), rtol=1e-14)
    assert norm_of(flow[7]).shape == ()


@of_name
@pytest.mark.parametrize("u", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_for_gaussian_data_the_slope_is_that_of_the_path_in_closed_form(name, u):
    """The path is (alpha m + √(alpha² v + sigma²) c) / √(alpha² + sigma²), with alpha = e^-u sigma."""
    m, v, c = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64), 0.25, normal(4, 3)
    denoiser = ExactDenoiser(gaussian_data(m, v), CHAINS[name], FixedSmall())

    def z(at):
        alpha, sigma = 1 / math.sqrt(1 + math.exp(2 * at)), 1 / math.sqrt(1 + math.exp(-2 * at))
        return alpha * m + math.sqrt(alpha**2 * v + sigma**2) * c

    torch.testing.assert_close(probability_flow(denoiser, z(u), u), slope(z, u), rtol=1e-8, atol=1e-9)


@of_name
def test_the_slope_is_the_schedule_s_own_velocity_in_other_variables(name):
    """dx/dt = alpha' x̂_0 + sigma' ε̂, by the chain rule through z and u (Lipman et al. 2022; on a flow ε̂ - x̂_0)."""
    chain, schedule = CHAINS[name], SCHEDULES[name]
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    for k in (100, 700, 1500, 1900):
        t = chain.levels[k]
        parts = {"alpha": lambda t: t.alpha, "sigma": lambda t: t.sigma, "norm": norm_of, "u": lambda t: -t.log_snr / 2}
        rate = {part: float(slope(lambda time, of=of: of(schedule(time)), t.time)) for part, of in parts.items()}
        x = t.noise(DATA.sample(5, torch.Generator().manual_seed(k)), normal(5, 2))
        prediction, norm = denoiser(x, t), float(norm_of(t))
        velocity = rate["alpha"] * prediction.x_0 + rate["sigma"] * prediction.eps
        expected = (velocity / norm - rate["norm"] / norm**2 * x) / rate["u"]
        found = probability_flow(denoiser, x / norm, u_of(t))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@of_name
def test_the_slope_is_song_s_drift_with_the_score_of_the_marginal(name):
    """In x / alpha and ς = sigma / alpha, d(x / alpha) / dς = -sigma ∇ log q(x_t), the mixtures' own gradient."""
    chain = CHAINS[name]
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    for k in (100, 700, 1500, 1900):
        t = chain.levels[k]
        x = t.noise(DATA.sample(5, torch.Generator().manual_seed(k)), normal(5, 2)).requires_grad_()
        (score,) = torch.autograd.grad(DATA.at(t, 5).log_prob(x).sum(), x)
        x, norm, ratio = x.detach(), float(norm_of(t)), float(t.sigma / t.alpha)
        # z = (x / alpha) / √(1 + ς²) and du = dς / ς.
        by_ratio = -float(t.sigma) * score / math.sqrt(1 + ratio**2) - x / norm * ratio / (1 + ratio**2)
        found = probability_flow(denoiser, x / norm, math.log(ratio))
        torch.testing.assert_close(found, ratio * by_ratio, rtol=1e-7, atol=1e-8)


@of_name
def test_just_beyond_the_ends_of_the_chain_the_slope_is_that_at_the_end(name):
    """Where a solver's own arithmetic takes it."""
    chain = CHAINS[name]
    chain = chain if float(chain.levels.alpha[-1]) else Chain(chain.levels[:-1])
    denoiser, z = ExactDenoiser(DATA, chain, FixedSmall()), normal(5, 2)
    for end, outward in ((chain.levels[1], -1e-6), (chain.levels[-1], 1e-6)):
        beyond = probability_flow(denoiser, z, u_of(end) + outward)
        torch.testing.assert_close(beyond, probability_flow(denoiser, z, u_of(end)), rtol=1e-9, atol=1e-9)
        norm, s = float(norm_of(end)), float(end.sigma / norm_of(end))
        expected = s * denoiser(norm * z, end).eps - s**2 * z
        torch.testing.assert_close(beyond, expected, rtol=1e-9, atol=1e-9)


def test_the_denoiser_is_asked_at_the_time_of_the_level():
    """Between two levels of the chain too: it is a network of that time that is meant."""
    chain, asked = linear(1000), []

    class Asked(ExactDenoiser):
        def __call__(self, x_t, t):
            asked.append(t)
            return super().__call__(x_t, t)

    denoiser = Asked(DATA, chain, FixedSmall())
    middle = 0.5 * (chain.levels.log_snr[400] + chain.levels.log_snr[401])
    for log_snr in (chain.levels.log_snr[400], middle):
        probability_flow(denoiser, normal(2, 2), -float(log_snr) / 2)
    assert isinstance(asked[0], Level)
    assert [float(level.time) for level in asked] == pytest.approx([0.4, 0.4005], abs=1e-9)
    assert [float(level.log_snr) for level in asked] == pytest.approx([float(chain.levels.log_snr[400]), float(middle)])
