"""The likelihood of the probability-flow ODE, against flows that are known in closed form."""

import builtins
import math

import pytest
import torch
from scipy import stats

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, cosine, linear
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.ode_likelihood import flow_likelihood, flow_log_prob
from clearwater.schedules import VE, CosineSchedule, RectifiedFlow, StochasticInterpolant
from clearwater.targets import Prediction
from clearwater.variances import FixedSmall

CHAINS = {
    "linear": linear(1000),
    "cosine": cosine(200),
    "exploding": Chain.from_schedule(VE(), 200),
    "flow": Chain.from_schedule(RectifiedFlow(), 300),
}
MEAN = torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64)
VARIANCE = 0.16

every_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


def gaussian_flow_log_prob(x, chain):
    """Data N(m, v I): the flow keeps (x/alpha - m) / √(v + (sigma/alpha)²), so it is affine from end to end.

    Pure noise is the prior itself, so a flow from there has the density of the data with the noise of level 1.
    """
    levels = chain.levels[1:]
    first, last = levels[0], levels[-1]
    if float(last.alpha) == 0:
        return torch.distributions.Normal(MEAN, (VARIANCE + 1 / first.snr).sqrt()).log_prob(x).sum(1)
    stretch = ((VARIANCE + (last.sigma / last.alpha) ** 2) / (VARIANCE + (first.sigma / first.alpha) ** 2)).sqrt()
    share = last.alpha / (last.alpha**2 + last.sigma**2).sqrt()
    z = share * (MEAN + (x - MEAN) * stretch)
    prior = torch.distributions.Normal(0.0, (chain.prior_variance / (last.alpha**2 + last.sigma**2)).sqrt())
    return (prior.log_prob(z) + (share * stretch).log()).sum(1)


