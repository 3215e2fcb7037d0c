"""Continuous schedules: end points, the equations that define them, and their limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import Chain, linear
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.schedules import (
    VE,
    VP,
    Bridge,
    CosineSchedule,
    RectifiedFlow,
    SineSquared,
    StochasticInterpolant,
    from_log_snr,
    level_at_log_snr,
    slopes,
)

SCHEDULES = {
    "vp": VP(),
    "cosine": CosineSchedule(),
    "ve": VE(),
    "flow": RectifiedFlow(),
    "flow with sigma_min": RectifiedFlow(0.01),
    "interpolant": StochasticInterpolant(),
    "smooth interpolant": StochasticInterpolant(SineSquared(2.0)),
}
times = torch.linspace(0, 1, 41, dtype=torch.float64)


def at(schedule, t):
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return float(level.alpha), float(level.sigma)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_time_0_is_data_exactly(schedule):
    assert at(schedule, 0.0) == (1, 0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_network_is_told_the_time(schedule):
    assert torch.equal(schedule(times).time, times)


@pytest.mark.parametrize("name", ["cosine", "flow", "flow with sigma_min", "interpolant", "smooth interpolant"])
def test_cosine_and_the_straight_paths_end_at_pure_noise_exactly(name):
    assert at(SCHEDULES[name], 1.0) == (0, 1)


@pytest.mark.parametrize("schedule", [VP(), VP(0.5, 8.0), CosineSchedule()], ids=["vp", "another vp", "cosine"])
def test_vp_and_cosine_preserve_variance(schedule):
    level = schedule(times)
    total = level.alpha.square() + level.sigma.square()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (0.5, 8.0)])
def test_vp_solves_its_stochastic_differential_equation(low, high):
    """d log alpha / dt = -beta(t) / 2 and d sigma²/dt = beta(t) · (1 - sigma²) (Song et al. 2021, eq. 11)."""
    t = times[1:].clone().requires_grad_()
    level = VP(low, high)(t)
    rate = low + (high - low) * t.detach()
    (slope,) = torch.autograd.grad(level.alpha.log().sum(), t, retain_graph=True)
    torch.testing.assert_close(slope, -rate / 2, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(level.sigma.square().sum(), t)
    torch.testing.assert_close(slope, rate * level.alpha.detach().square(), rtol=1e-12, atol=0)


def test_vp_keeps_its_digits_next_to_data():
    """Sigma² = beta_min t - (beta_min² - beta_max + beta_min) t²/2 + …; 1 - exp(-x) would have no digit left here."""
    assert at(VP(), 1e-15)[1] ** 2 == pytest.approx(1e-16, rel=1e-12, abs=0)


def test_the_linear_chain_converges_to_vp_at_first_order():
    def error(T, t):
        k = round(t * T)
        return float(linear(T).alpha_bar[k].log()) - 2 * math.log(at(VP(), t)[0])

    for t in (0.25, 0.5, 1.0):
        assert abs(error(4000, t)) < 0.03
        assert error(2000, t) / error(4000, t) == pytest.approx(2, rel=0.01, abs=0)


def test_cosine_has_the_log_snr_of_the_tangent():
    """log-SNR = -2 log tan(πt/2) (Nichol & Dhariwal 2021 without the offset; Kingma & Gao 2023)."""
    t = times[1:-1]
    expected = torch.tensor([-2 * math.log(math.tan(math.pi * float(x) / 2)) for x in t], dtype=torch.float64)
    torch.testing.assert_close(CosineSchedule()(t).log_snr, expected, rtol=1e-12, atol=1e-14)


def test_ve_has_karras_s_grid_between_its_end_points():
    """Karras et al. 2022, eq. 5 at N = 18, which counts from the largest sigma down."""
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    grid = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n - 1)]
    t = [1 - i / (n - 1) for i in range(n - 1)]
    assert [at(VE(), x)[1] for x in t] == pytest.approx(grid, rel=1e-12, abs=0)
    assert {at(VE(), x)[0] for x in t} == {1}


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.01, 50.0, 1.0)])
def test_ve_ends_at_sigma_max_falls_to_sigma_min_and_is_data_at_0(low, high, rho):
    schedule = VE(low, high, rho)
    assert at(schedule, 1.0)[1] == pytest.approx(high, rel=1e-14, abs=0)
    assert at(schedule, 1e-18)[1] == pytest.approx(low, rel=1e-12, abs=0)
    assert at(schedule, 0.0)[1] == 0


@settings(deadline=None)
@given(st.floats(0, 1))
def test_flow_is_the_straight_line(t):
    assert at(RectifiedFlow(), t) == (1 - t, t)


@settings(deadline=None)
@given(st.floats(-600, 600))
def test_a_level_of_a_log_snr_has_it_and_preserves_variance(log_snr):
    level = from_log_snr(torch.tensor(log_snr, dtype=torch.float64), torch.tensor(0.5))
    assert float(level.log_snr) == pytest.approx(log_snr, rel=1e-14, abs=1e-14)
    assert float(level.alpha**2 + level.sigma**2) == pytest.approx(1, rel=1e-15, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_chain_of_a_schedule_has_its_levels_at_equal_times(schedule):
    levels = Chain.from_schedule(schedule, 8).levels
    for k in range(9):
        assert (float(levels.alpha[k]), float(levels.sigma[k])) == pytest.approx(at(schedule, k / 8), rel=1e-15, abs=0)


@settings(deadline=None)
@given(st.floats(1e-6, 1), st.floats(0, 0.9))
def test_the_optimal_transport_path_is_lipman_s_in_reversed_time(t, sigma_min):
    """Mean s·x_1 and standard deviation 1 - (1 - sigma_min) s at s = 1 - t (Lipman et al. 2022, eq. 20)."""
    s = 1 - t
    assert at(RectifiedFlow(sigma_min), t) == pytest.approx((s, 1 - (1 - sigma_min) * s), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("sigma_min", [-0.1, 1.0, math.nan])
def test_a_straight_path_without_room_for_noise_is_refused(sigma_min):
    with pytest.raises(InputError, match="sigma_min"):
        RectifiedFlow(sigma_min)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 4))
def test_the_interpolant_s_two_noises_have_the_variance_of_its_one(t, a):
    """Var(t z + gamma z') = t² + gamma², with gamma² = a t (1 - t) and with gamma = a sin²(πt)."""
    alpha, sigma = at(StochasticInterpolant(Bridge(a)), t)
    assert (alpha, sigma**2) == pytest.approx((1 - t, t**2 + a * t * (1 - t)), rel=1e-12, abs=1e-15)
    sigma = at(StochasticInterpolant(SineSquared(a)), t)[1]
    assert sigma**2 == pytest.approx(t**2 + (a * math.sin(math.pi * t) ** 2) ** 2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("gamma_squared", [Bridge(), SineSquared(1.5)])
def test_the_slope_of_gamma_is_the_derivative_of_its_formula(gamma_squared):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    gamma, slope = StochasticInterpolant(gamma_squared).gamma(t)
    if isinstance(gamma_squared, Bridge):
        expected = (2 * t * (1 - t)).sqrt()
        of_slope = (1 - 2 * t) / expected
    else:
        expected = 1.5 * (math.pi * t).sin().square()
        of_slope = 1.5 * math.pi * (2 * math.pi * t).sin()
    torch.testing.assert_close(gamma, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slope, of_slope, rtol=1e-11, atol=1e-13)


def test_a_gamma_that_is_not_zero_at_both_ends_is_refused():
    with pytest.raises(InputError, match="zero at both ends"):
        StochasticInterpolant(lambda t: t)


def test_a_gamma_that_is_zero_at_the_ends_to_rounding_makes_a_chain():
    def rounded(t):  # sin(π) is 1.2e-16 in float64
        return (math.pi * t).sin().square().square()

    ours, exact = (Chain.from_schedule(StochasticInterpolant(each), 20) for each in (rounded, SineSquared(1.0)))
    torch.testing.assert_close(ours.levels.sigma, exact.levels.sigma, rtol=1e-12, atol=1e-15)
    assert float(ours.levels.sigma[0]) == 0


@pytest.mark.parametrize(("square", "where"), [(-3.0, "t = 0.001"), (math.nan, "zero at both ends")])
def test_a_gamma_whose_square_is_below_zero_is_refused_with_the_time(square, where):
    with pytest.raises(InputError, match=where) as caught:
        StochasticInterpolant(lambda t: square * t * (1 - t))
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(("bend", "falls"), [(Bridge(40.0), True), (SineSquared(2.0), True), (SineSquared(4.0), False)])
def test_an_interpolant_is_a_chain_where_its_noise_rises_against_its_data(bend, falls):
    if falls:
        Chain.from_schedule(StochasticInterpolant(bend), 500)
    else:
        with pytest.raises(InputError, match="less noise"):
            Chain.from_schedule(StochasticInterpolant(bend), 500)


SLOPES = {
    "vp": lambda t, alpha, sigma: (-alpha * (0.1 + 19.9 * t) / 2, alpha**2 * (0.1 + 19.9 * t) / (2 * sigma)),
    "cosine": lambda t, alpha, sigma: (-math.pi / 2 * sigma, math.pi / 2 * alpha),
    "ve": lambda t, alpha, sigma: (0 * t, 7 * (80 ** (1 / 7) - 0.002 ** (1 / 7)) * sigma ** (6 / 7)),
    "flow": lambda t, alpha, sigma: (-(t**0), t**0),
    "flow with sigma_min": lambda t, alpha, sigma: (-(t**0), 0.99 * t**0),
    "interpolant": lambda t, alpha, sigma: (-(t**0), (1 - t) / sigma),
    "smooth interpolant": lambda t, alpha, sigma: (
        -(t**0),
        (t + 4 * math.pi * (math.pi * t).sin() ** 2 * (2 * math.pi * t).sin()) / sigma,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_slopes_of_a_path_are_those_of_its_formula(name, context):
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    level = SCHEDULES[name](t)
    with context():
        found = slopes(SCHEDULES[name], t.clone())
    for ours, expected in zip(found, SLOPES[name](t, level.alpha, level.sigma), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        assert not ours.requires_grad


@pytest.mark.parametrize("name", ["vp", "interpolant"])
def test_a_path_that_is_vertical_has_no_finite_slope(name):
    assert not bool(slopes(SCHEDULES[name], torch.zeros((), dtype=torch.float64))[1].isfinite())


@settings(deadline=None)
@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0.02, 0.98))
def test_the_level_of_a_log_snr_is_the_one_of_the_time_that_has_it(name, t):
    known = SCHEDULES[name](torch.tensor(t, dtype=torch.float64))
    found = level_at_log_snr(SCHEDULES[name], known.log_snr)
    for part in ("alpha", "sigma", "time"):
        assert float(getattr(found, part)) == pytest.approx(float(getattr(known, part)), rel=1e-11, abs=0)


def test_the_ends_of_a_path_are_found_by_their_infinite_log_snr():
    found = level_at_log_snr(RectifiedFlow(), torch.tensor([math.inf, -math.inf]))
    assert (found.alpha.tolist(), found.sigma.tolist(), found.time.tolist()) == ([1, 0], [0, 1], [0, 1])


@pytest.mark.parametrize("path", [VP(0.05, 30.0), CosineSchedule(), RectifiedFlow(), StochasticInterpolant()])
def test_a_chain_along_another_path_has_its_signal_to_noise_ratios_and_that_path_s_levels(path):
    chain = linear(50)
    there = chain.along(path)
    torch.testing.assert_close(there.levels.log_snr, chain.levels.log_snr, rtol=1e-13, atol=0)
    exact = there.schedule(there.levels.time)
    torch.testing.assert_close(there.levels.alpha, exact.alpha, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(there.levels.sigma, exact.sigma, rtol=1e-10, atol=1e-12)


def test_a_chain_to_pure_noise_goes_along_a_path_to_pure_noise_alone():
    flow = Chain.from_schedule(RectifiedFlow(), 20)
    there = flow.along(CosineSchedule())
    assert (float(there.levels.alpha[-1]), float(there.levels.time[-1])) == (0, 1)
    with pytest.raises(InputError, match=r"falls from 5\.889 to -inf, and that of the path"):
        flow.along(VP())


def test_a_path_that_leaps_over_a_chain_s_first_level_is_refused():
    with pytest.raises(InputError, match="begins with less noise"):
        Chain.from_schedule(CosineSchedule(), 1000).along(RectifiedFlow(0.1))


def test_any_function_of_time_is_a_schedule():
    """Alpha = (1 - t)², sigma = t³: slopes -2 (1 - t) and 3 t²."""

    def own(t):
        return Level((1 - t).square(), t**3, t)

    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    a, b = slopes(own, t)
    torch.testing.assert_close(a, -2 * (1 - t), rtol=1e-14, atol=0)
    torch.testing.assert_close(b, 3 * t.square(), rtol=1e-14, atol=0)
    assert Chain.from_schedule(own, 10).schedule is own
