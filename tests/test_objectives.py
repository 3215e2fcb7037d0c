"""Squared errors: what is averaged, with what weight, over which levels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from clearwater.chains import Chain, linear
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.objectives import SquaredError
from clearwater.schedules import CosineSchedule
from clearwater.targets import X0, Eps, Mean, Score, V, Velocity
from clearwater.times import LowDiscrepancy, TimeSampler, Uniform
from clearwater.variances import FixedSmall
from clearwater.weights import MinSNR, Unweighted

CHAIN = linear(1000)
TARGETS = [Eps(), X0(), V(), Score(), Velocity(), Mean(CHAIN)]


class Recording(nn.Module):
    """sin(3x) + time, which remembers what it was fed."""

    def forward(self, x, time):
        self.x_t, self.time = x, time
        return (3 * x).sin() + time.reshape(-1, 1, 1, 1)


class Scaling(nn.Module):
    """The network y = w · x_t."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x, time):
        return self.w * x


class At(TimeSampler):
    """Always these levels."""

    def __init__(self, *k):
        self.k = torch.tensor(k)

    def __call__(self, n, T, generator):
        return self.k, torch.ones(n, dtype=torch.float64)


class Told(TimeSampler):
    """Levels 1, 2, … with weights of its own, which keeps what it is told."""

    def __call__(self, n, T, generator):
        self.asked = (n, T)
        return torch.arange(1, n + 1), torch.arange(n, dtype=torch.float64) + 0.5

    def observe(self, k, loss):
        self.k, self.loss = k, loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, seed=0):
    return torch.rand(n, 2, 3, 3, dtype=torch.float64, generator=generator(seed)) * 2 - 1


def denoiser(network, target=None, chain=CHAIN):
    return NetworkDenoiser(network, chain, Eps() if target is None else target, FixedSmall())


def per_image(x):
    return x.reshape(-1, 1, 1, 1)


