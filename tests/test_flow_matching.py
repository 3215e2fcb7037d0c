"""Flow matching (Lipman et al. 2022): its theorem as a test, and the same with two noises."""

import math

import pytest
import torch
from scipy.special import roots_hermite
from torch import nn

from clearwater.chains import Chain
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.levels import scale
from clearwater.objectives import SquaredError, TwoNoises
from clearwater.randomness import RowStreams
from clearwater.schedules import (
    VE,
    VP,
    CosineSchedule,
    RectifiedFlow,
    SineSquared,
    StochasticInterpolant,
    slopes,
)
from clearwater.targets import Eps, PathVelocity
from clearwater.times import TimeSampler, Uniform
from clearwater.variances import FixedSmall

PATHS = {
    "straight": RectifiedFlow(),
    "straight with sigma_min": RectifiedFlow(0.05),
    "vp": VP(0.5, 6.0),
    "cosine": CosineSchedule(),
    "exploding": VE(0.2, 1.5),
    "interpolant": StochasticInterpolant(),
    "smooth interpolant": StochasticInterpolant(SineSquared()),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
POINTS = torch.tensor([[-0.8], [0.1], [0.9]], dtype=torch.float64)
PLANE = torch.tensor([[-0.8, 0.3], [0.1, -0.6], [0.9, 0.4], [0.2, 0.9]], dtype=torch.float64)
T = 6


class Small(nn.Module):
    """A velocity field of D dimensions with five hidden units."""

    def __init__(self, D, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(5, D + 2, generator=rng, dtype=torch.float64) / 2)
        self.last = nn.Parameter(torch.randn(D, 5, generator=rng, dtype=torch.float64))

    def forward(self, x, time):
        told = torch.cat([x, time.unsqueeze(1), torch.ones_like(time).unsqueeze(1)], 1)
        return (told @ self.first.T).tanh() @ self.last.T


class Given(RowStreams):
    """In place of a source of noise: these numbers, in this order."""

    def __init__(self, *numbers):
        self.numbers = iter(numbers)

    def normal(self, like):
        return next(self.numbers)


def denoiser_of(path, network):
    chain = Chain.from_schedule(path, T)
    return NetworkDenoiser(network, chain, PathVelocity(path), FixedSmall())


def marginal_velocity(x, t, path, points):
    """u_t(x) = Σ_i w_i(x) u_t(x | x_i), with w the softmax of log N(x; alpha x_i, sigma²): shape (N, D)."""
    squared = (x.unsqueeze(1) - scale(t.alpha, points.expand(len(x), *points.shape))).square().sum(2)
    weights = torch.softmax(-squared / (2 * t.sigma.square().unsqueeze(1)), 1)
    x_0 = weights @ points
    eps = scale(1 / t.sigma, x) - scale(t.alpha / t.sigma, x_0)
    a, b = slopes(path, t.time)
    return scale(a, x_0) + scale(b, eps)


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def conditional_loss(denoiser, k):
    """L_CFM at level k over every datum and all noise: SquaredError with Gauss and Hermite's nodes for noise."""
    nodes, weights = roots_hermite(160)
    eps = torch.as_tensor(nodes * math.sqrt(2)).repeat(len(POINTS)).unsqueeze(1)
    mass = torch.as_tensor(weights / math.sqrt(math.pi)).repeat(len(POINTS)) / len(POINTS)
    x_0 = POINTS.repeat_interleave(len(nodes), 0)
    of_each = SquaredError().at(denoiser, x_0, torch.full((len(x_0),), k), Given(eps))
    return (mass * of_each).sum()


def marginal_loss(denoiser, k, path):
    """L_FM at level k: ∫ p_t(x) (v_θ(x, t) - u_t(x))² dx over a fine grid, which never sees a pair (x_0, eps)."""
    t = denoiser.chain.levels[k]
    ends = float(t.alpha) + 13 * float(t.sigma)
    x = torch.linspace(-ends, ends, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(t.alpha * POINTS, t.sigma)  # (3, 1) against (4001,)
    density = normal.log_prob(x).exp().mean(0)
    several = denoiser.chain.levels[torch.full((len(x),), k)]
    error = denoiser.output(x.unsqueeze(1), several) - marginal_velocity(x.unsqueeze(1), several, path, POINTS)
    return (density * error.squeeze(1).square()).sum() * (x[1] - x[0])


@every_path
def test_the_gradients_of_the_flow_matching_losses_are_one_and_the_losses_differ_by_a_constant(path):
    """Lipman et al. 2022, theorem 2, over the full expectation: sums over data and levels, quadrature over noise."""
    constants = []
    for seed in (0, 1, 2):
        network = Small(1, seed)
        denoiser, parameters = denoiser_of(path, network), list(network.parameters())
        of_cfm = sum(conditional_loss(denoiser, k) for k in range(1, T + 1)) / T
        of_fm = sum(marginal_loss(denoiser, k, path) for k in range(1, T + 1)) / T
        ours, theirs = (flat(torch.autograd.grad(loss, parameters)) for loss in (of_cfm, of_fm))
        assert float(ours.norm()) > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
        constants.append(float((of_cfm - of_fm).detach()))
    # The other way: E‖u_t(x_t | x_0)‖² - E‖u_t(x_t)‖², in which no network occurs.
    zero = Small(1, 0)
    nn.init.zeros_(zero.last)
    silent = denoiser_of(path, zero)
    parts = [conditional_loss(silent, k) - marginal_loss(silent, k, path) for k in range(1, T + 1)]
    expected = float(torch.stack(parts).mean().detach())
    assert constants == pytest.approx([expected] * 3, rel=1e-8, abs=0)
    assert expected > 0.1


@every_path
def test_the_constant_is_the_variance_of_the_conditional_velocity(path):
    """(det / sigma)² E Var(x_0 | x_t), since given x_t the velocity moves with x_0 alone, by det / sigma."""
    denoiser = denoiser_of(path, Small(1, 0))
    for k in range(1, T + 1):
        t = denoiser.chain.levels[k]
        x = torch.linspace(-1, 1, 4001, dtype=torch.float64) * (float(t.alpha) + 13 * float(t.sigma))
        joint = torch.distributions.Normal(t.alpha * POINTS, t.sigma).log_prob(x).exp() / len(POINTS)
        weights = joint / joint.sum(0).clamp(min=1e-300)
        spread = (weights * POINTS.square()).sum(0) - (weights * POINTS).sum(0).square()
        variance = (joint.sum(0) * spread).sum() * (x[1] - x[0])
        *_, det = denoiser.target.system(t)
        found = (conditional_loss(denoiser, k) - marginal_loss(denoiser, k, path)).detach()
        assert float(found) == pytest.approx(float((det / t.sigma).square() * variance), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("path", [RectifiedFlow(), VP(0.5, 6.0), StochasticInterpolant()], ids=lambda path: repr(path))
def test_in_the_plane_the_gradients_are_one_within_their_standard_errors(path):
    network = Small(2, 3)
    denoiser, parameters = denoiser_of(path, network), list(network.parameters())
    rng = torch.Generator().manual_seed(0)
    differences, sizes, constants = [], [], []
    for _ in range(100):
        x_0 = PLANE[torch.randint(len(PLANE), (400,), generator=rng)]
        k = torch.randint(1, T + 1, (400,), generator=rng)
        eps = torch.randn(400, 2, generator=rng, dtype=torch.float64)
        of_cfm = SquaredError().at(denoiser, x_0, k, Given(eps)).mean()
        t = denoiser.chain.levels[k]
        x_t = t.noise(x_0, eps)
        u = marginal_velocity(x_t, t, path, PLANE)
        of_fm = (denoiser.output(x_t, t) - u).square().mean()
        ours, theirs = (flat(torch.autograd.grad(loss, parameters)) for loss in (of_cfm, of_fm))
        differences.append(ours - theirs)
        sizes.append(theirs)
        squared = (denoiser.target.value(x_0, eps, t).square() - u.square()).mean()
        constants.append(float((of_cfm - of_fm - squared).detach()))
    difference, size = torch.stack(differences), torch.stack(sizes).mean(0)
    errors = difference.std(0) / 10
    assert float((difference.mean(0) / errors).abs().max()) < 4.5
    assert float(errors.norm()) < 0.1 * float(size.norm())
    constant = torch.tensor(constants)
    assert abs(float(constant.mean())) < 4.5 * float(constant.std()) / 10


def test_the_velocity_of_vp_is_lipman_s_equation_19():
    """They print the field in x_t and x_1: u = -½ T'(1-s) (e^(-T(1-s)) x - e^(-½T(1-s)) x_1) / (1 - e^(-T(1-s)))."""
    times = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x_0, eps = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    path = VP()
    t = path(times)
    x_t = t.noise(x_0, eps)
    integral = 0.1 * times + 0.5 * 19.9 * times**2
    rate = 0.1 + 19.9 * times
    u = scale(-(-integral).exp(), x_t) + scale((-integral / 2).exp(), x_0)
    u = scale(0.5 * rate / (1 - (-integral).exp()), u)
    torch.testing.assert_close(PathVelocity(path).value(x_0, eps, t), -u, rtol=1e-11, atol=1e-12)


# --- two noises


class At(TimeSampler):
    """Always these levels."""

    def __init__(self, k):
        self.k = k

    def __call__(self, n, T, generator):
        return self.k, torch.ones(n, dtype=torch.float64)


class Fixed(nn.Module):
    """Says `y`, whatever it is asked."""

    def __init__(self, y):
        super().__init__()
        self.y = nn.Parameter(y)

    def forward(self, x, time):
        return self.y.expand_as(x)


INTERPOLANTS = {"bridge": StochasticInterpolant(), "smooth": StochasticInterpolant(SineSquared(1.5))}


@pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS)
@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_two_noises_have_the_mean_of_their_one_and_the_more_variance_that_is_stated(path, k):
    """Given x_0 and x_t: in the coordinates along and across (t, gamma) the noise across is free, and is all of it."""
    t = Chain.from_schedule(path, T).levels[k]
    gamma, slope = path.gamma(t.time)
    nodes, weights = (torch.as_tensor(part) for part in roots_hermite(20))
    nodes, weights = nodes * math.sqrt(2), weights / math.sqrt(math.pi)
    along, x_0 = 0.7, 0.4
    across = nodes
    z = (t.time * along - gamma * across) / t.sigma
    between = (gamma * along + t.time * across) / t.sigma
    y_0 = torch.zeros(1, dtype=torch.float64)
    denoiser = denoiser_of(path, Fixed(y_0))
    data, levels = torch.full((20, 1), x_0, dtype=torch.float64), torch.full((20,), k)
    loss = (weights * TwoNoises().at(denoiser, data, levels, Given(z.unsqueeze(1), between.unsqueeze(1)))).sum()
    merged = float(PathVelocity(path).value(data[:1], torch.full((1, 1), along, dtype=torch.float64), t))
    more = 0.0 if float(gamma) == 0 else float(((gamma - t.time * slope) / t.sigma).square())
    assert float(loss.detach()) == pytest.approx(merged**2 + more, rel=1e-11, abs=0)
    (gradient,) = torch.autograd.grad(loss, denoiser.network.parameters())
    assert float(gradient) == pytest.approx(-2 * merged, rel=1e-11, abs=0)
    assert (more == 0) == (k == T)


def test_two_noises_give_one_gradient_with_one_noise_within_their_standard_error():
    path, network = StochasticInterpolant(SineSquared()), Small(2, 5)
    denoiser, parameters = denoiser_of(path, network), list(network.parameters())
    rng, gradients = torch.Generator().manual_seed(2), {SquaredError: [], TwoNoises: []}
    for _ in range(60):
        x_0 = PLANE[torch.randint(len(PLANE), (500,), generator=rng)]
        for kind, found in gradients.items():
            found.append(flat(torch.autograd.grad(kind(times=Uniform())(denoiser, x_0, rng).mean(), parameters)))
    one, two = (torch.stack(found) for found in gradients.values())
    errors = ((one.var(0) + two.var(0)) / 60).sqrt()
    assert float(((one.mean(0) - two.mean(0)) / errors).abs().max()) < 4.5
    assert float(two.var(0).sum()) > float(one.var(0).sum())


@pytest.mark.parametrize("target", [PathVelocity(RectifiedFlow()), Eps()], ids=["another path", "eps"])
def test_two_noises_of_what_is_no_interpolant_are_refused(target):
    chain = Chain.from_schedule(VP() if isinstance(target, Eps) else RectifiedFlow(), T)
    denoiser = NetworkDenoiser(Small(1, 0), chain, target, FixedSmall())
    with pytest.raises(InputError, match="stochastic interpolant"):
        TwoNoises(At(torch.tensor([1])))(denoiser, POINTS[:1], torch.Generator())