def test_on_a_flow_with_many_levels_the_density_is_that_of_the_data():
    """Of N(0, ¼), with the noise of level 1."""
    data = gaussian_data(torch.zeros(4, dtype=torch.float64), 0.25)
    x = data.sample(20, torch.Generator().manual_seed(4))
    chain = Chain.from_schedule(RectifiedFlow(), 1000)
    found, _ = flow_log_prob(ExactDenoiser(data, chain, FixedSmall()), x, tolerance=1e-7)
    true = torch.distributions.Normal(0.0, math.sqrt(0.25 + (0.001 / 0.999) ** 2)).log_prob(x).sum(1)
    torch.testing.assert_close(found, true, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", [RectifiedFlow(), CosineSchedule(), StochasticInterpolant()])
def test_from_pure_noise_the_density_does_not_depend_on_how_many_levels_there_are(path):
    chain = Chain.from_schedule(path, 5)
    data = gaussian_data(MEAN, VARIANCE)
    x = data.sample(4, torch.Generator().manual_seed(5))
    found, _ = flow_log_prob(ExactDenoiser(data, chain, FixedSmall()), x, tolerance=1e-9)
    torch.testing.assert_close(found, gaussian_flow_log_prob(x, chain), rtol=0, atol=1e-6)


def test_a_table_that_ends_in_pure_noise_is_followed_to_the_level_before():
    flow, data = Chain.from_schedule(RectifiedFlow(), 1000), gaussian_data(MEAN, VARIANCE)
    x = data.sample(4, torch.Generator().manual_seed(6))
    found, _ = flow_log_prob(ExactDenoiser(data, Chain(flow.levels), FixedSmall()), x, tolerance=1e-7)
    error = found - gaussian_flow_log_prob(x, flow)
    assert 1e-5 < float(error.abs().max()) < 3 * 0.002  # of the order of alpha there, 0.001


def test_a_chain_without_two_levels_of_signal_is_refused():
    data = gaussian_data(MEAN, VARIANCE)
    chain = Chain.from_schedule(RectifiedFlow(), 2)
    with pytest.raises(InputError, match="two levels with signal"):
        flow_log_prob(ExactDenoiser(data, chain, FixedSmall()), torch.zeros(1, 3))


@every_chain
@pytest.mark.parametrize(("tolerance", "allowed"), [(1e-5, 1e-3), (1e-9, 1e-6)])
def test_the_log_density_of_gaussian_data_is_the_closed_form_to_the_tolerance(chain, tolerance, allowed):
    data = gaussian_data(MEAN, VARIANCE)
    x = data.sample(5, torch.Generator().manual_seed(0))
    denoiser = ExactDenoiser(data, chain, FixedSmall())
    found, calls = flow_log_prob(denoiser, x, tolerance=tolerance)
    torch.testing.assert_close(found, gaussian_flow_log_prob(x, chain), rtol=0, atol=allowed)
    assert calls > 10


def test_the_trace_by_random_signs_is_exact_where_the_jacobian_is_diagonal():
    data = gaussian_data(MEAN, VARIANCE)
    x = data.sample(4, torch.Generator().manual_seed(1))
    denoiser = ExactDenoiser(data, linear(1000), FixedSmall())
    found, _ = flow_log_prob(denoiser, x, trace="hutchinson", tolerance=1e-9)
    torch.testing.assert_close(found, gaussian_flow_log_prob(x, linear(1000)), rtol=0, atol=1e-6)


class Turning(Denoiser):
    """eps = M x with a full matrix, so that signs see more than its diagonal."""

    variance = FixedSmall()
    chain = linear(1000)
    matrix = torch.tensor([[0.9, 0.3, -0.2], [0.1, 0.7, 0.4], [0.5, -0.3, 0.8]], dtype=torch.float64)

    def __call__(self, x_t, t):
        eps = x_t @ self.matrix.T
        return Prediction((x_t - float(t.sigma) * eps) / float(t.alpha), eps)


def test_over_the_signs_the_trace_is_that_of_the_jacobian():
    """dz/du = (s M - s² I) z is linear: log p changes by the integral of s tr M - 3 s², whatever x is."""
    x = torch.zeros(400, 3, dtype=torch.float64)
    exact, _ = flow_log_prob(Turning(), x[:1], trace="exact", tolerance=1e-8)
    u = -linear(1000).levels[1:].log_snr[[0, -1]] / 2
    # ∫ s du = asinh(e^u) and ∫ s² du = ½ log(1 + e^2u), for s = e^u / √(1 + e^2u).
    of_s, of_s_2 = torch.asinh(u.exp()).diff(), (0.5 * torch.log1p((2 * u).exp())).diff()
    change = float(of_s * Turning.matrix.trace() - 3 * of_s_2)
    at_zero = 3 * (-0.5 * math.log(2 * math.pi) + 0.5 * float(linear(1000).levels.alpha[1].square().log()))
    assert float(exact) == pytest.approx(at_zero + change, abs=1e-6)
    guessed, _ = flow_log_prob(Turning(), x, trace="hutchinson", tolerance=1e-8)
    assert float(guessed.std()) > 0.1
    assert abs(float(guessed.mean() - exact)) < 4 * float(guessed.std()) / 20


def test_the_density_of_a_mixture_is_that_of_the_data_with_the_noise_of_level_1_and_integrates_to_1():
    data = GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-0.6], [0.5]]), torch.tensor([0.01, 0.04], dtype=torch.float64)
    )
    chain = linear(1000)
    x = torch.linspace(-1.6, 1.8, 341, dtype=torch.float64).unsqueeze(1)
    found, _ = flow_log_prob(ExactDenoiser(data, chain, FixedSmall()), x, tolerance=1e-8)
    density = found.exp()
    assert float(torch.trapezoid(density, x.squeeze(1))) == pytest.approx(1, abs=1e-4)
    noise = float(chain.levels.sigma[1] / chain.levels.alpha[1]) ** 2
    true = sum(
        w * stats.norm.pdf(x.squeeze(1), m, math.sqrt(v + noise)) for w, m, v in [(0.3, -0.6, 0.01), (0.7, 0.5, 0.04)]
    )
    # The prior is N(0, 1), and x_T of these data is that only to √alpha_bar_T = 6e-3.
    torch.testing.assert_close(density, torch.as_tensor(true), rtol=0.02, atol=1e-3)


