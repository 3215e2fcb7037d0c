"""Targets: one row y = a·x_0 + b·eps each, and one 2 × 2 solve for all (MATH.md, section 3)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import Chain, cosine, linear
from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.process import marginal, posterior
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow, StochasticInterpolant
from clearwater.targets import (
    X0,
    Eps,
    Mean,
    PathVelocity,
    Prediction,
    Score,
    V,
    Velocity,
    prediction_from_x_0,
    velocity,
)

CHAINS = {
    "linear": linear(1000),
    "cosine": cosine(1000),
    "ve": Chain.from_schedule(VE(), 50),
    "flow": Chain.from_schedule(RectifiedFlow(), 50),
    "zero snr": Chain.from_schedule(CosineSchedule(), 50),
    "vp": Chain.from_schedule(VP(), 50),
    "sigma_min": Chain.from_schedule(RectifiedFlow(0.01), 50),
    "interpolant": Chain.from_schedule(StochasticInterpolant(), 50),
}
TARGETS = {
    "eps": Eps(),
    "x_0": X0(),
    "v": V(),
    "score": Score(),
    "velocity": Velocity(),
    "mean": Mean,
    "path velocity": PathVelocity,
}
every_chain = pytest.mark.parametrize("levels", CHAINS.values(), ids=CHAINS.keys())
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())


def images(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(2, n, 2, 2, dtype=torch.float64, generator=generator)


def per_image(x):
    return x.reshape(-1, 1, 1)


@every_chain
@every_target
def test_solving_the_value_gives_x_0_and_eps_back_at_every_level(levels, target):
    if target is Mean:
        target = Mean(levels)
    if target is PathVelocity:
        # A table is on no path; that of its signal-to-noise ratios along a flow is.
        levels = levels if levels.schedule is not None else levels.along(RectifiedFlow())
        target = PathVelocity(levels.schedule)
    last = levels.T
    if isinstance(target, Eps | Score) and float(levels.levels.alpha[-1]) == 0:
        last -= 1  # these say nothing about x_0 at zero SNR: refused, see below
    t = levels.levels[1 : last + 1]
    x_0, eps = images(last)
    solved = target.solve(t.noise(x_0, eps), target.value(x_0, eps, t), t)
    # Rounding of y and x_t, as the inverse of the matrix amplifies it.
    a, b = target.row(t)
    det = t.alpha * b - t.sigma * a
    rounding = 1e-15 * (1 + (a.abs() + b.abs()) * (t.alpha + t.sigma) / det.abs()) * 8
    size = float(x_0.abs().max())
    in_x_0 = per_image(rounding * (1 + (b.abs() + t.sigma) / det.abs())) * size
    in_eps = per_image(rounding * (1 + (a.abs() + t.alpha) / det.abs())) * size
    assert bool(((solved.x_0 - x_0).abs() <= in_x_0).all())
    assert bool(((solved.eps - eps).abs() <= in_eps).all())


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 3), st.floats(-2, 2), st.floats(-2, 2))
def test_the_rows_are_those_of_the_table(alpha, sigma, x_0, eps):
    t = Level(*torch.tensor([alpha, sigma, 0.5], dtype=torch.float64))
    expected = {
        Eps(): eps,
        X0(): x_0,
        V(): alpha * eps - sigma * x_0,
        Score(): -eps / sigma,
        Velocity(): eps - x_0,
    }
    for target, y in expected.items():
        value = target.value(*torch.tensor([[[x_0]], [[eps]]], dtype=torch.float64), t)
        assert float(value) == pytest.approx(y, rel=1e-14, abs=1e-14), type(target).__name__


@every_chain
def test_score_is_the_gradient_of_the_log_density_of_the_marginal(levels):
    t = levels.levels[1:]
    x_0, eps = images(levels.T)
    x_t = t.noise(x_0, eps).requires_grad_()
    (gradient,) = torch.autograd.grad(marginal(x_0, t).log_prob(x_t).sum(), x_t)
    # x_t - alpha x_0 loses digits where sigma is small against x_0.
    slack = per_image(1e-14 * (1 + 1 / t.sigma) ** 2) * 10
    assert bool(((Score().value(x_0, eps, t) - gradient).abs() <= slack).all())


def test_v_is_the_velocity_along_the_variance_preserving_circle():
    """With alpha = cos φ and sigma = sin φ, v = dx_t/dφ (Salimans & Ho 2022, appendix D); here φ = πt/2."""
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    x_0, eps = images(11)

    def x_at(time):
        return CosineSchedule()(time).noise(x_0, eps)

    _, slope = torch.autograd.functional.jvp(x_at, time, torch.ones_like(time))
    v = V().value(x_0, eps, CosineSchedule()(time))
    torch.testing.assert_close(v, slope * 2 / math.pi, rtol=1e-13, atol=1e-13)


def test_velocity_is_the_slope_of_the_straight_path():
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    x_0, eps = images(11)
    _, slope = torch.autograd.functional.jvp(
        lambda time: RectifiedFlow()(time).noise(x_0, eps), time, torch.ones_like(time)
    )
    torch.testing.assert_close(Velocity().value(x_0, eps, RectifiedFlow()(time)), slope, rtol=1e-14, atol=1e-14)


@every_chain
def test_mean_is_the_mean_of_the_posterior_at_every_step_of_its_chain(levels):
    x_0, eps = images(levels.T)
    pairs = levels.pairs
    expected = posterior(pairs.t.noise(x_0, eps), x_0, pairs).mean
    torch.testing.assert_close(Mean(levels).value(x_0, eps, pairs.t), expected, rtol=1e-11, atol=1e-12)


def test_mean_has_ho_s_equation_8_in_x_t_and_eps():
    levels = linear(1000)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    x_0, eps = images(1000)
    x_t = per_image(alpha_bar.sqrt()) * x_0 + per_image((1 - alpha_bar).sqrt()) * eps
    expected = (x_t - per_image(beta / (1 - alpha_bar).sqrt()) * eps) / per_image((1 - beta).sqrt())
    torch.testing.assert_close(Mean(levels).value(x_0, eps, levels.levels[1:]), expected, rtol=1e-11, atol=1e-11)


def test_mean_on_a_stride_of_its_chain_is_still_that_of_the_full_chain():
    levels = linear(1000)
    of_stride, k = levels.strided(10).levels[1:], torch.arange(100, 1001, 100)
    of_chain = levels.levels[k]
    for theirs, ours in zip(Mean(levels).row(of_stride), Mean(levels).row(of_chain), strict=True):
        assert torch.equal(theirs, ours)


def test_mean_works_at_a_single_level_as_in_a_batch():
    levels = linear(100)
    row = torch.stack(Mean(levels).row(levels.levels[1:]))
    for k in (1, 50, 100):
        assert torch.stack(Mean(levels).row(levels.levels[k])).tolist() == row[:, k - 1].tolist()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(linear(1000).levels[0], id="data"),
        pytest.param(cosine(1000).levels[500], id="another chain"),
        pytest.param(linear(999).levels[500], id="another length"),
        pytest.param(Level(*torch.tensor([0.5, 0.8, 1.001])), id="after the end"),
        pytest.param(linear(1000).levels[torch.tensor([5, 0])], id="data in a batch"),
    ],
)
def test_mean_is_refused_off_its_chain(level):
    with pytest.raises(InputError, match="its own chain"):
        Mean(linear(1000)).row(level)


@pytest.mark.parametrize("target", [Eps(), Score()], ids=["eps", "score"])
@pytest.mark.parametrize("k", [10, [3, 10]], ids=["alone", "in a batch"])
def test_noise_targets_are_refused_at_zero_terminal_snr(target, k):
    t = Chain.from_schedule(CosineSchedule(), 10).levels[torch.tensor(k)]
    x_t = torch.ones(2, 1)
    with pytest.raises(InputError, match="use V"):
        target.solve(x_t, x_t, t)


@pytest.mark.parametrize("target", [X0(), Score()], ids=["x_0", "score"])
def test_targets_that_divide_by_sigma_are_refused_at_data(target):
    x_t = torch.ones(1, 1)
    with pytest.raises(InputError, match="says nothing"):
        target.solve(x_t, x_t, linear(100).levels[0])


@pytest.mark.parametrize("target", [V(), Velocity()], ids=["v", "velocity"])
def test_v_and_velocity_say_everything_at_both_ends(target):
    """Data is x_t at level 0 and noise is x_t at zero SNR; y holds the other one."""
    levels = Chain.from_schedule(CosineSchedule(), 10).levels
    x_0, eps = images(1)
    for t in (levels[0], levels[10]):
        solved = target.solve(t.noise(x_0, eps), target.value(x_0, eps, t), t)
        torch.testing.assert_close(solved.x_0, x_0, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(solved.eps, eps, rtol=1e-14, atol=1e-14)


@every_chain
def test_a_prediction_of_a_given_x_0_lies_on_x_t(levels):
    t = levels.levels[1:]
    x_0, eps = images(levels.T)
    x_t = t.noise(x_0, eps)
    other = x_0.clamp(-1, 1)
    prediction = prediction_from_x_0(other, x_t, t)
    assert torch.equal(prediction.x_0, other)
    torch.testing.assert_close(t.noise(prediction.x_0, prediction.eps), x_t, rtol=1e-12, atol=1e-12)
    # eps itself keeps fewer digits where sigma is small.
    same = prediction_from_x_0(x_0, x_t, t).eps
    assert bool(((same - eps).abs() <= per_image(1e-14 * (1 + 1 / t.sigma))).all())


def test_channels_beyond_the_image_s_are_kept_apart():
    t = linear(100).levels[50]
    generator = torch.Generator().manual_seed(0)
    x_t, y, beyond = torch.randn(3, 2, 3, 4, 4, generator=generator)
    for target in (Eps(), V(), Mean(linear(100))):
        plain, doubled = target.solve(x_t, y, t), target.solve(x_t, torch.cat([y, beyond], 1), t)
        assert torch.equal(plain.x_0, doubled.x_0)
        assert torch.equal(plain.eps, doubled.eps)
        assert torch.equal(doubled.extra, beyond)
        assert plain.extra is None


def test_a_step_from_the_mean_target_is_the_step_of_the_posterior():
    """Solving Mean for x_0 and putting it into the posterior gives the network's mean back."""
    levels = linear(1000)
    for k in (1, 2, 30, 1000):
        pair = levels.pair(k)
        x_t, y = images(4)
        x_0 = Mean(levels).solve(x_t, y, pair.t).x_0
        torch.testing.assert_close(posterior(x_t, x_0, Pair(pair.s, pair.t)).mean, y, rtol=1e-9, atol=1e-9)


