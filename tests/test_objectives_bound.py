"""Objectives that follow from the whole bound: VLB, Hybrid, Euclidean, VarianceBound, and the four approaches."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from clearwater import objectives
from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.assembly import build_chain, build_objective, build_target
from clearwater.chains import chain, cosine, linear
from clearwater.decoders import DiscretizedDecoder
from clearwater.denoisers import Clipped, NetworkDenoiser
from clearwater.likelihood import bound, prior_term, step_term
from clearwater.objectives import VLB, Euclidean, Hybrid, SquaredError, VarianceBound
from clearwater.settings import resolve
from clearwater.targets import X0, Eps, Mean, V
from clearwater.times import TimeSampler
from clearwater.variances import FixedLarge, FixedSmall, LearnedRange, variance
from clearwater.weights import BoundWeight, MinSNR, Unweighted

SHAPE = (1, 4, 4)
BITS = 1 / (16 * math.log(2))  # a nat an image of SHAPE, in bits per dimension


class At(TimeSampler):
    """Always these levels."""

    def __init__(self, *k):
        self.k = torch.tensor(k)

    def __call__(self, n, T, generator):
        return self.k.expand(n), torch.ones(n, dtype=torch.float64)


class Says(nn.Module):
    """A network that says the same whatever it is fed, and remembers what that was."""

    def __init__(self, y):
        super().__init__()
        self.y = nn.Parameter(y)

    def forward(self, x, time):
        self.x_t = x.detach()
        return self.y.expand(len(x), *self.y.shape[1:])


class Curved(nn.Module):
    """Smooth in the image, the time and its parameters, with channels for a variance; remembers what it was fed."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.7, -0.3, 0.2], dtype=torch.float64))
        self.range = nn.Parameter(torch.tensor([0.5, 0.4], dtype=torch.float64))

    def forward(self, x, time):
        self.x_t = x.detach()
        scale, slope, offset = self.mean
        mean = scale * (2 * x).sin() + slope * time.reshape(-1, 1, 1, 1) + offset
        return torch.cat([mean, self.range[0] * x + self.range[1]], 1)


class Line(nn.Module):
    """y = w · x_t."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x, time):
        return self.w * x


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(n, shape=SHAPE, seed=0):
    """8-bit data on the grid, the ends among them."""
    drawn = torch.randint(0, 256, (n, *shape), generator=generator(seed)).double()
    drawn[..., 0, :2] = torch.tensor([0.0, 255.0])
    return drawn / 127.5 - 1


def differences(function, parameter, h):
    """The gradient of a number with respect to a parameter, by central differences."""
    gradient = torch.empty_like(parameter)
    with torch.no_grad():
        for index in np.ndindex(*parameter.shape):
            before = float(parameter[index])
            sides = []
            for value in (before + h, before - h):
                parameter[index] = value
                sides.append(float(function()))
            parameter[index] = before
            gradient[index] = (sides[0] - sides[1]) / (2 * h)
    return gradient


# --- the whole bound


@pytest.mark.parametrize("levels", [cosine(12), linear(100), linear(1000).strided(7)], ids=["cosine", "linear", "7"])
@pytest.mark.parametrize("rule", [FixedSmall(), FixedLarge(), LearnedRange()], ids=lambda rule: type(rule).__name__)
def test_the_mean_over_all_levels_is_the_bound(levels, rule):
    """A network whose x_0 does not depend on its input has terms that do not depend on the noise."""
    said = torch.linspace(-0.9, 1.2, 16 * 2, dtype=torch.float64).reshape(1, 2, 4, 4)
    y = said if isinstance(rule, LearnedRange) else said[:, :1]
    denoiser, x_0 = NetworkDenoiser(Says(y), levels, X0(), rule), pixels(3)
    each = [VLB(At(k))(denoiser, x_0, generator(k)).detach() for k in range(1, levels.T + 1)]
    expected = bound(denoiser, x_0)
    torch.testing.assert_close(torch.stack(each).mean(0), expected.per_image, rtol=1e-10, atol=0)
    torch.testing.assert_close(each[0], levels.T * expected.decoder + expected.prior, rtol=1e-10, atol=0)


@pytest.mark.parametrize("rule", [FixedSmall(), LearnedRange()], ids=lambda rule: type(rule).__name__)
def test_every_level_is_the_bound_s_term_at_the_noise_that_was_drawn(rule):
    levels, network, x_0 = cosine(10), Curved(), pixels(3)
    denoiser = NetworkDenoiser(network, levels, Eps(), rule)
    total, terms = torch.zeros(3, dtype=torch.float64), prior_term(x_0, levels)
    for k in range(1, 11):
        total += VLB().at(denoiser, x_0, torch.tensor([k] * 3), generator()).detach() / 10
        x_t, pair = network.x_t, levels.pair(k)
        with torch.no_grad():
            terms += step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, DiscretizedDecoder())
    torch.testing.assert_close(total, terms * BITS, rtol=1e-10, atol=0)


def test_a_batch_with_the_last_step_in_it_has_the_losses_of_its_images_one_by_one():
    levels, network, x_0 = cosine(10), Curved(), pixels(6)
    denoiser = NetworkDenoiser(network, levels, Eps(), LearnedRange())
    k = torch.tensor([4, 1, 10, 1, 2, 1])
    losses = VLB().at(denoiser, x_0, k, generator()).detach()
    x_t = network.x_t
    for i in range(6):
        pair, own = levels.pair(int(k[i])), slice(i, i + 1)
        with torch.no_grad():
            term = step_term(x_0[own], x_t[own], denoiser.reverse(x_t[own], pair), pair, DiscretizedDecoder())
        expected = BITS * (10 * term + prior_term(x_0[own], levels))
        torch.testing.assert_close(losses[own], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("objective", [VLB(), Hybrid(share=0.3)], ids=["vlb", "hybrid"])
def test_the_gradient_is_that_of_finite_differences(objective):
    """But for Hybrid's mean, whose gradient is not that of its value."""
    levels, network, x_0 = cosine(10), Curved(), pixels(5)
    denoiser = NetworkDenoiser(network, levels, Eps(), LearnedRange())
    k = torch.tensor([1, 2, 5, 10, 1])

    def loss():
        return objective.at(denoiser, x_0, k, generator(1)).sum()

    of_mean, of_range = torch.autograd.grad(loss(), (network.mean, network.range))
    torch.testing.assert_close(of_range, differences(loss, network.range, 1e-6), rtol=1e-6, atol=0)
    by_differences = differences(loss, network.mean, 1e-6)
    if isinstance(objective, VLB):
        torch.testing.assert_close(of_mean, by_differences, rtol=1e-6, atol=0)
    else:
        assert bool(((of_mean - by_differences).abs() > 1e-2 * by_differences.abs()).all())