def test_bits_per_dimension_are_those_of_the_density_times_the_bin():
    """Where the density is nearly constant over a bin: -log2(density · 2/255)."""
    data = gaussian_data(torch.zeros(1, 2, 2, dtype=torch.float64), 0.25)
    denoiser = ExactDenoiser(data, linear(1000), FixedSmall())
    pixels = torch.tensor([[[[100.0, 120.0], [140.0, 160.0]]]] * 3, dtype=torch.float64)
    x_0 = pixels * 2 / 255 - 1
    found = flow_likelihood(denoiser, x_0, tolerance=1e-7)
    centre, _ = flow_log_prob(denoiser, x_0[:1], tolerance=1e-7)
    expected = -(float(centre) / 4 + math.log(2 / 255)) / math.log(2)
    assert found.total == pytest.approx(expected, abs=0.01)
    assert len(found.per_image.unique()) == 3  # each image has uniform noise of its own
    assert found.evaluations % 3 == 0


def test_an_image_has_the_same_noise_in_any_batch():
    data = gaussian_data(torch.zeros(1, 2, 2, dtype=torch.float64), 0.25)
    denoiser = ExactDenoiser(data, linear(1000), FixedSmall())
    x_0 = torch.randint(0, 256, (5, 1, 2, 2), generator=torch.Generator().manual_seed(2)) * 2 / 255 - 1
    together, apart = (flow_likelihood(denoiser, x_0.double(), tolerance=1e-8, batch=batch) for batch in (5, 2))
    torch.testing.assert_close(together.per_image, apart.per_image, rtol=0, atol=1e-6)


def test_data_off_the_grid_is_refused():
    data = gaussian_data(torch.zeros(1, 2, 2, dtype=torch.float64), 0.25)
    with pytest.raises(InputError, match="8-bit"):
        flow_likelihood(ExactDenoiser(data, linear(1000), FixedSmall()), torch.full((2, 1, 2, 2), 0.1234))


def test_without_the_solver_the_sentence_says_what_to_install(monkeypatch):
    def absent(name, *args, **kwargs):
        if name == "torchdiffeq":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    data = gaussian_data(MEAN, VARIANCE)
    with pytest.raises(InputError, match=r"pip install 'clearwater\[ode\]'"):
        flow_log_prob(ExactDenoiser(data, linear(1000), FixedSmall()), torch.zeros(1, 3))


@every_chain
def test_a_level_by_its_log_snr_is_the_chains_own(chain):
    levels = chain.levels[1:]
    levels = levels[levels.alpha > 0]
    found = chain.at_log_snr(levels.log_snr)
    for name in ("alpha", "sigma", "time"):
        torch.testing.assert_close(getattr(found, name), getattr(levels, name), rtol=1e-9, atol=1e-12)


@every_chain
def test_between_two_levels_lies_one_with_that_log_snr_and_a_time_between(chain):
    levels = chain.levels[1:]
    levels = levels[levels.alpha > 0]
    middle = (levels.log_snr[1:] + levels.log_snr[:-1]) / 2
    found = chain.at_log_snr(middle)
    torch.testing.assert_close(found.log_snr, middle, rtol=1e-9, atol=1e-9)
    if chain.schedule is not None:  # there the level is exact
        exact = chain.schedule(found.time)
        torch.testing.assert_close(found.alpha, exact.alpha, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.sigma, exact.sigma, rtol=1e-12, atol=0)
        return
    torch.testing.assert_close(found.time, (levels.time[1:] + levels.time[:-1]) / 2, rtol=1e-9, atol=1e-12)
    norm = (levels.alpha.square() + levels.sigma.square()).sqrt()
    torch.testing.assert_close(
        (found.alpha.square() + found.sigma.square()).sqrt(), (norm[1:] * norm[:-1]).sqrt(), rtol=1e-9, atol=0
    )


def test_a_log_snr_that_no_level_has_is_refused():
    with pytest.raises(InputError, match="log-SNR from"):
        linear(1000).at_log_snr(torch.tensor(20.0))