def test_the_simple_objective_is_the_mean_squared_error_of_the_noise():
    """Ho et al. 2020, eq. 14: the noise is read off what the network was fed, x_t = alpha x_0 + sigma eps."""
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    network, x_0, k = Recording(), images(4), torch.tensor([1, 30, 500, 1000])
    loss = SquaredError(times=At(*k.tolist()))(denoiser(network), x_0, generator())
    a = per_image(alpha_bar[k - 1])
    eps = (network.x_t - a.sqrt() * x_0) / (1 - a).sqrt()
    said = (3 * network.x_t).sin() + per_image(k / 1000)
    torch.testing.assert_close(loss, (said - eps).square().mean(dim=(1, 2, 3)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_the_weight_multiplies_the_squared_error_of_the_target(target):
    network, x_0, k = Recording(), images(4), torch.tensor([2, 30, 500, 1000])
    loss = SquaredError(MinSNR(3.0), At(*k.tolist()))(denoiser(network, target), x_0, generator())
    t = CHAIN.levels[k]
    eps = (network.x_t - per_image(t.alpha) * x_0) / per_image(t.sigma)
    error = (3 * network.x_t).sin() + per_image(k / 1000) - target.value(x_0, eps, t)
    expected = MinSNR(3.0)(target, t) * error.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)


def test_the_network_is_fed_draws_of_the_marginal():
    network, x_0 = Recording(), images(300)
    SquaredError()(denoiser(network), x_0, generator(1))
    t = CHAIN.levels[(network.time * 1000).round().long()]
    eps = ((network.x_t - per_image(t.alpha) * x_0) / per_image(t.sigma)).flatten()
    assert stats.kstest(eps.numpy(), "norm").pvalue > 1e-3
    # Independent between neighbours in the batch and in the image.
    for a, b in ((eps[:-18], eps[18:]), (eps[:-1], eps[1:])):
        assert abs(float((a * b).mean())) < 4 / math.sqrt(len(a))


def test_the_same_generator_gives_the_same_loss_and_another_gives_another():
    first, again, other = (SquaredError()(denoiser(Recording()), images(8), generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert bool((first != other).all())


def test_the_gradient_is_unbiased_for_that_of_the_closed_form():
    """For y = w x_t and eps: d/dw E(eps - w x_t)² = 2w (alpha² x_0² + sigma²) - 2 sigma, averaged over x_0 and t."""
    beta = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    w, network = 0.3, Scaling(0.3)
    x_0 = images(40_000)
    losses = SquaredError()(denoiser(network, chain=Chain.from_betas(beta)), x_0, generator(2))
    (gradient,) = torch.autograd.grad(losses.mean(), network.w)
    data = float(x_0.square().mean())
    expected = (2 * w * (alpha_bar * data + 1 - alpha_bar) - 2 * (1 - alpha_bar).sqrt()).mean()
    # The loss is quadratic in w, so central differences are each image's own gradient.
    sides = []
    for h in (-1.0, 1.0):
        beside = denoiser(Scaling(w + h), chain=Chain.from_betas(beta))
        sides.append(SquaredError()(beside, x_0, generator(2)).detach())
    of_each = (sides[1] - sides[0]) / 2
    assert float(gradient) == pytest.approx(float(of_each.mean()), rel=1e-10, abs=0)
    assert abs(float(gradient - expected)) < 4 * float(of_each.std()) / math.sqrt(len(of_each))


def test_losses_are_weighted_after_the_sampler_was_told_of_them():
    """The weight makes up for a level that comes often; what is remembered of a level is the loss itself."""
    times, x_0 = Told(), images(4)
    weighted = SquaredError(times=times)(denoiser(Recording()), x_0, generator(3))
    plain = SquaredError().at(denoiser(Recording()), x_0, torch.tensor([1, 2, 3, 4]), generator(3))
    assert times.asked == (4, 1000)
    assert times.k.tolist() == [1, 2, 3, 4]
    assert torch.equal(times.loss, plain)
    torch.testing.assert_close(weighted, plain * torch.tensor([0.5, 1.5, 2.5, 3.5]), rtol=1e-14, atol=0)


def test_channels_beyond_the_image_s_have_no_part_in_a_squared_error():
    class Extra(Recording):
        def forward(self, x, time):
            y = super().forward(x, time)
            return torch.cat([y, 1e3 * y], 1)

    ours, theirs = (SquaredError()(denoiser(network), images(8), generator(5)) for network in (Extra(), Recording()))
    assert torch.equal(ours, theirs)


def test_low_discrepancy_levels_give_the_same_gradient_with_less_variance():
    chain, x_0 = linear(100), images(50)
    spread = {}
    for times in (Uniform(), LowDiscrepancy()):
        network = Scaling(0.3)
        objective = SquaredError(times=times)
        drawn = []
        for seed in range(300):
            loss = objective(denoiser(network, chain=chain), x_0, generator(seed)).mean()
            drawn.append(float(torch.autograd.grad(loss, network.w)[0]))
        spread[type(times)] = torch.tensor(drawn, dtype=torch.float64)
    uniform, low = spread[Uniform], spread[LowDiscrepancy]
    standard_error = math.sqrt(float(uniform.var() + low.var()) / 300)
    assert abs(float(uniform.mean() - low.mean())) < 4 * standard_error
    assert float(low.var() / uniform.var()) < stats.f(299, 299).ppf(1e-3)


@settings(deadline=None)
@given(st.integers(1, 1000), st.floats(0.1, 20), st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 2))
def test_min_snr_weighs_the_error_of_x_0_alike_for_every_target(k, gamma, x_0, eps, error):
    """min(SNR, gamma) · (error in x_0)², whatever the network predicts (Hang et al. 2023, section 3.4)."""
    t = CHAIN.levels[k]
    x_0, eps = torch.tensor([[[x_0]], [[eps]]], dtype=torch.float64)
    for target in TARGETS:
        solved = target.solve(t.noise(x_0, eps), target.value(x_0, eps, t) + error, t)
        expected = min(float(t.snr), gamma) * float(solved.x_0 - x_0) ** 2
        actual = float(MinSNR(gamma)(target, t)) * error**2
        assert actual == pytest.approx(expected, rel=1e-6, abs=0), type(target).__name__


@settings(deadline=None)
@given(st.integers(1, 1000), st.floats(0.1, 20))
def test_min_snr_has_the_published_weights(k, gamma):
    """Hang et al. 2023, section 3.4, and min(SNR, gamma) / (SNR + 1) for v."""
    t = CHAIN.levels[k]
    snr = float(t.snr)
    rule = MinSNR(gamma)
    assert float(rule(X0(), t)) == pytest.approx(min(snr, gamma), rel=1e-12, abs=0)
    assert float(rule(Eps(), t)) == pytest.approx(min(1, gamma / snr), rel=1e-12, abs=0)
    assert float(rule(V(), t)) == pytest.approx(min(snr, gamma) / (snr + 1), rel=1e-12, abs=0)


def test_min_snr_without_a_limit_is_the_simple_objective_for_eps():
    t = CHAIN.levels[1:]
    torch.testing.assert_close(MinSNR(math.inf)(Eps(), t), Unweighted()(Eps(), t), rtol=1e-13, atol=0)


def test_min_snr_at_zero_terminal_snr_is_zero_or_refused_where_the_target_says_nothing_of_x_0():
    end = Chain.from_schedule(CosineSchedule(), 10).levels[10]
    for target in (X0(), V()):
        assert float(MinSNR()(target, end)) == 0
    for target in (Eps(), Score()):
        with pytest.raises(InputError, match="use V"):
            MinSNR()(target, end)


def test_unweighted_is_one_at_every_level():
    assert Unweighted()(Eps(), CHAIN.levels[1:]).tolist() == [1.0] * 1000
    assert Unweighted()(V(), Level(*torch.tensor([0.5, 0.5, 0.5]))).tolist() == 1.0


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_a_gamma_that_is_not_above_zero_is_refused(gamma):
    with pytest.raises(InputError, match="above zero"):
        MinSNR(gamma)