PATHS = [CHAINS[name] for name in ("ve", "flow", "zero snr", "vp", "sigma_min", "interpolant")]


def test_the_velocity_of_a_path_is_what_it_is_known_as_elsewhere():
    """Velocity on the straight path, π/2 · V on the circle at its own speed, Eps on sigma = t."""
    for levels, known, factor in (
        (CHAINS["flow"], Velocity(), 1.0),
        (CHAINS["zero snr"], V(), math.pi / 2),
        (Chain.from_schedule(lambda t: Level(torch.ones_like(t), t, t), 10), Eps(), 1.0),
    ):
        t = levels.levels[1:]
        for ours, theirs in zip(PathVelocity(levels.schedule).row(t), known.row(t), strict=True):
            torch.testing.assert_close(ours, factor * theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("levels", PATHS, ids=lambda levels: type(levels.schedule).__name__)
def test_the_velocity_of_a_prediction_is_that_of_the_path(levels):
    x_0, eps = images(levels.T)
    t = levels.levels[1:]
    found = velocity(Prediction(x_0, eps), t, levels.schedule)
    assert torch.equal(found, PathVelocity(levels.schedule).value(x_0, eps, t))


@pytest.mark.parametrize("levels", PATHS, ids=lambda levels: type(levels.schedule).__name__)
def test_the_velocity_of_a_path_is_known_between_its_levels_and_in_inference_mode(levels):
    path, wanted = PathVelocity(levels.schedule), torch.tensor([-0.5, 0.3], dtype=torch.float64)
    with torch.inference_mode():
        between = levels.at_log_snr(wanted)
        *_, det = path.system(between)
    # det = -½ alpha sigma · d log_snr / dt, of the slopes alone.
    h = 1e-5
    fall = (levels.schedule(between.time + h).log_snr - levels.schedule(between.time - h).log_snr) / (2 * h)
    torch.testing.assert_close(det, -0.5 * between.alpha * between.sigma * fall, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("levels", "path"),
    [(linear(30), RectifiedFlow()), (CHAINS["flow"], CosineSchedule()), (CHAINS["flow"], RectifiedFlow(0.01))],
)
def test_the_velocity_of_a_path_is_refused_off_it(levels, path):
    with pytest.raises(InputError, match="its own path"):
        PathVelocity(path).system(levels.levels[1:])


@pytest.mark.parametrize("path", [VP(), StochasticInterpolant()], ids=["vp", "interpolant"])
def test_the_velocity_of_a_path_is_refused_where_it_is_vertical(path):
    with pytest.raises(InputError, match="vertical at a time from 0 to 0"):
        PathVelocity(path).row(path(torch.zeros(1, dtype=torch.float64)))


@pytest.mark.parametrize("path", [VE(), RectifiedFlow(0.01)], ids=["ve", "sigma_min"])
def test_the_velocity_of_a_path_is_refused_where_it_leaps_from_data(path):
    with pytest.raises(InputError, match="PathVelocity says nothing about x_0 at a level with alpha = 1, sigma = 0"):
        PathVelocity(path).system(path(torch.zeros(1, dtype=torch.float64)))