NUMBERS = st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8)
STEPS = [
    *[(name, target, 1) for name in ("linear", "cosine") for target in (Eps(), V())],
    *[(name, X0(), 2) for name in ("linear", "cosine")],
    *[(name, target, 1000) for name in ("linear", "cosine") for target in (Eps(), X0(), V())],
    *[(name, X0(), 1) for name in ("linear", "cosine")],
]


@pytest.mark.parametrize(
    ("name", "target", "k"), STEPS, ids=[f"{name} {type(target).__name__} {k}" for name, target, k in STEPS]
)
@settings(deadline=None, max_examples=40)
@given(mean=NUMBERS, extra=NUMBERS, grey=st.lists(st.integers(0, 255), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_in_float32_the_gradient_of_an_extreme_network_is_that_in_float64(name, target, k, mean, extra, grey, seed):
    """To 1 in 10⁴, and what an error of 1 in 10⁶ in the mean and in the ratio of the variances moves it by."""
    levels, network = chain(name), Says(torch.tensor([mean, extra]).reshape(1, 2, 2, 4))
    x_0 = torch.tensor(grey).reshape(1, 1, 2, 4) / 127.5 - 1
    denoiser = NetworkDenoiser(network, levels, target, LearnedRange())
    loss = VLB().at(denoiser, x_0, torch.tensor([k]), generator(seed))
    (ours,) = torch.autograd.grad(loss, network.y)
    assert ours.dtype == torch.float32

    exact = NetworkDenoiser(Says(network.y.detach().double()), levels, target, LearnedRange())
    pair, x, x_t, bits = levels.pair(k), x_0.double(), network.x_t.double(), 1 / (8 * math.log(2))
    reverse = exact.reverse(x_t, pair)
    expected = bits * (1000 * step_term(x, x_t, reverse, pair, DiscretizedDecoder()) + prior_term(x, levels))
    (theirs,) = torch.autograd.grad(expected, exact.network.y)
    torch.testing.assert_close(loss.detach().double(), expected.detach(), rtol=1e-5, atol=1e-3)

    v, small = reverse.variance.detach(), FixedSmall()(pair)
    of_x_0 = pair.t.sigma / target.system(pair.t)[2].abs()  # what an error of 1 in the target is in x_0
    off = 1e-6 * (1 + x_t.abs() + 3 * of_x_0)  # of the mean
    error = (reverse.mean.detach() - (pair.c_0 * x + pair.c_t * x_t)).abs()
    allowed_mean = 1000 * bits * pair.c_0 * of_x_0 * (off + 1e-6 * error) / v
    of_log = 1e-6 * (1 + small / v) + 2 * off * error / v + 1e-6 * error**2 / v  # twice that of the log-variance
    allowed_range = 1000 * bits * (pair.transition_variance / small).log().abs() / 4 * of_log
    allowed = torch.cat([allowed_mean, allowed_range], 1) + 1e-4 * theirs.abs()
    assert bool(((ours.double() - theirs).abs() <= allowed).all())


# --- the hybrid


@pytest.mark.parametrize("share", [0.001, 0.5])
@pytest.mark.parametrize("weight", [Unweighted(), MinSNR(2.0)], ids=["unweighted", "min-snr"])
def test_the_hybrid_s_mean_is_trained_by_the_squared_error_and_its_variance_by_the_bound(share, weight):
    levels, x_0, k = cosine(10), pixels(4), torch.tensor([1, 2, 7, 10])
    network = Says(torch.linspace(-1.5, 1.5, 4 * 32, dtype=torch.float64).reshape(4, 2, 4, 4))
    denoiser = NetworkDenoiser(network, levels, Eps(), LearnedRange())

    def of(objective):
        loss = objective.at(denoiser, x_0, k, generator(3))
        return loss.detach(), torch.autograd.grad(loss.sum(), network.y)[0]

    hybrid, gradient = of(Hybrid(weight, share))
    simple, of_simple = of(SquaredError(weight))
    whole, of_whole = of(VLB())
    assert torch.equal(gradient[:, :1], of_simple[:, :1])
    torch.testing.assert_close(gradient[:, 1:], share * of_whole[:, 1:], rtol=1e-12, atol=0)
    assert bool((gradient != 0).all())
    # The prior term is in VLB alone: it trains neither.
    expected = simple + share * (whole - BITS * prior_term(x_0, levels))
    torch.testing.assert_close(hybrid, expected, rtol=1e-12, atol=0)


# --- the Euclidean target


S2, W = 0.3, 0.5  # data N(0, 0.3), and the network x̂_0 = 0.5 · x_t


def euclidean_moments(levels, k):
    """E x_t², E(x_0 - w x_t)² and E x_t (x_0 - w x_t)."""
    alpha, sigma2 = float(levels.levels.alpha[k]), float(levels.levels.sigma[k]) ** 2
    squared = alpha**2 * S2 + sigma2
    return squared, S2 * (1 - W * alpha) ** 2 + W**2 * sigma2, alpha * S2 - W * squared


def losses_and_gradients(objective, levels, k, n):
    """Of each image: its loss, and the derivative with respect to w, of which the loss is a square."""
    x_0 = math.sqrt(S2) * torch.randn(n, 1, 1, 1, generator=generator(8), dtype=torch.float64)
    middle, above, below = (
        objective.at(
            NetworkDenoiser(Line(W + h), levels, X0(), FixedLarge()), x_0, torch.tensor([k] * n), generator(9)
        ).detach()
        for h in (0.0, 1.0, -1.0)
    )
    return middle, (above - below) / 2


def within(values, expected):
    return abs(float(values.mean()) - expected) < 4.5 * float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("rule", [FixedLarge(), FixedSmall()], ids=["large", "small"])
@pytest.mark.parametrize("k", [1, 3, 6, 10])
def test_the_euclidean_objective_is_the_bound_s_plus_a_constant_with_a_noisier_gradient(rule, k):
    """The noise of x_s given x_t and x_0 adds beta-tilde to the square, and varies the gradient by itself."""
    levels, n = cosine(10), 40_000
    pair = levels.pair(k)
    c_0, kept, v = float(pair.c_0), float(pair.posterior_variance), float(rule(pair))
    squared, error, product = euclidean_moments(levels, k)
    euclidean, gradient = losses_and_gradients(Euclidean(rule), levels, k, n)
    merged, merged_gradient = losses_and_gradients(SquaredError(BoundWeight(levels, rule)), levels, k, n)
    assert within(merged, c_0**2 * error / (2 * v))
    assert within(euclidean, (kept + c_0**2 * error) / (2 * v))
    for one in (gradient, merged_gradient):
        assert within(one, -(c_0**2) * product / v)
    # Var(x_t · error) = E x_t² · E error² + (E x_t · error)² of two normal numbers (Isserlis).
    ratio = 1 + kept * squared / (c_0**2 * (squared * error + product**2))
    measured = float(gradient.var() / merged_gradient.var())
    assert measured == pytest.approx(ratio, rel=0.1)
    if k > 1:
        assert measured > 1.5


def test_the_euclidean_objective_is_fed_draws_of_the_forward_process():
    """x_t has the marginal's moments given x_0, and x_s, read off the loss, the posterior's given both."""
    levels, k, n = cosine(10), 6, 20_000
    pair = levels.pair(k)
    network = Says(torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    x_0 = torch.full((n, 1, 1, 1), 0.4, dtype=torch.float64)
    denoiser = NetworkDenoiser(network, levels, X0(), FixedSmall())
    loss = Euclidean(FixedSmall()).at(denoiser, x_0, torch.tensor([k] * n), generator(4)).detach()
    x_t = network.x_t.flatten()
    assert stats.kstest(((x_t - pair.t.alpha * 0.4) / pair.t.sigma).numpy(), "norm").pvalue > 1e-3
    # Without a prediction the error is x_s - c_t x_t: a mean of c_0 x_0 and the posterior's variance, over it.
    square = 2 * loss
    offset = float(pair.c_0) ** 2 * 0.16 / float(pair.posterior_variance)
    assert stats.kstest(square.numpy(), stats.ncx2(1, offset).cdf).pvalue > 1e-3


# --- the four approaches


class Inexact(nn.Module):
    """x̂_0 = tanh(x_t) in the words of a target."""

    def __init__(self, target, levels):
        super().__init__()
        self.target, self.levels = target, levels

    def forward(self, x, time):
        self.x_t = x
        t = self.levels.levels[(time * self.levels.T).round().long()]
        alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in (t.alpha, t.sigma))
        return self.target.value(x.tanh(), (x - alpha * x.tanh()) / sigma, t)


@pytest.mark.parametrize("name", ["fixed_small", "fixed_large"])
def test_the_presets_of_three_approaches_are_one_loss_the_mean_s_part_of_the_bound(name):
    """‖μ̃ - μ‖² / (2σ²), with tables of beta (Ho et al. 2020, eq. 8); MATH.md, section 4."""
    k = torch.tensor([1, 2, 10, 500, 1000])
    x_0 = pixels(5)
    losses, fed = [], []
    for preset in ("mu", "x0", "eps"):
        config = resolve(recipe="ddpm-cifar10", sets=[f"objective={preset}", f"chain.variance={name}"])
        levels = build_chain(config.chain)
        target = build_target(config.objective, levels)
        assert type(target) is {"mu": Mean, "x0": X0, "eps": Eps}[preset]
        network = Inexact(target, levels)
        denoiser = NetworkDenoiser(network, levels, target, variance(name))
        losses.append(build_objective(config).at(denoiser, x_0, k, generator(2)))
        fed.append(network.x_t)
    assert torch.equal(fed[0], fed[1])
    assert torch.equal(fed[0], fed[2])

    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)
    before = np.append(1.0, bar[:-1])
    tilde = beta * (1 - before) / (1 - bar)
    v = tilde.copy() if name == "fixed_small" else beta.copy()
    v[0] = tilde[1]
    i, x_t = k.numpy() - 1, fed[0].numpy()
    c_0 = np.sqrt(before[i]) * beta[i] / (1 - bar[i])
    by_hand = c_0**2 / (2 * v[i]) * ((x_0.numpy() - np.tanh(x_t)) ** 2).reshape(5, -1).mean(1)
    for loss in losses:
        np.testing.assert_allclose(loss.numpy(), by_hand, rtol=1e-8)


# --- the variance beside a mean that is kept


DATA = gaussian_data(torch.zeros(1, 1, 1), 0.04)  # 5 deviations inside [-1, 1]
MEAN = ExactDenoiser(DATA, cosine(50), FixedSmall())


def log_ratio(k):
    """The logarithm of E(x_0 - x̂_0)² over what it would be for x_0 ~ N(0, I), at level k."""
    alpha, sigma2 = float(cosine(50).levels.alpha[k]), float(cosine(50).levels.sigma[k]) ** 2
    return math.log(0.04 * (alpha**2 + sigma2) / (alpha**2 * 0.04 + sigma2))


def variance_losses(k, said, n, mean=MEAN):
    """Of each image, and the pairs of levels that were drawn; grey values as 8-bit images have them."""
    x_0 = (DATA.sample(n, generator(5)) * 127.5 + 127.5).round() / 127.5 - 1
    network = Says(torch.full((1, 1, 1, 1), said, dtype=torch.float64))
    denoiser = NetworkDenoiser(network, mean.chain, Eps(), FixedSmall())
    pairs = []

    def spy(x_0, x_t, reverse, pair, decoder):
        pairs.append(pair)
        return step_term(x_0, x_t, reverse, pair, decoder)

    with patch.object(objectives, "step_term", spy):
        loss = VarianceBound(mean).at(denoiser, x_0, torch.tensor([k] * n), generator(6))
    return loss, network.y, pairs[0]


@pytest.mark.parametrize("k", [6, 12, 20])
def test_the_expected_variance_bound_is_its_closed_form_and_smallest_at_the_true_error(k):
    """½[log(v/β̃) - 1 + (β̃ + c_0² e)/v], and at data the negative log-density of a bin of 2/255."""
    n, best, losses, closed = 20_000, log_ratio(k), {}, {}
    alpha, sigma2 = float(MEAN.chain.levels.alpha[k]), float(MEAN.chain.levels.sigma[k]) ** 2
    error = 0.04 * sigma2 / (alpha**2 * 0.04 + sigma2)
    for off in (-0.3, 0.0, 0.3):
        loss, y, pair = variance_losses(k, best + off, n)
        posterior, of_x_0 = pair.posterior_variance, pair.c_0.square() * error
        v = posterior + of_x_0 * math.exp(off)
        inner = 0.5 * ((v / posterior).log() - 1 + (posterior + of_x_0) / v)
        at_data = 0.5 * ((2 * math.pi * v).log() + error / v) - math.log(2 / 255)
        closed[off] = torch.where(pair.s.sigma > 0, inner, at_data) / math.log(2)
        losses[off] = loss.detach()
        assert within(losses[off] - closed[off], 0.0)
        if off == 0:
            (gradient,) = torch.autograd.grad(loss.mean(), y)
    for off in (-0.3, 0.3):
        worse = losses[off] - losses[0.0]
        assert within(worse - (closed[off] - closed[0.0]), 0.0)
        assert float(worse.mean()) > 5 * float(worse.std()) / math.sqrt(n)
    # The gradient where it is zero in expectation, beside what 0.3 to either side make of it.
    sides = [abs(float((losses[off] - losses[0.0]).mean())) / 0.15 for off in (-0.3, 0.3)]
    assert abs(float(gradient)) < 0.2 * min(sides)


def test_the_steps_of_the_variance_bound_are_log_uniform_in_length_and_cut_at_data():
    T = 50
    _, _, pair = variance_losses(T, 0.0, 20_000)
    s, t = MEAN.chain.index(pair.t), (pair.s.time * T).round().long()
    length = s - t
    assert bool((s == T).all())
    # ⌊50^u⌋ is d where u is between the logarithms of d and d + 1.
    d = np.arange(1, T)
    expected = np.diff(np.log(np.append(d, T))) / math.log(T)
    counts = torch.bincount(length, minlength=T)[1:].numpy()
    assert counts.sum() == 20_000
    assert stats.chisquare(counts, 20_000 * expected).pvalue > 1e-3
    _, _, pair = variance_losses(8, 0.0, 20_000)
    at_data = int((pair.s.sigma == 0).sum())
    assert stats.binomtest(at_data, 20_000, 1 - math.log(8) / math.log(T)).pvalue > 1e-3


def test_the_variance_bound_trains_the_variance_alone():
    mean = NetworkDenoiser(Line(0.4), MEAN.chain, X0(), FixedSmall())
    for kept in (mean, Clipped(mean)):
        loss, y, _ = variance_losses(20, 0.0, 50, kept)
        loss.sum().backward()
        assert mean.network.w.grad is None
        assert y.grad is not None
        assert float(y.grad.abs()) > 1


def test_the_variance_bound_of_a_clipped_mean_is_of_the_clipped_error():
    """At data the variance is that of the error alone, which for 3 · x_t is another when clipped."""
    free = NetworkDenoiser(Line(3.0), MEAN.chain, X0(), FixedSmall())
    with torch.no_grad():
        ours, _, _ = variance_losses(50, 0.0, 400, Clipped(free))
        theirs, _, _ = variance_losses(50, 0.0, 400, free)
        said = NetworkDenoiser(Bounded(), MEAN.chain, X0(), FixedSmall())
        by_hand, _, _ = variance_losses(50, 0.0, 400, said)
    torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=0)
    assert float((theirs - ours).mean()) > 0.1


class Bounded(nn.Module):
    """The network 3 · x_t, that never leaves [-1, 1]."""

    def forward(self, x, time):
        return torch.minimum(torch.maximum(3 * x, -torch.ones_like(x)), torch.ones_like(x))
