"""Flows of known data: velocity, transport map and density by formulas; and from one target or path to another."""

import math

import pytest
import torch
from torch import nn

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, cosine, linear
from clearwater.denoisers import NetworkDenoiser, OnChain
from clearwater.errors import InputError
from clearwater.levels import Level, scale
from clearwater.likelihood import bound
from clearwater.ode_likelihood import flow_log_prob
from clearwater.sampling import (
    DDIM,
    SAMPLERS,
    AdaptiveODE,
    DPMSolver,
    Heun,
    UniPC,
    ends,
    log_snr,
    quadratic,
    sample,
    sampler,
    sampling_states,
    trailing,
)
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow, StochasticInterpolant, slopes
from clearwater.targets import X0, Eps, PathVelocity, Score, V, Velocity, velocity
from clearwater.variances import FixedLarge, FixedSmall, Optimal

PATHS = {
    "straight": RectifiedFlow(),
    "straight with sigma_min": RectifiedFlow(0.01),
    "vp": VP(),
    "cosine": CosineSchedule(),
    "exploding": VE(0.01, 40.0),
    "interpolant": StochasticInterpolant(),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
MEAN = torch.tensor([[[0.4]], [[-0.7]]], dtype=torch.float64)
VARIANCE = 0.3
DATA = gaussian_data(MEAN, VARIANCE)
MIXED = GaussianMixture(torch.tensor([0.3, 0.7]), torch.stack([MEAN, -MEAN]), torch.tensor([0.02, 0.05]))


VARIANCES = {
    "small": FixedSmall(),
    "large": FixedLarge(),
    "optimal": Optimal(linear(60).levels.time[1:], torch.linspace(0.01, 0.2, 60, dtype=torch.float64), torch.ones(60)),
}


def marginal_variance(t):
    return t.alpha.square() * VARIANCE + t.sigma.square()


def exact_velocity(x, t, path):
    """m' + ½ (v' / v) (x - m) for x_t from N(m, v): here m = alpha mean, v = alpha² VARIANCE + sigma²."""
    a, b = slopes(path, t.time)
    half = t.alpha * a * VARIANCE + t.sigma * b
    return scale(a, MEAN.expand_as(x)) + scale(half / marginal_variance(t), x - scale(t.alpha, MEAN.expand_as(x)))


class Exact(nn.Module):
    """A network that says the optimal value of a target at the levels of a path, for any data."""

    def __init__(self, path, target, data):
        super().__init__()
        self.path, self.target, self.data = path, target, data

    def forward(self, x, time):
        t = self.path(time.cpu())
        x_0 = self.data.data_given(x, t).moments().mean
        return self.target.value(x_0, scale(1 / t.sigma, x) - scale(t.alpha / t.sigma, x_0), t)


class VelocityOfGaussian(nn.Module):
    """A network that says the velocity by its formula alone."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, x, time):
        return exact_velocity(x, self.path(time.cpu()), self.path)


def signal(chain):
    """The chain without the level that has none, if it has one."""
    return Chain(chain.levels[chain.levels.alpha > 0], chain.schedule)


def points(n, seed=0):
    return torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_path
def test_the_marginal_velocity_of_gaussian_data_is_its_formula(path):
    t = Chain.from_schedule(path, 40).levels[1:]
    x = points(40) * 2
    denoiser = ExactDenoiser(DATA, Chain.from_schedule(path, 40), FixedSmall())
    torch.testing.assert_close(velocity(denoiser(x, t), t, path), exact_velocity(x, t, path), rtol=1e-9, atol=1e-9)


@every_path
@pytest.mark.parametrize(("tolerance", "allowed"), [(1e-5, 1e-3), (1e-8, 1e-5)])
def test_a_velocity_network_carries_noise_along_the_transport_map_to_the_solver_s_tolerance(path, tolerance, allowed):
    """x_s = alpha_s m + √(v_s / v_t) (x_t - alpha_t m), the map of the flow of a Gaussian, at level 1."""
    chain = signal(Chain.from_schedule(path, 60))
    denoiser = NetworkDenoiser(VelocityOfGaussian(path), chain, PathVelocity(path), FixedSmall())
    s, t = chain.levels[1], chain.levels[-1]
    start = points(5) * float(t.sigma)
    ends = Chain(chain.levels[torch.tensor([0, 1, chain.T])])
    *_, at_1, _ = sampling_states(denoiser, points, ends, AdaptiveODE(tolerance), start)
    stretch = (marginal_variance(s) / marginal_variance(t)).sqrt()
    expected = s.alpha * MEAN + stretch * (start - t.alpha * MEAN)
    torch.testing.assert_close(at_1.x, expected, rtol=allowed, atol=allowed)


@every_path
def test_the_density_by_a_velocity_network_is_the_flow_s_to_the_solver_s_tolerance(path):
    """By the transport map: log p(x) = log N(x_T; prior) + D log |dx_T / dx|, where the path has signal."""
    chain = signal(Chain.from_schedule(path, 60))
    denoiser = NetworkDenoiser(VelocityOfGaussian(path), chain, PathVelocity(path), FixedSmall())
    s, t = chain.levels[1], chain.levels[-1]
    x = DATA.sample(4, torch.Generator().manual_seed(1))
    stretch = (marginal_variance(t) / marginal_variance(s)).sqrt() * s.alpha  # from x_1 / alpha_1 to x_T
    x_T = t.alpha * MEAN + stretch * (x - MEAN)
    prior = torch.distributions.Normal(0.0, chain.prior_variance.sqrt())
    expected = prior.log_prob(x_T).flatten(1).sum(1) + 2 * stretch.log()
    found, _ = flow_log_prob(denoiser, x, tolerance=1e-8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# --- targets


def outcomes(path, stepper, T, data):
    """Samples by networks of every target that has a meaning on the path, from the same noise."""
    chain = signal(Chain.from_schedule(path, T))
    start = points(6, 3) * float(chain.levels.sigma[-1])
    for target in (X0(), Eps(), V(), Score(), Velocity(), PathVelocity(path)):
        denoiser = NetworkDenoiser(Exact(path, target, data), chain, target, FixedSmall())
        *_, last = sampling_states(denoiser, points, chain.strided(15), stepper, start)
        yield last.x


@every_path
@pytest.mark.parametrize("stepper", [DDIM(), Heun(), DPMSolver(2), UniPC()], ids=lambda stepper: type(stepper).__name__)
def test_samples_do_not_depend_on_what_the_network_says(path, stepper):
    first, *others = outcomes(path, stepper, 60, MIXED)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", [RectifiedFlow(), StochasticInterpolant()], ids=repr)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_goes_from_pure_noise_to_the_one_datum_that_there_is(path, name):
    chain = Chain.from_schedule(path, 40)
    point = gaussian_data(MEAN, 0.0)
    denoiser = NetworkDenoiser(Exact(path, PathVelocity(path), point), chain, PathVelocity(path), FixedSmall())
    made = sample(denoiser, 3, (2, 1, 1), chain=ends(chain) if name == "adaptive" else chain, stepper=sampler(name))
    torch.testing.assert_close(made, MEAN.expand(3, 2, 1, 1).to(made), rtol=1e-5, atol=1e-5)


# --- paths


@pytest.mark.parametrize("chain", [linear(200), cosine(200)], ids=["linear", "cosine"])
@pytest.mark.parametrize(
    "path", [RectifiedFlow(), VP(0.05, 45.0), CosineSchedule(), VE(0.001, 1e5), StochasticInterpolant()]
)
def test_a_trained_denoiser_takes_the_same_steps_along_another_path(chain, path):
    """A step of DDIM is one in sigma / alpha, so states differ by √(alpha² + sigma²) alone: to rounding."""
    trained = ExactDenoiser(MIXED, chain, FixedSmall())
    there = chain.along(path)
    converted = OnChain(trained, there)
    x_T = points(4, 5)
    norm = (there.levels.alpha.square() + there.levels.sigma.square()).sqrt()
    ours = sampling_states(converted, points, stepper=DDIM(), start=x_T * float(norm[-1]))
    theirs = sampling_states(trained, points, stepper=DDIM(), start=x_T)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.x / float(norm[one.k]), other.x, rtol=1e-8, atol=1e-8)


def test_a_converted_denoiser_is_the_optimal_one_of_its_new_path():
    chain = cosine(500)
    there = chain.along(RectifiedFlow())
    converted = OnChain(ExactDenoiser(MIXED, chain, FixedSmall()), there)
    t = there.levels[torch.tensor([1, 20, 250, 480, 500])]
    x = points(5, 6)
    ours, exact = converted(x, t), ExactDenoiser(MIXED, there, FixedSmall())(x, t)
    torch.testing.assert_close(ours.x_0, exact.x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.eps, exact.eps, rtol=1e-8, atol=1e-8)
    # Its velocity is the marginal velocity of that path.
    gaussian = OnChain(ExactDenoiser(DATA, chain, FixedSmall()), there)
    torch.testing.assert_close(
        velocity(gaussian(x, t), t, RectifiedFlow()), exact_velocity(x, t, RectifiedFlow()), rtol=1e-8, atol=1e-8
    )


def test_there_and_back_is_the_same_denoiser():
    chain = Chain.from_schedule(CosineSchedule(), 100)
    trained = ExactDenoiser(MIXED, chain, FixedSmall())
    back = OnChain(OnChain(trained, chain.along(RectifiedFlow())), chain)
    x, t = points(100, 7), chain.levels[1:]
    # The last level is pure noise on both.
    ours, theirs = back(x, t), trained(x, t)
    torch.testing.assert_close(ours.x_0, theirs.x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.eps, theirs.eps, rtol=1e-8, atol=1e-8)
    one = back(x[:1], chain.levels[100])
    assert torch.equal(one.x_0, trained(x[:1], chain.levels[100]).x_0)


class Asked(nn.Module):
    """A network that remembers what it was told, and says 0."""

    def forward(self, x, time):
        self.x, self.time = x, time
        return torch.zeros_like(x)


def test_the_network_is_asked_at_the_time_of_its_own_schedule_with_its_own_scale():
    """SNR 4 is time ⅓ on the straight path, and x_t / √(alpha² + sigma²) is of one law on all."""
    network, flow = Asked(), RectifiedFlow()
    trained = NetworkDenoiser(network, Chain.from_schedule(flow, 30), Velocity(), FixedSmall())
    chain = trained.chain.along(CosineSchedule())
    x = points(1)
    OnChain(trained, chain)(x, Level(*torch.tensor([2 / math.sqrt(5), 1 / math.sqrt(5), 0.295], dtype=torch.float64)))
    assert float(network.time) == pytest.approx(1 / 3, rel=1e-14, abs=0)
    torch.testing.assert_close(network.x, x * math.sqrt(5) / 3, rtol=1e-13, atol=0)


def test_the_bound_does_not_depend_on_the_path():
    """Its rate takes the signal-to-noise ratios alone; the noise of each level is the same draw."""
    chain = linear(50)
    trained = ExactDenoiser(DATA, chain, FixedSmall())
    flow = RectifiedFlow()
    x_0 = torch.randint(0, 256, (8, 2, 1, 1), generator=torch.Generator().manual_seed(0)).double() / 127.5 - 1
    ours, theirs = bound(OnChain(trained, chain.along(flow)), x_0), bound(trained, x_0)
    torch.testing.assert_close(ours.kl, theirs.kl, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.decoder, theirs.decoder, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.prior, theirs.prior, rtol=1e-9, atol=1e-12)  # the prior is scaled as x_T is


@pytest.mark.parametrize("grid", [None, trailing, quadratic, log_snr])
def test_a_converted_denoiser_draws_the_same_images_of_the_same_seed(grid):
    """From the prior, whose scale the chain along the other path carries, on the grids that it is cut to as well."""
    chain = linear(60)
    trained = ExactDenoiser(MIXED, chain, FixedSmall())
    for path in (RectifiedFlow(), CosineSchedule(), VE(0.001, 1e5)):
        converted = OnChain(trained, chain.along(path))
        ours, theirs = (
            sample(each, 5, (2, 1, 1), chain=each.chain if grid is None else grid(each.chain, 12), stepper=DDIM())
            for each in (converted, trained)
        )
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_the_density_of_a_converted_denoiser_is_its_own():
    chain = linear(400)
    trained = ExactDenoiser(DATA, chain, FixedSmall())
    converted = OnChain(trained, chain.along(RectifiedFlow()))
    ours, theirs = (flow_log_prob(each, points(3, 9), tolerance=1e-9) for each in (converted, trained))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_prior_of_an_exploding_path_has_its_last_variance():
    """KL(N(x_0, sigma_T²) ‖ N(0, sigma_T²)) = x_0² / (2 sigma_T²)."""
    path = VE(0.01, 40.0)
    x_0 = torch.full((2, 2, 1, 1), 1.0, dtype=torch.float64)
    found = bound(ExactDenoiser(DATA, Chain.from_schedule(path, 30), FixedSmall()), x_0).prior
    assert found.tolist() == pytest.approx([1 / (2 * 40.0**2) / math.log(2)] * 2, rel=1e-9, abs=0)


@pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES)
def test_the_reverse_step_is_the_denoiser_s_own_at_another_scale(variance):
    """Also with a variance that is known by the time of the denoiser's own levels, and for steps to data."""
    chain = linear(60)
    trained = ExactDenoiser(MIXED, chain, variance)
    there = chain.along(RectifiedFlow())
    k = torch.tensor([1, 2, 30, 60])
    ours, theirs = there.pair(k), chain.pair(k)
    norm_t, norm_s = (
        (level.alpha.square() + level.sigma.square()).sqrt() for level in (there.levels[k], there.levels[k - 1])
    )
    x = points(4, 8)
    found = OnChain(trained, there).reverse(scale(norm_t, x), ours)
    own = trained.reverse(x, theirs)
    torch.testing.assert_close(found.mean, scale(norm_s, own.mean), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.variance, scale(norm_s.square(), own.variance), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (Chain.from_schedule(RectifiedFlow(), 100), "a level without signal"),
        (linear(4000), "log-SNR from"),
    ],
    ids=["pure noise", "less noise than known"],
)
def test_levels_that_a_denoiser_does_not_know_are_refused(chain, said):
    with pytest.raises(InputError, match=said) as caught:
        OnChain(ExactDenoiser(DATA, linear(100), FixedSmall()), chain)
    assert str(caught.value).endswith("denoiser.chain.along(schedule).")
